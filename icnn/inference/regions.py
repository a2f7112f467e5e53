"""What inference does on a convex set: quadratic programs over it, projections, and linear minima.

    minimise ½ v'Qv + p'v   subject to   G v ≤ h,   lower ≤ v ≤ upper,   v = (y, z),   y in the set

Every program that inference meets, on any set, is of this form; the variables z are those of an epigraph.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from icnn.solvers import LP, QP, Solution, Status, solve

OnFailure = Literal["raise", "nan", "zero"]


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
    def minimise(self, objective: Objective, on_failure: OnFailure = "zero") -> Minimum:
        """The minimiser over the set, differentiable in the objective and in the data of the set."""

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

    def minimise(self, objective: Objective, on_failure: OnFailure = "zero") -> Minimum:
        Q, p, G, h, lower, upper = objective
        extra = p.shape[-1] - self.lower.shape[-1]
        lower, upper = _joined(self.lower, lower, extra, -torch.inf), _joined(self.upper, upper, extra, torch.inf)
        own, count = None if self.G is None else pad(self.G, (0, extra)), 0 if h is None else h.shape[-1]
        rows, right = _below(G, own, len(p), -2), _below(h, self.h, len(p), -1)
        A, b = (None, None) if self.A is None else (pad(self.A, (0, extra)), self._b)
        if Q.dim() == 2 and not Q.requires_grad and not Q.any():  # no derivative in the cost: a vertex stays
            program = LP(p.detach(), rows, right, A, b, lower, upper)
            return _minimum(solve(program, on_failure=on_failure), count)
        Q = torch.diag_embed(Q) if Q.dim() == 2 and Q.shape[0] == Q.shape[1] else Q  # as vectors they read as a matrix
        program = QP(Q, p, rows, right, A, b, lower, upper)
        return _minimum(solve(program, on_failure=on_failure), count)

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
