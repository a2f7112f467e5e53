"""Where a method of inference ended."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from .cuts import Cuts

Callback = Callable[[int, Tensor], None]  # called with the iteration and y (m, n)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Where a method ended, each field (batch, ...): y, bounds of the minimum and status.

    cuts: those of the bundle that count. lines: of the layers, that support f at the solution of an epigraph program.
    """

    y: Float[Tensor, "batch n"]
    upper: Float[Tensor, "batch"]
    lower: Float[Tensor, "batch"]
    status: Int[Tensor, "batch"]
    iterations: Int[Tensor, "batch"]
    evaluations: Int[Tensor, "batch"]
    cuts: Cuts | None = None
    lines: list[tuple[Tensor, Tensor]] | None = None

    @property
    def gap(self) -> Tensor:
        return self.upper - self.lower
