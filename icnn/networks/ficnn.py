"""Networks that are convex in their whole input (Amos, Xu, Kolter 2017, equation 2)."""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .activations import Activation, convex_activation
from .energy import ConvexStep, LayeredEnergy
from .initialisation import SAMPLE, Affine, measured, nonnegative, path_share
from .network import ConvexNetwork, Options, field, sizes, windows
from .operators import Operator, Shape, Window, chain, grouped
from .operators import skips as around
from .positivity import NonNegative
from .terms import Signed, direct, first


class ConvexLayer(nn.Module):
    """W^z z + W^y y + b with W^z ≥ 0; the first layer has no z, and without a skip the others have no y.

    bias: b where there is no skip that has it.
    """

    def __init__(
        self, path: NonNegative | Affine | None, skip: Affine | Signed | None, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.path, self.skip, self.bias = path, skip, bias

    def forward(self) -> ConvexStep:
        """The layer with the weights of now, a function of z and y."""
        path = None if self.path is None else self.path.linear._replace(bias=self.bias)
        return ConvexStep(path, None if self.skip is None else self.skip.linear)


class Stack(ConvexNetwork):
    """ConvexLayers of y alone; step: h, where each layer but the first adds h g(v) to the one before."""

    step: float | None = None

    def given(self, x: Float[Tensor, "..."] | None = None) -> LayeredEnergy:
        if x is not None:
            raise ValueError(f"{type(self).__name__} has no x, expected None")
        return self._energy((layer() for layer in self.layers), None, residual=self.step)

    def forward(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.given()(y)


class _FullyConvex(Stack):
    def __init__(
        self,
        y_shape: Shape,
        convs: Sequence[Window],
        dense: Sequence[int],
        activation: str | Activation,
        positivity: str,
        skips: bool,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(None, y_shape, convex_activation(activation), positivity, **options)
        widths, pieces = (*dense, 1), self.activation.pieces
        paths = grouped(chain(y_shape, convs, widths), pieces)
        inputs = grouped(around(y_shape, convs, widths), pieces)
        self.layers.append(ConvexLayer(None, first(inputs[0], positivity, self._signs)))
        fill = self._fill_with_skips if skips else self._fill_without
        fill(paths[1:], inputs[1:], positivity)

    def _fill_with_skips(self, paths: Sequence[Operator], inputs: Sequence[Operator], positivity: str) -> None:
        share = path_share(self.activation)
        for operator, skip in zip(paths, inputs, strict=True):
            path, start = nonnegative(operator, self.activation, positivity, share)
            around_it = direct(skip, positivity, self._signs, gain=(1 - share) ** 0.5, bias=start)
            self.layers.append(ConvexLayer(path, around_it))

    @torch.no_grad()
    def _fill_without(self, paths: Sequence[Operator], inputs: Sequence[Operator], positivity: str) -> None:
        y = torch.randn(SAMPLE, *self.y_shape)
        z = self.activation(self.layers[0]()(None, y))
        for operator in paths:
            variance = 1.0 if operator is paths[-1] else 2 * path_share(self.activation)
            path, start = measured(operator, z, positivity, variance)
            layer = ConvexLayer(path, None, nn.Parameter(torch.full(operator.bias_shape, start)))
            self.layers.append(layer)
            z = z if operator is paths[-1] else self.activation(layer()(z, y))


class FICNN(_FullyConvex):
    """A fully input convex network: f(y) convex in y.

        z_1 = g(W_0^y y + b_0),   z_{i+1} = g(W_i^z z_i + W_i^y y + b_i),   f(y) = W_k^z z_k + W_k^y y + b_k

    with W^z ≥ 0, W^y free, g convex and non-decreasing. Over a concatenation (x, y) it is convex in y too.

    y_dim: size of y.
    hidden: widths of z_1 … z_k; () for an affine f.
    activation: g, a name or an Activation.
    positivity: how W^z ≥ 0 is kept: by a map, "abs", "square", "softplus" or "exp", or by "project", which is
        icnn.project_ after each optimiser step.
    skips: False leaves W^y y out of all layers but the first. options: see `Options`.
    Returns (*batch,) for y of shape (*batch, y_dim).
    Raises ValueError for a g that is not convex and non-decreasing.
    Source: Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017, equation 2.
    """

    def __init__(
        self,
        y_dim: int,
        hidden: Sequence[int] = (200, 200),
        activation: str | Activation = "relu",
        positivity: str = "abs",
        skips: bool = True,
        **options: Unpack[Options],
    ) -> None:
        y_shape, hidden = sizes("y_dim", (y_dim,), 1), sizes("hidden", hidden)
        super().__init__(y_shape, (), hidden, activation, positivity, skips, **options)


class ConvFICNN(_FullyConvex):
    """A FICNN whose first layers are convolutions.

    y_shape: (channels, height, width), or (channels, length).
    convs: (channels, kernel, stride) of each convolution, zero padding, size H becomes ceil(H / stride);
        y enters each by its own strided convolution.
    dense: widths of the layers that follow.
    The other arguments, errors and source as in FICNN.
    Returns (*batch,) for y of shape (*batch, *y_shape).
    """

    def __init__(
        self,
        y_shape: Sequence[int],
        convs: Sequence[Window] = ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
        dense: Sequence[int] = (512,),
        activation: str | Activation = "relu",
        positivity: str = "abs",
        skips: bool = True,
        **options: Unpack[Options],
    ) -> None:
        y_shape, convs, dense = field("y_shape", y_shape), windows(convs), sizes("dense", dense)
        super().__init__(y_shape, convs, dense, activation, positivity, skips, **options)
