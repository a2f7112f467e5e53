"""Networks that are convex in part of their input (Amos, Xu, Kolter 2017, equation 3)."""

from collections.abc import Sequence
from math import prod, sqrt

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .activations import Activation, any_activation, convex_activation
from .energy import ConvexStep, GatedStep, Gates, LayeredEnergy
from .initialisation import Affine, moments, nonnegative
from .network import ConvexNetwork, sizes, windows
from .operators import Dense, Operator, Shape, Subpixel, Window, chain, skips
from .positivity import NonNegative


class GatedLayer(nn.Module):
    """W^z (z ∘ [W^{zu} u + b^z]₊) + W^y (y ∘ (W^{yu} u + b^y)) + W^u u + b; the first layer has no z."""

    def __init__(
        self, path: NonNegative | None, path_gate: Affine | None, skip: Affine, skip_gate: Affine, offset: Affine
    ) -> None:
        super().__init__()
        self.path, self.path_gate = path, path_gate
        self.skip, self.skip_gate, self.offset = skip, skip_gate, offset

    def forward(self, u: Float[Tensor, "..."]) -> GatedStep:
        """The layer at one context, a function of z and y."""
        linear = ConvexStep(None if self.path is None else self.path.linear, self.skip.linear)
        path = None if self.path_gate is None else F.relu(self.path_gate(u))
        return GatedStep(linear, Gates(path, self.skip_gate(u), self.offset(u)))


class _PartiallyConvex(ConvexNetwork):
    def __init__(
        self,
        x_shape: Shape,
        y_shape: Shape,
        convs: Sequence[Window],
        dense: Sequence[int],
        activation: str | Activation,
        x_activation: str | Activation,
        positivity: str,
        coupling: bool,
    ) -> None:
        super().__init__(x_shape, y_shape, convex_activation(activation))
        self.x_activation, self.coupling = any_activation(x_activation, "x_activation"), coupling
        contexts, direct = chain(x_shape, convs, (*dense, 1)), skips(y_shape, convs, (*dense, 1))
        gains = [1.0] + [moments(self.x_activation).second ** -0.5] * (len(contexts) - 1)
        self.context = nn.ModuleList(map(Affine, contexts[:-1], gains))
        layers = []
        for i, (context, skip, gain) in enumerate(zip(contexts, direct, gains, strict=True)):
            y_gate = gate(context.inputs, y_shape, scale=prod(stride for _, _, stride in convs[:i]))
            layers.append(self._layer(i == 0, context, skip, y_gate, gain, positivity))
        if not coupling:  # cut after all layers were drawn, so that one seed starts both networks alike
            layers = layers[-1:]
            layers[0].path = layers[0].path_gate = None
        # ∂f/∂yⱼ, the negative logit of argmin f − H, starts as an ordinary linear layer of the context.
        nn.init.ones_(layers[-1].skip.weight)
        nn.init.zeros_(layers[-1].skip_gate.bias)
        self.layers = nn.ModuleList(layers)

    def _layer(
        self,
        first: bool,
        context: Operator,
        skip: Operator,
        skip_gate: Operator,
        gain: float,
        positivity: str,
    ) -> GatedLayer:
        path = path_gate = None
        share, centre = (1 / 2, 0.0) if first else (1 / 4, 0.0)
        if not first:
            path, centre = nonnegative(context, self.activation, positivity, share=1 / 2)
            path_gate = Affine(gate(context.inputs, context.inputs), gain / 2, bias=1.0)
        return GatedLayer(
            path=path,
            path_gate=path_gate,
            skip=Affine(skip, sqrt(share), bias=None),
            skip_gate=Affine(skip_gate, gain / 2, bias=1.0),
            offset=Affine(context, gain * sqrt(share), bias=centre),
        )

    def given(self, x: Float[Tensor, "..."] | None = None) -> LayeredEnergy:
        if x is None or self.x_shape is None:
            raise ValueError(f"{type(self).__name__} needs x, got None")
        self._check("x", x, self.x_shape)
        contexts = [x]
        for layer in self.context:
            contexts.append(self.x_activation(layer(contexts[-1])))
        layers = zip(self.layers, contexts[-len(self.layers) :], strict=True)
        return self._energy((layer(u) for layer, u in layers), x.shape[: -len(self.x_shape)])

    def forward(self, x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.given(x)(y)


def gate(inputs: Shape, outputs: Shape, scale: int = 1) -> Operator:
    """From the context to one factor for each entry of z or y, with the resolution of z or y."""
    return Subpixel(inputs, outputs, scale) if len(inputs) == 3 else Dense(inputs, outputs)


class PICNN(_PartiallyConvex):
    """A partially input convex network: f(x, y) convex in y, anything in x.

        u_{i+1} = g̃(W̃_i u_i + b̃_i),   u_0 = x
        z_{i+1} = g(W_i^z (z_i ∘ [W_i^{zu} u_i + b_i^z]₊) + W_i^y (y ∘ (W_i^{yu} u_i + b_i^y))
                    + W_i^u u_i + b_i)

    with W^z ≥ 0, all else free, g convex and non-decreasing. No z enters the first layer; f is the last one,
    without g.

    x_dim, y_dim: sizes of x and y.
    hidden: widths of the u_i and z_i.
    activation, x_activation: g and g̃, names or Activations; g̃ may be anything.
    positivity: how W^z ≥ 0 is kept: "project" (icnn.project_ after each optimiser step), "abs" or "softplus".
    coupling: False removes the W^z path, all else equal: f = W^y (y ∘ (W^{yu} u + b^y)) + W^u u + b, which is
        affine in y.
    Returns (*batch,) for x of shape (*batch, x_dim) and y of shape (*batch, y_dim).
    Raises ValueError for a g that is not convex and non-decreasing.
    Source: Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017, equation 3.
    """

    def __init__(
        self,
        x_dim: int,
        y_dim: int,
        hidden: Sequence[int] = (600,),
        activation: str | Activation = "relu",
        x_activation: str | Activation = "relu",
        positivity: str = "project",
        coupling: bool = True,
    ) -> None:
        x_shape, y_shape = sizes("x_dim", (x_dim,), 1), sizes("y_dim", (y_dim,), 1)
        super().__init__(x_shape, y_shape, (), sizes("hidden", hidden), activation, x_activation, positivity, coupling)


class ConvPICNN(_PartiallyConvex):
    """A PICNN whose first layers are convolutions; the defaults are the paper's network for pictures.

    x_shape, y_shape: (channels, height, width), heights and widths equal.
    convs: (channels, kernel, stride) of each convolution of x-path and z-path, zero padding so that size H
        becomes ceil(H / stride); y enters each by its own strided convolution, gated at its full resolution.
    dense: widths of the layers that follow.
    The other arguments, errors and source as in PICNN.
    Returns (*batch,) for x of shape (*batch, *x_shape) and y of shape (*batch, *y_shape).
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        y_shape: Sequence[int],
        convs: Sequence[Window] = ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
        dense: Sequence[int] = (512,),
        activation: str | Activation = "relu",
        x_activation: str | Activation = "relu",
        positivity: str = "project",
        coupling: bool = True,
    ) -> None:
        x_shape, y_shape = sizes("x_shape", x_shape, 3), sizes("y_shape", y_shape, 3)
        if x_shape[1:] != y_shape[1:]:
            raise ValueError(f"x_shape is {x_shape} and y_shape {y_shape}, expected equal heights and widths")
        convs, dense = windows(convs), sizes("dense", dense)
        super().__init__(x_shape, y_shape, convs, dense, activation, x_activation, positivity, coupling)
