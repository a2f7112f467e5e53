"""Activations, and what the convexity of a network in y asks of them.

A composition g(f(y)) with f convex is convex when g is convex and non-decreasing. The layers that carry y
accept only such g; the layers that carry the context x accept anything, because nothing is claimed about x.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """A scalar function applied elementwise, with the facts that convexity and differentiation rely on.

    pieces: numbers that make one unit; where more than one, they are the last dimension, which the function reduces.
    convex and nondecreasing then hold in all of them together and in each of them.

    smooth: twice continuously differentiable. piecewise_linear: its second derivative vanishes almost
    everywhere. Both may be False (ELU: its second derivative jumps).
    derivative: elementwise, at a kink the element that autograd takes; where it is None, autograd is asked.

    What bounds of a convex network rest on, None where it is not known:
    lines: slopes s, one for each piece, and offsets o of g(v) = max (sᵀv + o), but for a constant.
    recession: t to lim g(τt) / τ, the largest derivative of g along t, whatever v.
    curvature: bounds l, u of v to c with 0 ⪯ ∇²g(v) ⪯ diag(c); l and u may be infinite, and c at a kink is.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    convex: bool = False
    nondecreasing: bool = False
    smooth: bool = False
    piecewise_linear: bool = False
    derivative: Callable[[Tensor], Tensor] | None = None
    pieces: int = 1
    lines: tuple[tuple[tuple[float, ...], float], ...] | None = None
    recession: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)
    curvature: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, compare=False)

    def __call__(self, value: Tensor) -> Tensor:
        return self.function(value)

    def slope(self, value: Tensor) -> Tensor:
        """The derivative, elementwise and without a graph."""
        if self.derivative is not None:
            return self.derivative(value.detach())
        with torch.enable_grad():
            leaf = value.detach().requires_grad_()
            return torch.autograd.grad(self.function(leaf).sum(), leaf)[0]

    def push(self, slope: Tensor, tangent: Tensor) -> Tensor:
        """The derivative applied to a tangent of the pre-activations."""
        image = slope * tangent
        return image if self.pieces == 1 else image.sum(-1)

    def pull(self, slope: Tensor, cotangent: Tensor) -> Tensor:
        """The transposed derivative applied to a cotangent of the units."""
        return slope * (cotangent if self.pieces == 1 else cotangent.unsqueeze(-1))


def squared_relu(value: Tensor) -> Tensor:
    """max(value, 0)², elementwise."""
    return F.relu(value).square()


def squareplus(value: Tensor) -> Tensor:
    """(value + √(value² + 4)) / 2, elementwise: a softplus without exponentials."""
    return (value + torch.sqrt(value.square() + 4)) / 2


def _relu_slope(value: Tensor) -> Tensor:
    return value.sign().clamp_min(0.0)  # half the time of a comparison and a cast


def _leaky_relu_slope(value: Tensor) -> Tensor:
    return value.sign().clamp_min(0.01)


def _elu_slope(value: Tensor) -> Tensor:
    return value.clamp_max(0.0).exp()


def _softplus(value: Tensor) -> Tensor:
    return F.softplus(value, threshold=40.0)  # at its default of 20 torch steps down by 2e-9 to the identity


def _squareplus_slope(value: Tensor) -> Tensor:
    return (1 + value / torch.sqrt(value.square() + 4)) / 2


def _squared_relu_slope(value: Tensor) -> Tensor:
    return 2 * F.relu(value)


