"""φ over a set, as methods of inference see it.

A method never sees the set or φ by themselves. It asks for the minimiser of a model, for a step, or for a bound, and
gets those of the regularised problem: `Euclidean` for φ = ρ/2 |y − y₀|² (ρ = 0: none), `Entropic` for an entropy.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from icnn.solvers import QP, EntropyBundle, solve

from .regions import Objective, OnFailure, Polyhedron, Region

TINY = torch.finfo(torch.float64).tiny
NEAR = 1e-7  # of a point to its set


class Model(NamedTuple):
    """The minimisers y (m, n) of max_i (g_i'y + o_i) + φ(y), that maximum (m,), and the multipliers of the cuts."""

    y: Tensor
    value: Tensor
    lam: Tensor
    status: Tensor
    degenerate: Tensor


class Regularized(ABC):
    """φ over the set of each of m instances."""

    @property
    def proofs(self) -> int:
        """After how many steps a bound that `lowest` gives is worth its price."""
        return 1

    @abstractmethod
    def value(self, y: Tensor) -> Tensor:
        """φ(y), (m,)."""

    @torch.no_grad()
    def proved(self, y: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        """The bound from below, (m,), that the tangent of f at y proves."""
        return value - torch.linalg.vecdot(slope, y) + self.lowest(slope)

    @abstractmethod
    def lowest(self, slope: Tensor) -> Tensor:
        """min slope'y + φ(y), (m,): with an offset, what a tangent of f proves."""

    @abstractmethod
    def cut_model(self, G: Tensor, o: Tensor, on_failure: OnFailure = "zero") -> Model:
        """The minimiser over the maximum of the cuts G (m, k, n), o (m, k); differentiable; -inf in o: absent."""

    @abstractmethod
    def newton_step(self, y: Tensor, slope: Tensor, H: Tensor, on_failure: OnFailure = "zero") -> tuple[Tensor, Tensor]:
        """The minimiser of slope'v + ½ (v - y)'H(v - y) and φ, to second order in y, and its status; differentiable."""

    @abstractmethod
    def coordinates(self, y: Tensor) -> Tensor:
        """Where steps are made: y itself, or its logits."""

    @abstractmethod
    def point(self, u: Tensor) -> Tensor:
        """The y of these coordinates."""

    @abstractmethod
    def step(self, u: Tensor, slope: Tensor, length: Tensor) -> Tensor:
        """From u, the minimiser of slope'y + φ(y) + D(y, y(u)) / length, in coordinates; length (m, 1)."""

    @abstractmethod
    def confine(self, u: Tensor) -> Tensor:
        """The nearest coordinates of a point of the set."""

    @abstractmethod
    def distance(self, u: Tensor, v: Tensor) -> Tensor:
        """D(y(u), y(v)), (m,), of which φ is a multiple in curvature; 1-strongly convex in its own units."""

    @abstractmethod
    def pull(self, u: Tensor, slope: Tensor) -> Tensor:
        """The whole slope, that of φ included, in the units of the coordinates."""

    @abstractmethod
    def middle(self) -> Tensor:
        """A point to start from, (m, n)."""

    @abstractmethod
    def contains(self, y: Tensor, tol: float) -> Tensor:
        """Whether y is in the set, (m,), up to a relative tolerance."""

    @abstractmethod
    def at(self, index: Tensor) -> "Regularized":
        """Some of the instances."""


@dataclass(frozen=True, eq=False)
class Euclidean(Regularized):
    """φ(y) = weight/2 |y - centre|² over any set; weight ≥ 0, centre (m, n)."""

    region: Region
    weight: float
    centre: Tensor

    @property
    def proofs(self) -> int:
        return 10 if self.region.thrifty and self.weight == 0 else 1

    def value(self, y: Tensor) -> Tensor:
        return 0.5 * self.weight * (y - self.centre).square().sum(-1)

    def lowest(self, slope: Tensor) -> Tensor:
        if self.weight == 0:
            return self.region.lowest(slope)
        y = self.region.project(self.centre - slope / self.weight)
        return torch.linalg.vecdot(slope, y) + self.value(y)

    def cut_model(self, G: Tensor, o: Tensor, on_failure: OnFailure = "zero") -> Model:
        Q = pad(torch.full_like(self.centre, self.weight), (0, 1))
        p = torch.cat((-self.weight * self.centre, torch.ones_like(o[:, :1])), -1)
        rows = torch.cat((G, torch.full_like(o, -1.0).unsqueeze(-1)), -1)
        found = self.region.minimise(Objective(Q, p, rows, -o), on_failure)
        y = found.x[:, :-1]
        return Model(y, found.x[:, -1], found.lam, found.status, found.degenerate)

    def newton_step(self, y: Tensor, slope: Tensor, H: Tensor, on_failure: OnFailure = "zero") -> tuple[Tensor, Tensor]:
        curved = H + self.weight * torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        p = slope - (H @ y.unsqueeze(-1)).squeeze(-1) - self.weight * self.centre
        found = self.region.minimise(Objective(curved, p), on_failure)
        return found.x, found.status

    def coordinates(self, y: Tensor) -> Tensor:
        return y

    def point(self, u: Tensor) -> Tensor:
        return u

    def step(self, u: Tensor, slope: Tensor, length: Tensor) -> Tensor:
        pull = length * self.weight
        return self.region.project((u - length * slope + pull * self.centre) / (1 + pull))

    def confine(self, u: Tensor) -> Tensor:
        return self.region.project(u)

    def distance(self, u: Tensor, v: Tensor) -> Tensor:
        return 0.5 * (u - v).square().sum(-1)

    def pull(self, u: Tensor, slope: Tensor) -> Tensor:
        return slope + self.weight * (u - self.centre)

    def middle(self) -> Tensor:
        return self.region.middle()

    def contains(self, y: Tensor, tol: float) -> Tensor:
        away = (self.region.project(y) - y).abs().amax(-1)
        return away <= max(tol, NEAR) * (1 + y.abs().amax(-1))

    def at(self, index: Tensor) -> "Euclidean":
        return replace(self, region=self.region.at(index), centre=self.centre[index])


@dataclass(frozen=True, eq=False)
class Entropic(Regularized):
    """φ(y) = weight · Σ of the entropy of p, y = origin + size p; p in [0, 1]^n, or on the simplex.

    Coordinates u are logits: p = sigmoid(u), or softmax(u). Minimality reads u = -size/weight ∘ grad f(y), on the
    simplex up to a constant. origin, size: (m, n), or None for 0 and 1.
    """

    weight: float
    simplex: bool
    origin: Tensor | None
    size: Tensor | None
    shape: tuple[int, int]
    device: torch.device

    def value(self, y: Tensor) -> Tensor:
        p = self._share(y)
        p = p if self.simplex else torch.cat((p, 1 - p), -1)
        return self.weight * torch.linalg.vecdot(p, p.clamp_min(TINY).log())

    def lowest(self, slope: Tensor) -> Tensor:
        u = -self.scaled(slope)
        value = -u.logsumexp(-1) if self.simplex else -softplus(u).sum(-1)
        value = self.weight * value
        return value if self.origin is None else value + torch.linalg.vecdot(slope, self.origin)

    def cut_model(self, G: Tensor, o: Tensor, on_failure: OnFailure = "zero") -> Model:
        if self.origin is not None:
            o = o + torch.einsum("mkn,mn->mk", G, self.origin)
        G = G if self.size is None else G * self.size.unsqueeze(1)
        if self.weight != 1.0:
            G, o = G / self.weight, o / self.weight
        found = solve(EntropyBundle(G, o, simplex=self.simplex), on_failure=on_failure)
        y, value = self._placed(found.x[:, :-1]), self.weight * found.x[:, -1]
        return Model(y, value, found.lam, found.status, found.degenerate)

    def newton_step(self, y: Tensor, slope: Tensor, H: Tensor, on_failure: OnFailure = "zero") -> tuple[Tensor, Tensor]:
        p = self._share(y)
        square = 1.0 if self.size is None else self.size.square()
        spread = (p if self.simplex else p * (1 - p)).detach() * square / self.weight
        curved = H + torch.diag_embed(spread.clamp_min(TINY).reciprocal())
        logs = p.clamp_min(TINY).log() if self.simplex else torch.logit(p, eps=TINY)
        slope = slope + self.weight * (logs if self.size is None else logs / self.size)
        rows = {}
        if self.simplex:
            change = slope.new_zeros(1) if self.size is None else (self.size - self.size.detach())[:, :1]
            rows = dict(A=torch.ones_like(y[:1]), b=change)
        found = solve(QP(0.5 * (curved + curved.mT), slope, **rows), on_failure=on_failure)
        return y + found.x, found.status

    def coordinates(self, y: Tensor) -> Tensor:
        p = self._share(y).clamp(0.0, 1.0)
        return p.clamp_min(TINY).log() if self.simplex else torch.logit(p, eps=TINY)

    def point(self, u: Tensor) -> Tensor:
        return self._placed(self._probability(u))

    def step(self, u: Tensor, slope: Tensor, length: Tensor) -> Tensor:
        return (u - length * self.scaled(slope)) / (1 + length)

    def confine(self, u: Tensor) -> Tensor:
        return u

    def distance(self, u: Tensor, v: Tensor) -> Tensor:
        p = self._probability(u)
        if self.simplex:
            return self.weight * (p * (u.log_softmax(-1) - v.log_softmax(-1))).sum(-1)
        return self.weight * (p * (u - v) + softplus(v) - softplus(u)).sum(-1)

    def pull(self, u: Tensor, slope: Tensor) -> Tensor:
        whole = u + self.scaled(slope)
        return whole - whole.mean(-1, keepdim=True) if self.simplex else whole

    def slope(self, u: Tensor, slope: Tensor) -> Tensor:
        """The slope of f + φ as a function of the coordinates."""
        p, whole = self._probability(u), u + self.scaled(slope)
        if self.simplex:
            return self.weight * p * (whole - torch.linalg.vecdot(p, whole).unsqueeze(-1))
        return self.weight * p * (1 - p) * whole

    def spread(self, u: Tensor) -> Tensor:
        """dy/du, (m, n, n)."""
        p = self._probability(u)
        spread = torch.diag_embed(p if self.simplex else p * (1 - p))
        spread = spread - p.unsqueeze(-1) * p.unsqueeze(-2) if self.simplex else spread
        return spread if self.size is None else self.size.unsqueeze(-1) * spread

    def middle(self) -> Tensor:
        return self.point(torch.zeros(self.shape, dtype=torch.float64, device=self.device)).detach()

    def contains(self, y: Tensor, tol: float) -> Tensor:
        p = self._share(y)
        inside = ((p >= -tol) & (p <= 1 + tol)).all(-1)
        return inside & ((p.sum(-1) - 1).abs() <= max(tol, NEAR) * p.shape[-1]) if self.simplex else inside

    def at(self, index: Tensor) -> "Entropic":
        origin, size = (None if t is None else t[index] for t in (self.origin, self.size))
        return replace(self, origin=origin, size=size, shape=(len(index), self.shape[1]))

    def _probability(self, u: Tensor) -> Tensor:
        return u.softmax(-1) if self.simplex else torch.sigmoid(u)

    def _share(self, y: Tensor) -> Tensor:
        y = y if self.origin is None else y - self.origin
        return y if self.size is None else y / self.size

    def _placed(self, p: Tensor) -> Tensor:
        p = p if self.size is None else p * self.size
        return p if self.origin is None else p + self.origin

    def scaled(self, slope: Tensor, dim: int = -1) -> Tensor:
        """size/weight ∘ slope, along this dimension."""
        if self.size is not None:
            slope = slope * (self.size if dim == -1 else self.size.unsqueeze(-1))
        return slope if self.weight == 1.0 else slope / self.weight


def entropic(region: Polyhedron, weight: float) -> Entropic:
    """The entropy over a box with finite ends, or over a simplex, given as polyhedra.

    Raises ValueError for any other.
    """
    lower, upper = region.lower, region.upper
    shape, device = (lower.shape[0], lower.shape[1]), lower.device
    if region.A is not None:
        assert region.b is not None
        size = region.b.unsqueeze(-1).expand(lower.shape)
        if not (size > 0).all():
            raise ValueError("total must be positive")
        unit = not size.requires_grad and bool((size == 1).all())
        return Entropic(weight, True, None, None if unit else size, shape, device)
    if not (lower < upper).all() or not (lower.isfinite() & upper.isfinite()).all():
        raise ValueError("regularizer 'entropy' needs a box with finite lower < upper")
    unit = not (lower.requires_grad or upper.requires_grad) and bool(((lower == 0) & (upper == 1)).all())
    origin, size = (None, None) if unit else (lower, upper - lower)
    return Entropic(weight, False, origin, size, shape, device)
