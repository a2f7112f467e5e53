"""Residual networks that are convex in their input, and the ordinary ones that are not."""

from typing import Unpack

import torch
from torch import Tensor, nn

from .activations import Activation, any_activation, convex_activation
from .ficnn import ConvexLayer, Stack
from .initialisation import SAMPLE, Affine, measured, path_share
from .network import Options, sizes
from .operators import Dense, Operator, Shape, grouped
from .terms import first


class ResidualICNN(Stack):
    """A residual network that is convex in y: a lifting layer, then small steps.

        y_1 = σ(W_0 y + b_0),   y_{k+1} = y_k + h σ(W_k y_k + b_k),  1 ≤ k < K,   f(y) = η(wᵀ y_K + μ)

    with w ≥ 0, W_k ≥ 0 for k ≥ 1, W_0 free, h ≥ 0, σ and η convex and non-decreasing. Explicit Euler steps of
    y' = σ(W(t) y + b(t)).

    y_dim: size of y. width: of y_1 … y_K. depth: K, the lifting layer counted.
    step: h, 1 / depth by default.
    activation, output: σ and η, names or Activations; η is the identity by default.
    positivity: how W_k ≥ 0 and w ≥ 0 are kept, as in FICNN.
    convex: False gives the ordinary residual network, all weights free and any σ and η, for comparison;
        `is_convex` is then False.
    options: see `Options`.
    The weights of a convex network start such that every W_k y_k + b_k, and wᵀ y_K + μ, has mean zero and unit
    variance (less for a σ that grows faster than linearly) over standard normal y, measured on a sample; those of an
    ordinary one normal, of variance 1 / (width E y_k²).
    Returns (*batch,) for y of shape (*batch, y_dim).
    Raises ValueError for a convex network with an activation that is not convex and non-decreasing.
    """

    step: float

    def __init__(
        self,
        y_dim: int,
        width: int = 64,
        depth: int = 8,
        step: float | None = None,
        activation: str | Activation = "relu",
        positivity: str = "abs",
        output: str | Activation | None = None,
        convex: bool = True,
        **options: Unpack[Options],
    ) -> None:
        y_shape, (width,), (depth,) = sizes("y_dim", (y_dim,), 1), sizes("width", (width,)), sizes("depth", (depth,))
        found = convex_activation if convex else any_activation
        super().__init__(None, y_shape, found(activation), positivity, **options)
        self.convex, self.step = convex, 1 / depth if step is None else float(step)
        self.output = None if output is None else found(output, "output")
        if not 0 <= self.step < torch.inf:
            raise ValueError(f"step is {step}, expected a number >= 0")
        if not convex and self._signs is not None:
            raise ValueError("monotone needs convex=True: with free weights f is not monotone")
        self._fill(y_shape, width, depth, positivity)

    @torch.no_grad()
    def _fill(self, y_shape: Shape, width: int, depth: int, positivity: str) -> None:
        lift, *steps = [Dense(y_shape, (width,))] + [Dense((width,), (width,))] * (depth - 1)
        lift, *steps, last = grouped([lift, *steps, Dense((width,), (1,))], self.activation.pieces)
        self.layers.append(ConvexLayer(None, first(lift, positivity, self._signs)))
        y = torch.randn(SAMPLE, *y_shape)
        z = self.activation(self.layers[0]()(None, y))
        variance = 2 * path_share(self.activation)
        for operator in steps:
            self.layers.append(layer := self._layer(operator, z, positivity, variance))
            z = z + self.step * self.activation(layer()(z, y))
        self.layers.append(self._layer(last, z, positivity, 1.0))

    def _layer(self, operator: Operator, z: Tensor, positivity: str, variance: float) -> ConvexLayer:
        if self.convex:
            path, start = measured(operator, z, positivity, variance)
        else:
            path, start = Affine(operator, gain=float(z.square().mean() ** -0.5), bias=None), 0.0
        return ConvexLayer(path, None, nn.Parameter(torch.full(operator.bias_shape, start)))

    def is_convex(self) -> bool:
        return self.convex and super().is_convex()

    def extra_repr(self) -> str:
        output = "" if self.output is None else f", output={self.output.name!r}"
        return f"{super().extra_repr()}, step={self.step:g}, convex={self.convex}{output}"