def _nearest_to_zero(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.zeros_like(lower).clamp(lower, upper)


def _elu_curvature(lower: Tensor, upper: Tensor) -> Tensor:
    return upper.clamp_max(0.0).exp().masked_fill(lower >= 0, 0.0)


def _softplus_curvature(lower: Tensor, upper: Tensor) -> Tensor:
    v = _nearest_to_zero(lower, upper)
    return torch.sigmoid(v) * torch.sigmoid(-v)


def _squareplus_curvature(lower: Tensor, upper: Tensor) -> Tensor:
    return 2 * (_nearest_to_zero(lower, upper).square() + 4) ** -1.5


def _squared_relu_curvature(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.full_like(upper, 2.0).masked_fill(upper <= 0, 0.0)


def _unbounded(t: Tensor) -> Tensor:
    """The recession function of what grows faster than linearly to the right, and not at all to the left."""
    return torch.full_like(t, torch.inf).masked_fill(t <= 0, 0.0)


def two_lines(left: float) -> dict[str, Any]:
    """The facts about max(v, left · v), left <= 1."""
    lines = (((left,), 0.0), ((1.0,), 0.0))
    return dict(piecewise_linear=True, lines=lines, recession=partial(F.leaky_relu, negative_slope=left))


_CARRIES_Y = partial(Activation, convex=True, nondecreasing=True)

_ALL = (
    _CARRIES_Y("relu", F.relu, derivative=_relu_slope, **two_lines(0.0)),
    _CARRIES_Y("leaky_relu", F.leaky_relu, derivative=_leaky_relu_slope, **two_lines(0.01)),
    _CARRIES_Y("elu", F.elu, derivative=_elu_slope, recession=F.relu, curvature=_elu_curvature),
    _CARRIES_Y(
        "softplus", _softplus, smooth=True, derivative=torch.sigmoid, recession=F.relu, curvature=_softplus_curvature
    ),
    _CARRIES_Y(
        "squareplus",
        squareplus,
        smooth=True,
        derivative=_squareplus_slope,
        recession=F.relu,
        curvature=_squareplus_curvature,
    ),
    _CARRIES_Y(
        "squared_relu",
        squared_relu,
        derivative=_squared_relu_slope,
        recession=_unbounded,
        curvature=_squared_relu_curvature,
    ),
    Activation("abs", torch.abs, convex=True, piecewise_linear=True),
    Activation("square", torch.square, convex=True, smooth=True),
    # Steeper just left of zero (1.76) than right of it (1.05): the slope falls, so SELU is not convex.
    Activation("selu", F.selu, nondecreasing=True),
    Activation("tanh", torch.tanh, nondecreasing=True, smooth=True),
    Activation("sigmoid", torch.sigmoid, nondecreasing=True, smooth=True),
    Activation("relu6", F.relu6, nondecreasing=True, piecewise_linear=True),
    Activation("hardtanh", F.hardtanh, nondecreasing=True, piecewise_linear=True),
    Activation("softsign", F.softsign, nondecreasing=True),
    Activation("gelu", F.gelu, smooth=True),
    Activation("silu", F.silu, smooth=True),
    Activation("mish", F.mish, smooth=True),
    Activation("sin", torch.sin, smooth=True),
)

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({activation.name: activation for activation in _ALL})
CONVEX_ACTIVATIONS = tuple(a.name for a in _ALL if a.convex and a.nondecreasing)


def any_activation(activation: str | Activation, argument: str = "activation") -> Activation:
    """The activation of that name; an Activation passes through. Raises ValueError for an unknown name."""
    if isinstance(activation, Activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"{argument} {activation!r} is unknown; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def elementwise_activation(activation: str | Activation, argument: str) -> Activation:
    """The activation of that name, refused with a ValueError if its units have several pieces."""
    found = any_activation(activation, argument)
    if found.pieces > 1:
        raise ValueError(f"{argument} {found.name!r} takes {found.pieces} numbers to one, expected an elementwise one")
    return found


def convex_activation(activation: str | Activation, argument: str = "activation") -> Activation:
    """The activation of that name, refused with a ValueError unless it is convex and non-decreasing."""
    found = any_activation(activation, argument)
    reasons = ["is not convex"] * (not found.convex) + ["decreases somewhere"] * (not found.nondecreasing)
    if reasons:
        raise ValueError(
            f"{argument} {found.name!r} {' and '.join(reasons)}: "
            f"a network built with it would not be convex in y; allowed are {', '.join(CONVEX_ACTIVATIONS)}"
        )
    return found
