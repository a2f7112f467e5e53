"""Networks that are convex in part of their input (Amos, Xu, Kolter 2017, equation 3)."""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .activations import Activation, convex_activation, elementwise_activation
from .energy import ConvexStep, GatedStep, Gates, LayeredEnergy
from .initialisation import Affine, moments, nonnegative, path_share
from .network import ConvexNetwork, Options, field, sizes, windows
from .operators import Dense, Operator, Shape, Subpixel, Window, chain, grouped
from .operators import skips as around
from .positivity import NonNegative
from .terms import Signed, direct


class GatedLayer(nn.Module):
    """W^z (z ∘ [W^{zu} u + b^z]₊) + W^y (y ∘ (W^{yu} u + b^y)) + W^u u + b; the first layer has no z.

    The gate of y is made non-negative too for the inputs in which f is monotone.
    """

    def __init__(
        self,
        path: NonNegative | None,
        path_gate: Affine | None,
        skip: Affine | Signed | None,
        skip_gate: Affine | None,
        offset: Affine,
        monotone: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.path, self.path_gate = path, path_gate
        self.skip, self.skip_gate, self.offset = skip, skip_gate, offset
        self.monotone = None if monotone is None else nn.Buffer(monotone, persistent=False)

    def forward(self, u: Float[Tensor, "..."]) -> GatedStep:
        """The layer at one context, a function of z and y."""
        path, skip = (None if part is None else part.linear for part in (self.path, self.skip))
        path_gate = None if self.path_gate is None else F.relu(self.path_gate(u))
        skip_gate = None if self.skip_gate is None else self.skip_gate(u)
        if skip_gate is not None and self.monotone is not None:
            skip_gate = torch.where(self.monotone, F.relu(skip_gate), skip_gate)
        return GatedStep(ConvexStep(path, skip), Gates(path_gate, skip_gate, self.offset(u)))


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
        skips: bool,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(x_shape, y_shape, convex_activation(activation), positivity, **options)
        if not (coupling or skips):
            raise ValueError("coupling=False needs skips=True: without both, y would not enter")
        self.x_activation, self.coupling = elementwise_activation(x_activation, "x_activation"), coupling
        self._positivity, self._has_skips = positivity, skips
        contexts = chain(x_shape, convs, (*dense, 1))
        paths = grouped(contexts, self.activation.pieces)
        inputs = grouped(around(y_shape, convs, (*dense, 1)), self.activation.pieces)
        gains = [1.0] + [moments(self.x_activation).second ** -0.5] * (len(contexts) - 1)
        self.context = nn.ModuleList(map(Affine, contexts[:-1], gains))
        layers = []
        for i, (path, skip, gain) in enumerate(zip(paths, inputs, gains, strict=True)):
            y_gate = gate(path.inputs, y_shape, scale=prod(stride for _, _, stride in convs[:i]))
            layers.append(self._layer(i == 0, path, skip, y_gate, gain))
        if not coupling:  # cut after all layers were drawn, so that one seed starts both networks alike
            layers = layers[-1:]
            layers[0].path = layers[0].path_gate = None
        # ∂f/∂yⱼ, the negative logit of argmin f − H, starts as an ordinary linear layer of the context.
        last = layers[-1]
        if isinstance(last.skip, Signed):
            last.skip.fill_(1.0)
        elif last.skip is not None:
            nn.init.ones_(last.skip.weight)
        if last.skip_gate is not None and last.skip_gate.bias is not None:
            nn.init.zeros_(last.skip_gate.bias)
        self.layers = nn.ModuleList(layers)

    def _layer(self, first: bool, context: Operator, around_it: Operator, y_gate: Operator, gain: float) -> GatedLayer:
        skipped = not (first or self._has_skips)
        path = path_gate = skip = skip_gate = monotone = None
        share, centre = 1 / 2, 0.0  # of y and of x each
        if not first:
            along = path_share(self.activation) * (3 / 2 if skipped else 1)
            path, centre = nonnegative(context, self.activation, self._positivity, along)
            path_gate = Affine(gate(context.inputs, context.inputs), gain / 2, bias=1.0)
            share = (1 - along) / (1 if skipped else 2)
        if not skipped:
            skip = direct(around_it, self._positivity, self._signs, sqrt(share), bias=None)
            skip_gate = Affine(y_gate, gain / 2, bias=1.0)
            if self._signs is not None:
                monotone = (self._signs != 0).reshape(-1, *(1 for _ in self.y_shape[1:]))
        offset = Affine(context, gain * sqrt(share), bias=centre)
        return GatedLayer(path, path_gate, skip, skip_gate, offset, monotone)

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
    return Subpixel(inputs, outputs, scale) if len(inputs) > 1 else Dense(inputs, outputs)


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
    positivity: how W^z ≥ 0 is kept: by a map, "abs", "square", "softplus" or "exp", or by "project", which is
        icnn.project_ after each optimiser step.
    coupling: False removes the W^z path, all else equal: f = W^y (y ∘ (W^{yu} u + b^y)) + W^u u + b, which is
        affine in y.
    skips: False leaves the W^y path out of all layers but the first. options: see `Options`.
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
        positivity: str = "abs",
        coupling: bool = True,
        skips: bool = True,
        **options: Unpack[Options],
    ) -> None:
        x_shape, y_shape = sizes("x_dim", (x_dim,), 1), sizes("y_dim", (y_dim,), 1)
        hidden, paths = sizes("hidden", hidden), (activation, x_activation, positivity)
        super().__init__(x_shape, y_shape, (), hidden, *paths, coupling, skips, **options)


class ConvPICNN(_PartiallyConvex):
    """A PICNN whose first layers are convolutions; the defaults are the paper's network for pictures.

    x_shape, y_shape: (channels, height, width) or (channels, length), equal but for the channels.
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
        positivity: str = "abs",
        coupling: bool = True,
        skips: bool = True,
        **options: Unpack[Options],
    ) -> None:
        x_shape, y_shape = field("x_shape", x_shape), field("y_shape", y_shape)
        if x_shape[1:] != y_shape[1:]:
            raise ValueError(
                f"x_shape is {x_shape} and y_shape {y_shape}, expected equal lengths or heights and widths"
            )
        convs, dense = windows(convs), sizes("dense", dense)
        paths = (activation, x_activation, positivity)
        super().__init__(x_shape, y_shape, convs, dense, *paths, coupling, skips, **options)
