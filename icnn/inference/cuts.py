"""The tangents that a bundle keeps of each energy, and which of them its minimiser rests on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from icnn.networks import Tangent
from icnn.solvers import Status

from .regularized import Model

INACTIVE = 1e-12
DEPENDENT = 1e-13
ROOM = 8  # cuts for which there is room at first


class Cuts(NamedTuple):
    """The cuts of each instance, in k columns of which any may be free; written in place.

    G: slopes (batch, k, n); o: offsets (batch, k), -inf where the column is free; points (batch, k, n), where they
    touch f; marks: (batch, k, ...) each, what the derivative of a cut needs, the slopes of the units there; or empty.
    """

    G: Tensor
    o: Tensor
    points: Tensor
    marks: tuple[Tensor, ...]

    @staticmethod
    def room(y: Tensor, tangent: Tangent, marked: bool) -> "Cuts":
        """Free columns for tangents like this one, taken at y."""
        marks = tangent.units if marked else ()
        G, points, *others = (t.new_zeros(len(t), ROOM, *t.shape[1:]) for t in (tangent.slope, y, *marks))
        return Cuts(G, G.new_full((len(G), ROOM), -torch.inf), points, tuple(others))

    def add(self, index: Tensor, y: Tensor, tangent: Tangent) -> "Cuts":
        """One cut more for the instances `index`, in the first free column of each; the last one stays free."""
        column = torch.isneginf(self.o[index]).byte().argmax(-1)
        cuts = self if int(column.max()) < self.o.shape[1] - 1 else self._wider()
        value, slope, units = tangent
        offset = value - torch.linalg.vecdot(slope, y)
        cuts.G[index, column], cuts.points[index, column] = slope, y
        cuts.o[index, column] = offset.masked_fill(torch.isneginf(offset), torch.nan)  # present, and not finite
        for marks, mark in zip(cuts.marks, units, strict=False):  # none where there are no marks
            marks[index, column] = mark
        return cuts

    def of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """G and o of the instances `index`, up to the last column that one of them uses."""
        o = self.o[index]
        k = int((~torch.isneginf(o)).any(0).nonzero().max()) + 1
        G = self.G[:, :k]
        return (G if len(index) == len(G) else G.index_select(0, index)), o[:, :k]

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
        return Cuts(change(self.G), change(self.o), change(self.points), tuple(map(change, self.marks)))


def necessary(model: Model, G: Tensor) -> Tensor:
    """The cuts without which y would not be the minimiser: active and affinely independent.

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
