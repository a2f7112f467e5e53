"""What inference does on a convex set: quadratic programs over it, projections, and linear minima.

    minimise ½ v'Qv + p'v   subject to   G v ≤ h,   lower ≤ v ≤ upper,   v = (y, z),   y in the set

Every program that inference meets, on any set, is of this form; the variables z are those of an epigraph.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from icnn.solvers import LP, QP, Solution, Status, solve

GROWTH = 8.0  # of the multiplier of a ball, while it is too small
SEARCH = 100  # programs to find it at most
NEAR = 1e-4  # relative distance to the sphere where the search for the multiplier ends
REFINED = 2  # Newton's steps from there
TINY = 1e-300


class Minimum(NamedTuple):
    """Minimisers (m, n + extra), multipliers of the rows and lower bounds of the program, and what the solver says."""

    x: Tensor
    lam: Tensor
    lam_lower: Tensor
    status: Tensor
    degenerate: Tensor


class Objective(NamedTuple):
    """½ v'Qv + p'v; Q (m or 1, n', n') or its diagonal (m, n'); p (m, n'); extra rows and bounds of v (m, n')."""

    Q: Tensor
    p: Tensor
    G: Tensor | None = None
    h: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None


class Region(ABC):
    """The set of each of m instances, in R^n."""

    @abstractmethod
    def minimise(self, objective: Objective) -> Minimum:
        """The minimiser over the set, differentiable in the objective and in the data of the set; no failure raises."""

    @abstractmethod
    def project(self, y: Tensor) -> Tensor:
        """The nearest point of the set, (m, n); differentiable."""

    @abstractmethod
    def lowest(self, slope: Tensor) -> Tensor:
        """The minimum of slope'y over the set, (m,); -inf where there is none."""

    @abstractmethod
    def middle(self) -> Tensor:
        """A point to start from, (m, n)."""

    @abstractmethod
    def empty(self) -> Tensor:
        """Whether there is no point, (m,)."""

    @property
    def thrifty(self) -> bool:
        """Whether a linear minimum costs a linear program."""
        return False

    @abstractmethod
    def radius(self) -> Tensor:
        """A length to measure steps with, (m, 1)."""

    @abstractmethod
    def at(self, index: Tensor) -> "Region":
        """The sets of some of the instances."""


@dataclass(frozen=True, eq=False)
class Polyhedron(Region):
    """{y : G y ≤ h, A y = b, lower ≤ y ≤ upper}; G and A (m or 1, rows, n), the others one row per instance."""

    lower: Tensor
    upper: Tensor
    G: Tensor | None = None
    h: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("G", "A"):
            M = getattr(self, name)
            if M is not None and not M.shape[-2]:
                object.__setattr__(self, name, None)
                object.__setattr__(self, {"G": "h", "A": "b"}[name], None)

    @property
    def is_box(self) -> bool:
        return self.G is None and self.A is None

    @property
    def thrifty(self) -> bool:
        return not self.is_box

    def minimise(self, objective: Objective) -> Minimum:
        Q, p, G, h, lower, upper = objective
        extra = p.shape[-1] - self.lower.shape[-1]
        lower, upper = _joined(self.lower, lower, extra, -torch.inf), _joined(self.upper, upper, extra, torch.inf)
        own, count = None if self.G is None else pad(self.G, (0, extra)), 0 if h is None else h.shape[-1]
        rows, right = _below(G, own, len(p), -2), _below(h, self.h, len(p), -1)
        A, b = (None, None) if self.A is None else (pad(self.A, (0, extra)), self._b)
        if Q.dim() == 2 and not Q.requires_grad and not Q.any():  # no derivative in the cost: a vertex stays
            program = LP(p.detach(), rows, right, A, b, lower, upper)
            return _minimum(solve(program, on_failure="zero"), count)
        Q = torch.diag_embed(Q) if Q.dim() == 2 and Q.shape[0] == Q.shape[1] else Q  # as vectors they read as a matrix
        program = QP(Q, p, rows, right, A, b, lower, upper)
        return _minimum(solve(program, on_failure="zero"), count)

    def project(self, y: Tensor) -> Tensor:
        if self.is_box:
            return y.clamp(self.lower, self.upper)
        return self.minimise(Objective(torch.ones_like(y), -y)).x

    def lowest(self, slope: Tensor) -> Tensor:
        if self.is_box:
            ends = torch.where(slope > 0, self.lower, self.upper)
            return torch.where(slope == 0, 0.0, slope * ends).sum(-1)
        found = self.minimise(Objective(torch.zeros_like(slope), slope))
        value = torch.linalg.vecdot(slope, found.x)
        return torch.where(found.status == Status.OPTIMAL, value, -torch.inf)

    def middle(self) -> Tensor:
        lower, upper = self.lower.detach(), self.upper.detach()
        if self.is_box:
            middle = 0.5 * (lower + upper)
            return torch.where(middle.isfinite(), middle, torch.zeros_like(middle).clamp(lower, upper))
        nearest = self.minimise(Objective(torch.ones_like(lower), torch.zeros_like(lower)))
        return nearest.x.detach()

    def empty(self) -> Tensor:
        crossed = (self.lower > self.upper).any(-1)
        if self.is_box:
            return crossed
        nearest = self.minimise(Objective(torch.ones_like(self.lower), torch.zeros_like(self.lower)))
        return crossed | (nearest.status == Status.PRIMAL_INFEASIBLE)

    def radius(self) -> Tensor:
        width = (self.upper - self.lower).detach()
        finite = width.isfinite()
        size = torch.where(finite, width, 0.0).norm(dim=-1, keepdim=True)
        if self.b is not None and not finite.any():
            size = self._b.detach().norm(dim=-1, keepdim=True)
        return torch.where(size > 0, size, 1.0)

    def at(self, index: Tensor) -> "Polyhedron":
        parts = {name: getattr(self, name) for name in ("lower", "upper", "G", "h", "A", "b")}
        m = len(self.lower)
        return replace(self, **{n: t if t is None or len(t) != m else t[index] for n, t in parts.items()})

    @property
    def _b(self) -> Tensor:
        assert self.b is not None
        return self.b.unsqueeze(-1) if self.b.dim() == 1 else self.b


@dataclass(frozen=True, eq=False)
class Corner(Polyhedron):
    """{y ≥ 0 : Σ y = total}, given as such a polyhedron: its vertices are known."""

    def lowest(self, slope: Tensor) -> Tensor:
        return self._b.squeeze(-1) * slope.amin(-1)

    def middle(self) -> Tensor:
        return (self._b / self.lower.shape[-1]).expand(self.lower.shape).detach()

    def empty(self) -> Tensor:
        return self._b.squeeze(-1) < 0

    @property
    def thrifty(self) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class BallRegion(Region):
    """{y : |y - centre| ≤ radius}; radius (m,), centre (m, n).

    A program over a ball is one without it and with μ/2 |y - centre|² more, μ ≥ 0 its multiplier: zero where that
    minimiser is inside, else such that it lies on the sphere. The distance falls with μ, and its inverse is nearly
    linear in μ (Moré, Sorensen 1983, Computing a trust region step).
    """

    length: Tensor
    centre: Tensor

    def minimise(self, objective: Objective) -> Minimum:
        with torch.no_grad():
            mu, y = self._multiplier(objective)
            for _ in range(REFINED):
                found, mu = self._held(objective, mu, y)
                y = found.x[:, : y.shape[-1]]
        return self._held(objective, mu, y)[0]

    def project(self, y: Tensor) -> Tensor:
        away = y - self.centre
        distance = away.norm(dim=-1, keepdim=True)
        length = self.length.unsqueeze(-1)
        return torch.where(distance > length, self.centre + away * (length / distance.clamp_min(TINY)), y)

    def lowest(self, slope: Tensor) -> Tensor:
        return torch.linalg.vecdot(slope, self.centre) - self.length * slope.norm(dim=-1)

    def middle(self) -> Tensor:
        return self.centre.detach()

    def empty(self) -> Tensor:
        return self.length < 0

    def radius(self) -> Tensor:
        return self.length.detach().unsqueeze(-1)

    def at(self, index: Tensor) -> "BallRegion":
        return BallRegion(self.length[index], self.centre[index])

    def _everywhere(self, objective: Objective, mu: Tensor) -> Minimum:
        """The minimiser of the objective plus μ/2 |y - centre|² over all of space."""
        Q, p = objective.Q, objective.p
        weight = mu.unsqueeze(-1) * torch.ones_like(self.centre)
        shifted = torch.cat((p[:, : weight.shape[-1]] - weight * self.centre, p[:, weight.shape[-1] :]), -1)
        weight = pad(weight, (0, p.shape[-1] - weight.shape[-1]))
        curved = Q + weight if Q.dim() < 3 else Q + torch.diag_embed(weight)
        free = torch.full_like(self.centre, torch.inf)
        return Polyhedron(-free, free).minimise(objective._replace(Q=curved, p=shifted))

    def _excess(self, objective: Objective, mu: Tensor) -> tuple[Tensor, Tensor]:
        """(1/radius - 1/distance, y): negative inside, zero on the sphere; positive where there is no minimiser."""
        found = self._everywhere(objective, mu)
        y = found.x[:, : self.centre.shape[-1]]
        distance = (y - self.centre).norm(dim=-1)
        excess = 1 / self.length - 1 / distance
        return torch.where(found.status == Status.OPTIMAL, excess, 1 / self.length), y

    def _multiplier(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """μ (m,), and y there: regula falsi with the Illinois rule in a bracket that grows from the cost."""
        low = torch.zeros_like(self.length)
        at_low, y = self._excess(objective, low)
        inside = at_low <= 0
        high = objective.p.abs().amax(-1) / self.length + 1e-3
        at_high, y_high = self._excess(objective, high)
        for _ in range(SEARCH):
            if not ((at_high > 0) & ~inside).any():
                break
            outside = (at_high > 0) & ~inside
            low, at_low = torch.where(outside, high, low), torch.where(outside, at_high, at_low)
            high = torch.where(outside, GROWTH * high, high)
            at_high, y_high = self._excess(objective, high)
        mu, y = torch.where(inside, low, high), torch.where(inside.unsqueeze(-1), y, y_high)
        done = inside
        for _ in range(SEARCH):
            middle = (low * at_high - high * at_low) / (at_high - at_low)
            sound = (middle > low) & (middle < high)
            middle = torch.where(sound, middle, 0.5 * (low + high))
            trial, point = self._excess(objective, torch.where(done, mu, middle))
            mu = torch.where(done, mu, middle)
            y = torch.where(done.unsqueeze(-1), y, point)
            done = done | (trial.abs() * self.length <= NEAR) | (high - low <= 1e-15 * high)
            if done.all():
                break
            outside = trial > 0
            at_low, at_high = (
                torch.where(outside, trial, at_low * 0.5),
                torch.where(outside, at_high * 0.5, trial),
            )
            low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
        return torch.where(inside, 0.0, mu), y

    def _held(self, objective: Objective, mu: Tensor, y: Tensor) -> tuple[Minimum, Tensor]:
        """Newton's step from (y, μ), with the sphere as the row that touches it below y: the minimiser and its μ.

        At the solution the step is zero, and differentiable in all data.
        """
        Q, p, G, h, lower, upper = objective
        extra, centre, radius = p.shape[-1] - y.shape[-1], self.centre.detach(), self.length.detach()
        away = y - centre
        away = away * (radius / torch.linalg.vector_norm(away, dim=-1).clamp_min(TINY)).unsqueeze(-1)
        away = torch.where((mu > 0).unsqueeze(-1), away, y - centre)
        weight = pad(mu.unsqueeze(-1) * torch.ones_like(y), (0, extra))
        curved = Q + weight if Q.dim() < 3 else Q + torch.diag_embed(weight)
        p = p - pad(mu.unsqueeze(-1) * (away + self.centre), (0, extra))
        right = torch.linalg.vecdot(away, self.centre) + radius * self.length
        right = torch.where(mu > 0, right, torch.inf).unsqueeze(-1)
        row = pad(away, (0, extra)).unsqueeze(-2)
        rows = row if G is None else torch.cat((G.expand(len(p), -1, -1), row), -2)
        right = right if h is None else torch.cat((h, right), -1)
        free = torch.full_like(y, torch.inf)
        found = Polyhedron(-free, free).minimise(Objective(curved, p, rows, right, lower, upper))
        return found._replace(lam=found.lam[:, :-1]), found.lam[:, -1] * (mu > 0)


def _joined(end: Tensor, own: Tensor | None, extra: int, free: float) -> Tensor:
    """The bounds of y and those of `extra` more variables, the last ones of `own`."""
    if not extra:
        return end
    return torch.cat((end, end.new_full((len(end), extra), free) if own is None else own[:, -extra:]), -1)


def _below(first: Tensor | None, second: Tensor | None, m: int, dim: int) -> Tensor | None:
    """Rows of a program and rows of the set, for m instances where there are both."""
    if first is None or second is None:
        return second if first is None else first
    return torch.cat([part.expand(m, *part.shape[1:]) for part in (first, second)], dim)


def _minimum(solution: Solution, rows: int) -> Minimum:
    return Minimum(solution.x, solution.lam[:, :rows], solution.lam_lower, solution.status, solution.degenerate)
