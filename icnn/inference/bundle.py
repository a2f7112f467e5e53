"""The bundle-entropy method: minimise f(y) - H(y) over [0, 1]^n from values and gradients of f (convex).

At y^0, ..., y^{k-1} the tangents ("cuts") g_i'y + o_i, g_i = grad f(y^i), o_i = f(y^i) - g_i'y^i, lie below f. The
next point minimises the model max_i (g_i'y + o_i) - H(y). The value of the model bounds the minimum from below,
f(y) - H(y) at any y from above: their difference is a certificate.

Source: Amos, Xu, Kolter (2017), section 4.2 and algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icnn.networks import Tangent
from icnn.solvers import EntropyBundle, Solution, Status, solve

from .flat import FlatEnergy

INACTIVE = 1e-12
DEPENDENT = 1e-13
ROOM = 8  # cuts for which there is room at first

Callback = Callable[[int, Tensor], None]


class Cuts(NamedTuple):
    """The cuts of each instance, in k columns of which any may be free; written in place.

    G: slopes (batch, k, n); o: offsets (batch, k), -inf where the column is free; marks: (batch, k, ...) each, what
    the derivative of a cut needs, the point where it touches f and the slopes of the units there; or empty.
    """

    G: Tensor
    o: Tensor
    marks: tuple[Tensor, ...]

    @staticmethod
    def room(y: Tensor, tangent: Tangent, marked: bool) -> "Cuts":
        """Free columns for tangents like this one, taken at y."""
        marks = (y, *tangent.units) if marked else ()
        G, *others = (t.new_zeros(len(t), ROOM, *t.shape[1:]) for t in (tangent.slope, *marks))
        return Cuts(G, G.new_full((len(G), ROOM), -torch.inf), tuple(others))

    def add(self, index: Tensor, y: Tensor, tangent: Tangent) -> "Cuts":
        """One cut more for the instances `index`, in the first free column of each; the last one stays free."""
        column = torch.isneginf(self.o[index]).byte().argmax(-1)
        cuts = self if int(column.max()) < self.o.shape[1] - 1 else self._wider()
        value, slope, units = tangent
        offset = value - torch.linalg.vecdot(slope, y)
        cuts.G[index, column] = slope
        cuts.o[index, column] = offset.masked_fill(torch.isneginf(offset), torch.nan)  # present, and not finite
        for marks, mark in zip(cuts.marks, (y, *units), strict=False):  # none where there are no marks
            marks[index, column] = mark
        return cuts

    def model(self, index: Tensor) -> EntropyBundle:
        """The cuts of the instances `index`, up to the last column that one of them uses."""
        o = self.o[index]
        k = int((~torch.isneginf(o)).any(0).nonzero().max()) + 1
        G = self.G[:, :k]
        return EntropyBundle(G if len(index) == len(G) else G.index_select(0, index), o[:, :k])

    def keep(self, index: Tensor, o: Tensor, kept: Tensor) -> None:
        """Of the instances `index`, whose first offsets are o (m, k), only these cuts."""
        self.o[index, : o.shape[1]] = o.masked_fill(~kept, -torch.inf)

    def packed(self) -> "Cuts":
        """Present cuts first, in as many columns as the fullest instance needs."""
        present = ~torch.isneginf(self.o)
        columns = present.byte().argsort(dim=-1, descending=True, stable=True)[:, : int(present.sum(-1).max())]
        rows = torch.arange(len(columns), device=columns.device).unsqueeze(-1)
        return self._map(lambda t: t[rows, columns])

    def _wider(self) -> "Cuts":
        wide = self._map(lambda t: torch.cat((t, torch.zeros_like(t)), 1))
        wide.o[:, self.o.shape[1] :] = -torch.inf
        return wide

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Cuts":
        return Cuts(change(self.G), change(self.o), tuple(map(change, self.marks)))


class Front(NamedTuple):
    """The instances that are not done: their numbers in the batch, last points, bounds, status and tangents there."""

    index: Tensor
    y: Tensor
    upper: Tensor
    lower: Tensor
    status: Tensor
    tangent: Tangent

    def at(self, rows: Tensor) -> "Front":
        value, slope, units = self.tangent
        tangent = Tangent(value[rows], slope[rows], tuple(unit[rows] for unit in units))
        return Front(self.index[rows], self.y[rows], self.upper[rows], self.lower[rows], self.status[rows], tangent)


@dataclass(frozen=True, eq=False)
class Bundle:
    """Where the method ended, each field (batch, ...): y, bounds of the minimum, status and the cuts that count."""

    y: Float[Tensor, "batch n"]
    upper: Float[Tensor, "batch"]
    lower: Float[Tensor, "batch"]
    status: Int[Tensor, "batch"]
    iterations: Int[Tensor, "batch"]
    cuts: Cuts

    @property
    def gap(self) -> Tensor:
        return self.upper - self.lower

    def record(self, front: Front, iteration: int) -> None:
        """Write where these instances are, in place."""
        self.y[front.index], self.status[front.index] = front.y, front.status
        self.upper[front.index], self.lower[front.index] = front.upper, front.lower
        self.iterations[front.index] = iteration


def bundle_entropy(
    energy: FlatEnergy,
    start: Tensor,
    max_iter: int,
    tol: float,
    callback: Callback | None = None,
    differentiable: bool = True,
) -> Bundle:
    """Run until each instance has gap <= tol (1 + |upper|) or max_iter models have been minimised.

    start: (batch, n). Instances that are done leave the batch and stay as they are. y is the minimiser of the last
    model. An instance whose energy is not finite, or whose model could not be solved, keeps its last point and
    ends with the status of that solve. differentiable: whether the cuts carry their marks.
    """
    front, here = at_start(energy, start), energy
    cuts = Cuts.room(start, front.tangent, differentiable)
    y, upper, lower, status = (t.clone() for t in front[1:5])
    ended = Bundle(y, upper, lower, status, torch.zeros_like(status), cuts)
    for iteration in range(1, max_iter + 1):
        cuts = cuts.add(front.index, front.y, front.tangent)
        problem = cuts.model(front.index)
        model = solve(problem, on_failure="zero")
        cuts.keep(front.index, problem.o, necessary(model, problem.G))
        front = advance(here, front, model, tol, more=iteration < max_iter)
        if callback is not None:
            callback(iteration, ended.y.index_copy(0, front.index, front.y))
        still = (front.status == Status.MAX_ITERATIONS).nonzero().squeeze(-1)
        if iteration == max_iter or not len(still):
            ended.record(front, iteration)
            break
        if len(still) < len(front.index):
            ended.record(front, iteration)
            front = front.at(still)
            here = energy.at(front.index)
    return replace(ended, cuts=cuts)


def at_start(energy: FlatEnergy, y: Tensor) -> Front:
    """All instances at their first points, without a model."""
    tangent = energy.tangent(y)
    upper = tangent.value - entropy(y)
    status = torch.full_like(upper, Status.MAX_ITERATIONS).long()
    return Front(torch.arange(len(y), device=y.device), y, upper, torch.full_like(upper, -torch.inf), status, tangent)


def advance(energy: FlatEnergy, front: Front, model: Solution, tol: float, more: bool) -> Front:
    """To the minimisers of the models, where these were solved; with tangents there if there is more to come."""
    solved = model.status == Status.OPTIMAL
    y = torch.where(solved.unsqueeze(-1), model.x[:, :-1], front.y)
    tangent = energy.tangent(y) if more else Tangent(energy(y).detach(), y, ())
    H = entropy(y)
    upper = torch.where(solved, tangent.value - H, front.upper)
    lower = torch.where(solved, model.x[:, -1] - H, front.lower)
    closed = upper - lower <= tol * (1 + upper.abs())
    ended = torch.where(closed, int(Status.OPTIMAL), int(Status.MAX_ITERATIONS))
    return Front(front.index, y, upper, lower, torch.where(solved, ended, model.status), tangent)


def entropy(y: Tensor) -> Tensor:
    """H(y) = -sum_j y_j log y_j + (1 - y_j) log(1 - y_j)."""
    p = torch.cat((y, 1 - y), -1)
    return -torch.linalg.vecdot(p, p.clamp_min(torch.finfo(p.dtype).tiny).log())


def necessary(model: Solution, G: Tensor) -> Tensor:
    """The cuts without which y = sigmoid(-G'lam) would not be the minimiser: active and affinely independent.

    Active cuts are independent unless the solver says that the model is degenerate. All stay where it failed.
    """
    active = (model.lam > INACTIVE) | (model.status != Status.OPTIMAL).unsqueeze(-1)
    doubtful = (model.degenerate & (model.status == Status.OPTIMAL)).nonzero().squeeze(-1)
    if not len(doubtful):
        return active
    return active.index_copy(0, doubtful, independent(model.lam[doubtful], G[doubtful]) > INACTIVE)


def independent(lam: Tensor, G: Tensor) -> Tensor:
    """Multipliers of the same y on cuts that are affinely independent.

    While the active rows [g_i, 1] have a null vector v, lam moves along v to the first zero: G'lam, and so y, stay
    as they are and one cut is idle (Caratheodory's theorem).
    """
    rows = torch.nn.functional.pad(G.nan_to_num(), (0, 1), value=1.0)
    size = rows.norm(dim=-1)
    rows = rows / size.unsqueeze(-1)
    for _ in range(lam.shape[-1]):
        active = lam > INACTIVE
        masked = rows * active.unsqueeze(-1)
        values, vectors = torch.linalg.eigh(masked @ masked.mT + torch.diag_embed((~active).double()))
        dependent = (values[:, :1] < DEPENDENT) & active.any(-1, keepdim=True)
        if not dependent.any():
            break
        v = vectors[:, :, 0] / size * active
        v = torch.where((v > 0).any(-1, keepdim=True), v, -v)
        reach = torch.where(v > 0, lam / v, torch.inf)
        length, idle = reach.min(-1, keepdim=True)
        moved = (lam - length * v).clamp_min(0.0).scatter(-1, idle, 0.0)
        lam = torch.where(dependent, moved, lam)
    return lam
