"""Where a method of inference ended."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icnn.solvers import Status

from .cuts import Cuts
from .flat import FlatEnergy
from .regularized import Regularized

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


def closed(
    energy: FlatEnergy,
    over: Regularized,
    y: Tensor,
    tol: float,
    iterations: Tensor,
    evaluations: Tensor,
    known: Tensor | None = None,
) -> Outcome:
    """The outcome at these points, with the lower bound of the tangents there, or the one that is known if higher."""
    value, slope, _ = energy.tangent(y)
    upper = value + over.value(y)
    lower = over.proved(y, value, slope)
    lower = lower if known is None else torch.fmax(lower, known)
    done = upper - lower <= tol * (1 + upper.abs())
    status = torch.where(done, int(Status.OPTIMAL), int(Status.MAX_ITERATIONS))
    status = status.masked_fill(~upper.isfinite(), int(Status.NONFINITE_INPUT))
    return Outcome(y, upper, lower, status, iterations, evaluations + 1)
