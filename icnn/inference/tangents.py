"""The minimum of any convex function over a box, between its value at a point and what its tangents prove.

    f(y) ≥ max_i (f(y_i) + g_i'(y − y_i)),   so   Σ_i λ_i (f(y_i) + g_i'(y − y_i)),  λ ≥ 0, Σ λ_i = 1,

is an affine function below f, and its minimum over the box, a sum over the variables, is a bound whatever λ is. Where
f − m/2 |y|² is known to be convex, its tangents give a better one, and a sharp one at a point that is nearly optimal.

L-BFGS-B descends. Where its point is no minimiser to the tolerance, as at a kink, a level method goes on with the
tangents found so far: the best λ come from a linear program, the next point is the projection of the best one onto
where the model is well below the best value.
"""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from icnn.networks import Tangent
from icnn.solvers import QP, Status, solve

from .flat import FlatEnergy

DESCENT = 2000  # iterations of L-BFGS-B
KEPT = 64  # tangents that the level method starts with
LEVEL = 0.3  # of the gap above the lower bound
PAIRS = 20  # that L-BFGS-B keeps of its steps
SHARP = MappingProxyType({"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10})


@dataclass(frozen=True, eq=False)
class Bracket:
    """lower ≤ min f ≤ upper = f(y), (m,) and y (m, n)."""

    lower: Tensor
    upper: Tensor
    y: Tensor

    def open(self, tol: float) -> Tensor:
        """The numbers of the instances whose gap is more than tol (1 + |f(y)|), or not finite."""
        gap, size = self.upper - self.lower, torch.minimum(self.lower.abs(), self.upper.abs())
        return (~(gap.isfinite() & (gap <= tol * (1 + size)))).nonzero().squeeze(-1)

    def better(self, index: Tensor, other: "Bracket") -> "Bracket":
        """With the better of both bounds for the instances `index`, of which the other one is."""
        lower, upper, y = self.lower[index], self.upper[index], self.y[index]
        wins = (other.upper < upper) | ~upper.isfinite()
        return Bracket(
            self.lower.index_copy(0, index, torch.fmax(lower, other.lower)),
            self.upper.index_copy(0, index, torch.where(wins, other.upper, upper)),
            self.y.index_copy(0, index, torch.where(wins.unsqueeze(-1), other.y, y)),
        )


def lowest(offset: Tensor, slope: Tensor, lower: Tensor, upper: Tensor, m: float = 0.0) -> Tensor:
    """The minimum of offset + slope'y + m/2 |y|² over the box."""
    if m == 0:
        return offset + torch.minimum(slope * lower, slope * upper).sum(-1)
    y = (-slope / m).clamp(lower, upper)
    return offset + ((slope + 0.5 * m * y) * y).sum(-1)


def by_tangents(
    energy: FlatEnergy, start: Tensor, lower: Tensor, upper: Tensor, strong: float, tol: float, max_iter: int
) -> Bracket:
    """Each of m instances by itself, from its start (m, n), for at most max_iter steps of the level method.

    strong: f − strong/2 |y|² is known to be convex.
    """
    found = []
    for index in torch.arange(len(start), device=start.device).split(1):
        bundle = _Bundle(energy.at(index), lower[index], upper[index], strong)
        bundle.descend(start[index])
        steps = 0
        while bundle.gap > tol * (1 + abs(bundle.best)) and steps < max_iter and bundle.step():
            steps += 1
        found.append((bundle.lower.reshape(1), lower.new_full((1,), bundle.best), bundle.y))
    return Bracket(*(torch.cat(parts) for parts in zip(*found, strict=True)))


class _Bundle:
    """Tangents of one energy, its best point and value, and the best lower bound, (1,) and (1, n)."""

    def __init__(self, energy: FlatEnergy, lower: Tensor, upper: Tensor, strong: float) -> None:
        self.energy, self.box, self.strong = energy, (lower, upper), strong
        self.slopes: list[Tensor] = []
        self.offsets: list[Tensor] = []
        self.points: list[Tensor] = []
        self.y, self.best = lower, float("inf")
        self.lower = lower.new_full((), -torch.inf)

    @property
    def gap(self) -> float:
        return self.best - float(self.lower)

    def descend(self, y: Tensor) -> None:
        """To the minimiser of a smooth f, and somewhere near that of another one."""

        def at(point: np.ndarray) -> tuple[float, np.ndarray]:
            tangent = self.tangent(torch.tensor(point).to(y).unsqueeze(0))
            return float(tangent.value), tangent.slope[0].cpu().numpy()

        ends = [end[0].cpu().numpy() for end in self.box]
        options = dict(maxiter=DESCENT, maxfun=2 * DESCENT, maxcor=PAIRS, ftol=0.0, gtol=0.0)
        minimize(at, y[0].cpu().numpy(), jac=True, method="L-BFGS-B", bounds=np.stack(ends, 1), options=options)
        del self.slopes[:-KEPT], self.offsets[:-KEPT], self.points[:-KEPT]
        self.tangent(self.y)

    def tangent(self, y: Tensor) -> Tangent:
        """At y, within the box; remembered."""
        y = y.clamp(*self.box)
        found = self.energy.tangent(y)
        offset = found.value - (found.slope * y).sum(-1)
        if float(found.value) < self.best:
            self.y, self.best = y, float(found.value)
        if bool(found.slope.isfinite().all() & offset.isfinite().all()):
            self.slopes.append(found.slope)
            self.offsets.append(offset)
            self.points.append(y)
            self._prove(torch.ones_like(offset), offset, found.slope, y)
        return found

    def _prove(self, share: Tensor, o: Tensor, G: Tensor, y: Tensor) -> None:
        """A bound from k tangents at y (k, n), averaged with these shares, (k,).

        Those of the convex function f − m/2 |y|² are steeper by −m y and higher by m/2 |y|².
        """
        m = self.strong
        offset, slope = share @ (o + 0.5 * m * y.square().sum(-1)), share @ (G - m * y)
        self.lower = torch.fmax(self.lower, lowest(offset[None], slope[None], *self.box, m).squeeze(0))

    def step(self) -> bool:
        """One linear program for the bound and one projection for the next point; False where the first fails."""
        G, o = torch.cat(self.slopes), torch.cat(self.offsets)
        below = o + G @ self.y[0] - self.best  # the tangents at the best point, from there
        box = [(end - self.y)[0] for end in self.box]
        unit = self.gap
        model = _model(G, below / unit, *(end / unit for end in box))
        if model is None:
            return False
        share, vertex = model
        self._prove(share, o, G, torch.cat(self.points))
        flat, level = torch.zeros_like(vertex), -(1 - LEVEL) * self.gap
        nearest = solve(QP(flat + 1, flat, G, level - below, None, None, *box), on_failure="zero")
        self.tangent(self.y + (nearest.x if int(nearest.status) == Status.OPTIMAL else unit * vertex))
        return True


def _model(G: Tensor, below: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor] | None:
    """λ and d of min t  subject to  G d + below ≤ t,  lower ≤ d ≤ upper; None where there are none.

    By HiGHS as scipy has it: these programs are small and many, and a vertex is what is asked for. In units in which
    the minimum is about one, since its tolerances are absolute.
    """
    k, n = G.shape
    rows = np.concatenate((G.cpu().numpy(), np.full((k, 1), -1.0)), 1)
    ends = np.stack([np.append(end.cpu().numpy(), free) for end, free in ((lower, -np.inf), (upper, np.inf))], 1)
    found = linprog(np.eye(n + 1)[-1], rows, -below.cpu().numpy(), bounds=ends, method="highs", options=dict(SHARP))
    if found.x is None:
        return None
    weight = np.clip(-found.ineqlin.marginals, 0.0, None)
    if not weight.sum() > 0:
        return None
    return torch.from_numpy(weight / weight.sum()).to(G), torch.from_numpy(found.x[:-1]).to(G)
