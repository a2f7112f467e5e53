"""The door of what bounds a network over a box: its energies in float64, one for each instance, and their boxes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from icnn.networks.energy import Energy
from icnn.networks.network import ConvexNetwork

Bound = float | int | Tensor


@dataclass(frozen=True, eq=False)
class Boxed:
    """The energies of m instances, and the box of each: lower and upper (m, *y_shape), None for all of space.

    energy: for y of shape (*extra, m, *y_shape), or (*extra, *batch, *y_shape) where it is no `Energy`. batch: the
    shape that the m instances have to the user.
    """

    energy: Callable[[Tensor], Tensor]
    batch: torch.Size
    y_shape: torch.Size
    lower: Tensor | None
    upper: Tensor | None

    def at(self, index: Tensor) -> "Boxed":
        """Some of the instances; the energy must be an `Energy`."""
        assert isinstance(self.energy, Energy)
        lower, upper = (None if bound is None else bound[index] for bound in (self.lower, self.upper))
        return replace(self, energy=self.energy.at(index), batch=index.shape, lower=lower, upper=upper)


def boxed(f: ConvexNetwork, x: Tensor | None, bounds: tuple[Bound, Bound] | None) -> Boxed:
    """The energies of f at x, within bounds: a copy of f in float64, so that bounds are those of its weights.

    bounds: lower and upper, numbers or tensors that broadcast to y_shape or have the shape (*batch, *y_shape).
    Raises ValueError if f is not convex in y now, or bounds are contradictory, infinite or of another shape.
    """
    f.check_convex()
    f, shape = copy.deepcopy(f).double(), torch.Size(f.y_shape)
    energy = f.given(None if x is None else x.detach().double())
    own = None if x is None or f.x_shape is None else x.shape[: x.ndim - len(f.x_shape)]
    box, batch = (None, None), torch.Size() if own is None else own
    if bounds is not None:
        place = next(f.parameters()).device
        lower, upper = (torch.as_tensor(bound, dtype=torch.float64, device=place).detach() for bound in bounds)
        batch = _batch(lower, upper, shape, own)
        box = tuple(bound.expand(batch + shape).reshape(-1, *shape) for bound in (lower, upper))
        _check(*box)
    if own is not None and isinstance(energy, Energy):
        energy = energy.at(torch.arange(own.numel(), device=next(f.parameters()).device))
    return Boxed(energy, batch, shape, *box)


def _batch(lower: Tensor, upper: Tensor, shape: torch.Size, own: torch.Size | None) -> torch.Size:
    """The batch dimensions of x, or those of the bounds where there is no x."""
    batches = [bound.shape[: max(bound.ndim - len(shape), 0)] for bound in (lower, upper)]
    try:
        batch = torch.broadcast_shapes(*batches) if own is None else own
        for bound in (lower, upper):
            bound.expand(batch + shape)
    except RuntimeError as error:
        sizes = ", ".join(map(str, (*(["*batch"] if own is None else own), *shape)))
        came = f"{tuple(lower.shape)} and {tuple(upper.shape)}"
        raise ValueError(f"bounds have shapes {came}, expected numbers, {tuple(shape)} or ({sizes})") from error
    return batch


def _check(lower: Tensor, upper: Tensor) -> None:
    if not bool((lower <= upper).all()):
        raise ValueError("bounds are contradictory, expected lower <= upper everywhere")
    if not bool((lower.isfinite() & upper.isfinite()).all()):
        raise ValueError("bounds are infinite, expected finite numbers")
