"""The bundle method: minimise f(y) + phi(y) over a set from values and gradients of f (convex).

At y^0, ..., y^{k-1} the tangents ("cuts") g_i'y + o_i, g_i = grad f(y^i), o_i = f(y^i) - g_i'y^i, lie below f. The
next point minimises the model max_i (g_i'y + o_i) + phi(y). The value of the model bounds the minimum from below,
f(y) + phi(y) at any y from above: their difference is a certificate.

Source: Amos, Xu, Kolter (2017), section 4.2 and algorithm 1, with phi = -H on the box.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from icnn.networks import Tangent
from icnn.solvers import Status

from .cuts import Cuts, necessary
from .flat import FlatEnergy
from .outcome import Callback, Outcome
from .regularized import Model, Regularized


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

    def record(self, ended: Outcome, iteration: int) -> None:
        """Write where these instances are into the outcome of all, in place."""
        ended.y[self.index], ended.status[self.index] = self.y, self.status
        ended.upper[self.index], ended.lower[self.index] = self.upper, self.lower
        ended.iterations[self.index] = iteration


def by_bundle(
    energy: FlatEnergy,
    over: Regularized,
    start: Tensor,
    max_iter: int,
    tol: float,
    callback: Callback | None = None,
    differentiable: bool = True,
    known: Tensor | None = None,
) -> Outcome:
    """Run until each instance has gap <= tol (1 + |upper|) or max_iter models have been minimised.

    start: (batch, n). Instances that are done leave the batch and stay as they are. y is the minimiser of the last
    model. An instance whose energy is not finite, or whose model could not be solved, keeps its last point and
    ends with the status of that solve. differentiable: whether the cuts carry their marks. known: points
    (batch, k, n) where cuts are taken before the first model, nan for none.
    """
    front, here, within = at_start(energy, over, start), energy, over
    cuts = Cuts.room(start, front.tangent, differentiable)
    y, upper, lower, status = (t.clone() for t in front[1:5])
    none = torch.zeros_like(status)
    ended = Outcome(y, upper, lower, status, none, none + 1, cuts)
    for points in () if known is None else known.unbind(1):
        index = (~points.isnan().any(-1)).nonzero().squeeze(-1)
        if len(index):
            cuts = cuts.add(index, points[index], energy.at(index).tangent(points[index]))
            ended.evaluations[index] += 1
    for iteration in range(1, max_iter + 1):
        cuts = cuts.add(front.index, front.y, front.tangent)
        G, o = cuts.of(front.index)
        model = within.cut_model(G, o)
        cuts.keep(front.index, o, necessary(model, G))
        front = advance(here, within, front, model, tol, more=iteration < max_iter)
        if callback is not None:
            callback(iteration, ended.y.index_copy(0, front.index, front.y))
        still = (front.status == Status.MAX_ITERATIONS).nonzero().squeeze(-1)
        if iteration == max_iter or not len(still):
            front.record(ended, iteration)
            break
        if len(still) < len(front.index):
            front.record(ended, iteration)
            front = front.at(still)
            here, within = energy.at(front.index), over.at(front.index)
    return replace(ended, evaluations=ended.evaluations + ended.iterations, cuts=cuts)


def at_start(energy: FlatEnergy, over: Regularized, y: Tensor) -> Front:
    """All instances at their first points, without a model."""
    tangent = energy.tangent(y)
    upper = tangent.value + over.value(y)
    status = torch.full_like(upper, Status.MAX_ITERATIONS).long()
    return Front(torch.arange(len(y), device=y.device), y, upper, torch.full_like(upper, -torch.inf), status, tangent)


def advance(energy: FlatEnergy, over: Regularized, front: Front, model: Model, tol: float, more: bool) -> Front:
    """To the minimisers of the models, where these were solved; with tangents there if there is more to come."""
    solved = model.status == Status.OPTIMAL
    y = torch.where(solved.unsqueeze(-1), model.y, front.y)
    tangent = energy.tangent(y) if more else Tangent(energy(y).detach(), y, ())
    phi = over.value(y)
    upper = torch.where(solved, tangent.value + phi, front.upper)
    lower = torch.where(solved, model.value + phi, front.lower)
    closed = upper - lower <= tol * (1 + upper.abs())
    ended = torch.where(closed, int(Status.OPTIMAL), int(Status.MAX_ITERATIONS))
    return Front(front.index, y, upper, lower, torch.where(solved, ended, model.status), tangent)
