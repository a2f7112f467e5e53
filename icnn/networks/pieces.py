"""Networks of one layer: the maximum of affine functions, and its smooth version."""

from typing import Unpack

from torch import nn

from .activations import Activation
from .ficnn import ConvexLayer, Stack
from .network import Options, sizes
from .operators import Dense, Grouped
from .terms import direct
from .units import log_sum_exp, maxout


class _OneUnit(Stack):
    def __init__(self, y_dim: int, unit: Activation, positivity: str, **options: Unpack[Options]) -> None:
        y_shape = sizes("y_dim", (y_dim,), 1)
        super().__init__(None, y_shape, unit, positivity, **options)
        self.output = unit
        affine = direct(Grouped(Dense(y_shape, (unit.pieces,)), unit.pieces), positivity, self._signs)
        if affine.bias is not None:
            nn.init.normal_(affine.bias)
        self.layers.append(ConvexLayer(None, affine))


class MaxAffine(_OneUnit):
    """f(y) = max_i (a_iᵀ y + b_i): every convex piecewise linear function, with pieces enough.

    y_dim: size of y. pieces: number of i, two or more. positivity: keeps the signs of `monotone`, if any.
    options: see `Options`.
    Returns (*batch,) for y of shape (*batch, y_dim).
    """

    def __init__(self, y_dim: int, pieces: int = 32, positivity: str = "abs", **options: Unpack[Options]) -> None:
        super().__init__(y_dim, maxout(pieces), positivity, **options)


class LogSumExp(_OneUnit):
    """f(y) = T log Σ_i exp((a_iᵀ y + b_i) / T): a smooth maximum, within T log(pieces) above that of MaxAffine.

    y_dim: size of y. pieces: number of i, two or more. temperature: T, fixed, positive. The others as in MaxAffine.
    Returns (*batch,) for y of shape (*batch, y_dim).
    """

    def __init__(
        self,
        y_dim: int,
        pieces: int = 32,
        temperature: float = 1.0,
        positivity: str = "abs",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(y_dim, log_sum_exp(pieces, temperature), positivity, **options)
