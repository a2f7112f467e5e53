"""The bundle-entropy method: minimise f(y) - H(y) over [0, 1]^n from values and gradients of f (convex).

At y^0, ..., y^{k-1} the tangents ("cuts") g_i'y + o_i, g_i = grad f(y^i), o_i = f(y^i) - g_i'y^i, lie below f. The
next point minimises the model max_i (g_i'y + o_i) - H(y). The value of the model bounds the minimum from below,
f(y) - H(y) at any y from above: their difference is a certificate.

Source: Amos, Xu, Kolter (2017), section 4.2 and algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icnn.solvers import EntropyBundle, Status, solve

INACTIVE = 1e-12
DEPENDENT = 1e-13

Energy = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor], None]


class Cuts(NamedTuple):
    """k cuts for each instance: slopes (batch, k, n), offsets (batch, k), -inf where absent, and their points."""

    G: Float[Tensor, "*batch k n"]
    o: Float[Tensor, "*batch k"]
    points: Float[Tensor, "*batch k n"]

    def keep(self, kept: Tensor) -> "Cuts":
        return self._replace(o=self.o.masked_fill(~kept, -torch.inf))

    def at(self, index: Tensor) -> "Cuts":
        return Cuts(self.G[index], self.o[index], self.points[index])

    def packed(self) -> "Cuts":
        """Present cuts first, in as many columns as the fullest instance needs."""
        present = ~torch.isneginf(self.o)
        order = present.double().argsort(dim=-1, descending=True, stable=True)[:, : int(present.sum(-1).max())]
        wide = order.unsqueeze(-1).expand(-1, -1, self.G.shape[-1])
        return Cuts(self.G.gather(1, wide), self.o.gather(1, order), self.points.gather(1, wide))

    def add(self, cut: "Cuts", where: Tensor) -> "Cuts":
        """One column more, present for the instances `where`."""
        column = cut.keep(where.unsqueeze(-1))
        return Cuts(*(torch.cat((old, new), 1) for old, new in zip(self.packed(), column, strict=True)))


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


def bundle_entropy(
    energy: Energy, start: Tensor, max_iter: int, tol: float, callback: Callback | None = None
) -> Bundle:
    """Run until each instance has gap <= tol (1 + |upper|) or max_iter models have been minimised.

    energy: (batch, n) to (batch,), both float64; start: (batch, n). Instances that are done stay as they are.
    y is the minimiser of the last model. An instance whose energy is not finite, or whose model could not be
    solved, keeps its last point and ends with the status of that solve.
    """
    y = start
    cut, upper = tangent(energy, y)
    lower, status = torch.full_like(upper, -torch.inf), torch.full_like(upper, Status.MAX_ITERATIONS).long()
    iterations, running = torch.zeros_like(status), torch.ones_like(status, dtype=torch.bool)
    cuts = Cuts(cut.G[:, :0], cut.o[:, :0], cut.points[:, :0])
    for iteration in range(1, max_iter + 1):
        cuts = cuts.add(cut, running)
        index = running.nonzero().squeeze(-1)
        tried = cuts.at(index)
        model = solve(EntropyBundle(tried.G, tried.o), on_failure="zero")
        solved = (model.status == Status.OPTIMAL).unsqueeze(-1)
        present = (~torch.isneginf(cuts.o)).index_copy(0, index, necessary(model.lam, tried))
        cuts = cuts.keep(present)
        y = y.index_copy(0, index, torch.where(solved, model.x[:, :-1], y[index]))
        lower = lower.index_copy(0, index, torch.where(solved.squeeze(-1), model.objective, lower[index]))
        iterations = iterations + running
        if callback is not None:
            callback(iteration, y)
        cut, upper = tangent(energy, y)
        closed = (upper - lower <= tol * (1 + upper.abs()))[index]
        ended = torch.where(closed, int(Status.OPTIMAL), int(Status.MAX_ITERATIONS))
        status = status.index_copy(0, index, torch.where(solved.squeeze(-1), ended, model.status))
        running = status == Status.MAX_ITERATIONS
        if not running.any():
            break
    return Bundle(y, upper, lower, status, iterations, cuts.packed())


def tangent(energy: Energy, y: Tensor, create_graph: bool = False) -> tuple[Cuts, Tensor]:
    """The cut at y, as the only column, and f(y) - H(y); y (*extra, batch, n)."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        value = energy(y)
        (slope,) = torch.autograd.grad(value.sum(), y, create_graph=create_graph)
    if not create_graph:
        value = value.detach()
    y = y.detach()
    cut = Cuts(slope.unsqueeze(-2), (value - (slope * y).sum(-1)).unsqueeze(-1), y.unsqueeze(-2))
    return cut, value - entropy(y)


def entropy(y: Tensor) -> Tensor:
    """H(y) = -sum_j y_j log y_j + (1 - y_j) log(1 - y_j)."""
    return -(torch.special.xlogy(y, y) + torch.special.xlogy(1 - y, 1 - y)).sum(-1)


def necessary(lam: Tensor, cuts: Cuts) -> Tensor:
    """The cuts without which y = sigmoid(-G'lam) would not be the minimiser: active and affinely independent.

    While the active rows [g_i, 1] have a null vector v, lam moves along v to the first zero: G'lam, and so y, stay
    as they are and one cut is idle (Caratheodory's theorem).
    """
    rows = torch.nn.functional.pad(cuts.G.nan_to_num(), (0, 1), value=1.0)
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
    return lam > INACTIVE
