"""Networks that are convex in their whole input (Amos, Xu, Kolter 2017, equation 2)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from .activations import Activation, convex_activation
from .energy import ConvexStep, LayeredEnergy
from .initialisation import Affine, nonnegative
from .network import ConvexNetwork, sizes, windows
from .operators import Shape, Window, chain, skips
from .positivity import NonNegative


class ConvexLayer(nn.Module):
    """W^z z + W^y y + b with W^z ≥ 0; the first layer has no z."""

    def __init__(self, path: NonNegative | None, skip: Affine) -> None:
        super().__init__()
        self.path, self.skip = path, skip

    def forward(self) -> ConvexStep:
        """The layer with the weights of now, a function of z and y."""
        return ConvexStep(None if self.path is None else self.path.linear, self.skip.linear)


class _FullyConvex(ConvexNetwork):
    def __init__(
        self,
        y_shape: Shape,
        convs: Sequence[Window],
        dense: Sequence[int],
        activation: str | Activation,
        positivity: str,
    ) -> None:
        super().__init__(None, y_shape, convex_activation(activation))
        paths, direct = chain(y_shape, convs, (*dense, 1)), skips(y_shape, convs, (*dense, 1))
        self.layers.append(ConvexLayer(None, Affine(direct[0])))
        for operator, skip in zip(paths[1:], direct[1:], strict=True):
            path, bias = nonnegative(operator, self.activation, positivity, share=1 / 2)
            self.layers.append(ConvexLayer(path, Affine(skip, gain=(1 / 2) ** 0.5, bias=bias)))

    def given(self, x: Float[Tensor, "..."] | None = None) -> LayeredEnergy:
        if x is not None:
            raise ValueError(f"{type(self).__name__} has no x, expected None")
        return self._energy((layer() for layer in self.layers), None)

    def forward(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.given()(y)


class FICNN(_FullyConvex):
    """A fully input convex network: f(y) convex in y.

        z_1 = g(W_0^y y + b_0),   z_{i+1} = g(W_i^z z_i + W_i^y y + b_i),   f(y) = W_k^z z_k + W_k^y y + b_k

    with W^z ≥ 0, W^y free, g convex and non-decreasing. Over a concatenation (x, y) it is convex in y too.

    y_dim: size of y.
    hidden: widths of z_1 … z_k; () for an affine f.
    activation: g, a name or an Activation.
    positivity: how W^z ≥ 0 is kept: "project" (icnn.project_ after each optimiser step), "abs" or "softplus".
    Returns (*batch,) for y of shape (*batch, y_dim).
    Raises ValueError for a g that is not convex and non-decreasing.
    Source: Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017, equation 2.
    """

    def __init__(
        self,
        y_dim: int,
        hidden: Sequence[int] = (200, 200),
        activation: str | Activation = "relu",
        positivity: str = "project",
    ) -> None:
        super().__init__(sizes("y_dim", (y_dim,), 1), (), sizes("hidden", hidden), activation, positivity)


class ConvFICNN(_FullyConvex):
    """A FICNN whose first layers are convolutions.

    y_shape: (channels, height, width).
    convs: (channels, kernel, stride) of each convolution, zero padding, size H becomes ceil(H / stride);
        y enters each by its own strided convolution.
    dense: widths of the layers that follow.
    activation, positivity, errors and source as in FICNN.
    Returns (*batch,) for y of shape (*batch, *y_shape).
    """

    def __init__(
        self,
        y_shape: Sequence[int],
        convs: Sequence[Window] = ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
        dense: Sequence[int] = (512,),
        activation: str | Activation = "relu",
        positivity: str = "project",
    ) -> None:
        super().__init__(sizes("y_shape", y_shape, 3), windows(convs), sizes("dense", dense), activation, positivity)
