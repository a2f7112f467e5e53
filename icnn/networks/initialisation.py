"""Where the weights start: a fresh deep network keeps the spread of its inputs.

Non-negative weights of mean m turn the mean μ of n activated units into n m μ and add up what the units
have in common: with the usual scales a deep network explodes along one direction and forgets the rest.
With v and c the variance and the covariance of the units (at correlation 1/2) and w = m √(π/2) |ε|
half-normal,

    E[W z] = n m μ,        Var[W z] = m² n (π/2 v + (n − 1) c).

The bias takes −n m μ, and m is such that the path contributes half of a unit variance; the skips give
the other half (in a gated layer half of it through y, half through x). An activation that grows faster
than linearly makes large units larger from layer to layer, and its path contributes less. Every
positivity map starts at the inverse image of the same weights, so all maps start as the same function;
maps are scaled by the size of the weights, or softplus would be flat where they lie.

Measured: standard deviation of f and mean cosine between last features of different standard normal
inputs, 16 → 8 layers of 64 (ReLU / softplus, five seeds).

    start                        sd of f          cosine
    this one                     0.79 / 0.76      0.15 / 0.79
    |W|/2 of the torch default   20.2 / 15.7      1.00 / 1.00
    |W| of the torch default     4570 / 3640      1.00 / 1.00

What that means for a fit: benchmarks/convex_regression.py. Heavier tails (log-normal of variance n m²/2) keep more
directions and fit alike.
"""

from dataclasses import dataclass
from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .activations import Activation
from .operators import Linear, Operator
from .positivity import NonNegative

CORRELATION = 0.5  # between units of one layer, taken when their covariance is estimated
QUADRATURE = 4_000  # sample for units of several pieces
SAMPLE = 256  # of inputs, where a stack is measured


@dataclass(frozen=True)
class Moments:
    """Of g(ξ), ξ standard normal: mean, second moment, variance, and covariance of two that correlate."""

    mean: float
    second: float
    variance: float
    covariance: float


def moments(activation: Activation, correlation: float = CORRELATION) -> Moments:
    """Moments of an activation by quadrature on a grid; of a unit with several pieces, on a fixed sample."""
    if activation.pieces > 1:
        return _sampled_moments(activation, correlation)
    grid = torch.linspace(-8, 8, 321, dtype=torch.float64)
    density = torch.softmax(-grid.square() / 2, 0)
    first = activation(grid)
    other = activation(correlation * grid[:, None] + sqrt(1 - correlation**2) * grid) @ density
    mean, second = float(density @ first), float(density @ first.square())
    return Moments(mean, second, second - mean**2, float(density @ (first * other)) - mean**2)


def _sampled_moments(activation: Activation, correlation: float) -> Moments:
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, QUADRATURE, activation.pieces, generator=generator, dtype=torch.float64)
    first, other = activation(one), activation(correlation * one + sqrt(1 - correlation**2) * two)
    mean, second = float(first.mean()), float(first.square().mean())
    return Moments(mean, second, second - mean**2, float((first * other).mean()) - mean**2)


def path_share(activation: Activation) -> float:
    """The part of a unit variance that comes along the path: 1/2, less for units that grow faster than linearly.

    What units have in common, c standard deviations of it, comes back along the path as √(2 share) c g'(c)/g'(1). At
    c = 4, where few inputs are, it must not exceed c; for units of degree d, g'(4)/g'(1) = 4^(d − 1) = g'(64)/g'(16).
    """
    if activation.pieces > 1:  # none grows faster than linearly; what the pieces have in common adds up more
        return 0.25
    near, far = activation.slope(torch.tensor([16.0, 64.0], dtype=torch.float64)).tolist()
    return 0.5 * min(1.0, abs(near / far)) ** 2 if far else 0.5


class Affine(nn.Module):
    """A free linear map: the weight starts normal with variance gain² / fan_in, the bias constant."""

    def __init__(self, operator: Operator, gain: float = 1.0, bias: float | None = 0.0) -> None:
        super().__init__()
        self.operator = operator
        self.weight = nn.Parameter(torch.randn(operator.weight_shape) * (gain / sqrt(operator.fan_in)))
        self.bias = None if bias is None else nn.Parameter(torch.full(operator.bias_shape, bias))

    @property
    def linear(self) -> Linear:
        return Linear(self.operator, self.weight, self.bias)

    def forward(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.linear(value)

    def extra_repr(self) -> str:
        return f"{self.operator}, bias={self.bias is not None}"


def nonnegative(operator: Operator, activation: Activation, positivity: str, share: float) -> tuple[NonNegative, float]:
    """A non-negative map of activated units, and the bias that centres what it gives.

    share: the variance of what it gives, over standard inputs of the units before it.
    """
    unit, count = moments(activation), operator.fan_in
    mean = sqrt(share / (count * (pi / 2 * unit.variance + (count - 1) * unit.covariance)))
    scale = mean * sqrt(pi / 2)
    start = torch.randn(operator.weight_shape).abs().clamp(min=1e-3) * scale
    return NonNegative(operator, positivity, start, scale), -count * mean * unit.mean


@torch.no_grad()
def measured(operator: Operator, z: Tensor, positivity: str, variance: float = 1.0) -> tuple[NonNegative, float]:
    """A non-negative map, and the bias, whose image of a sample of units has mean zero and this variance.

    For stacks without skips: what units have in common grows along them, which `nonnegative` does not foresee.
    """
    weight = torch.randn(operator.weight_shape).abs().clamp(min=1e-3)
    image = operator(weight, z)
    size = float(sqrt(variance) / image.std(0).mean().clamp(min=1e-6))
    scale = 1 / operator.fan_in  # not measured: networks of equal arguments must share it to exchange their states
    return NonNegative(operator, positivity, size * weight, scale), -size * float(image.mean())
