"""What every architecture may carry beside its layers: a quadratic term, and inputs in which f is monotone."""

from collections.abc import Sequence
from math import prod, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .energy import Curvature
from .initialisation import Affine
from .operators import Dense, Diagonal, Linear, Operator, Shape
from .positivity import Constrained, NonNegative, positivity_map


class Quadratic(nn.Module):
    """½ |L y|² + ½ Σ d y² + ½ μ |y|², L of the given rank (0: no L and no d), d ≥ 0.

    L and d start such that each adds a quarter of a unit variance over standard normal y.
    """

    def __init__(self, y_shape: Shape, rank: int, mu: float, positivity: str) -> None:
        super().__init__()
        self.shape, self.mu, self.factor, self.diagonal = y_shape, mu, None, None
        if rank:
            self.factor = Affine(Dense(y_shape, (rank,)), gain=(2 * rank) ** -0.25, bias=None)
            start = (2 * prod(y_shape)) ** -0.5
            self.diagonal = NonNegative(Diagonal(y_shape), positivity, torch.full(y_shape, start), start)

    def forward(self, like: Tensor) -> Curvature:
        """The term with the weights of now."""
        mu = like.new_full(self.shape, self.mu)
        diagonal = mu if self.diagonal is None else self.diagonal.weight + mu
        return Curvature(None if self.factor is None else self.factor.linear, diagonal)

    def extra_repr(self) -> str:
        return f"mu={self.mu}"


class Signed(Constrained):
    """A linear map of y with weights of the sign of each input: sign · map(raw), free where the sign is 0.

    sign: of each entry of y, or of each channel for a convolution. The weight starts as that of an Affine, with signs.
    """

    def __init__(
        self, operator: Operator, positivity: str, sign: Tensor, gain: float = 1.0, bias: float | None = 0.0
    ) -> None:
        super().__init__()
        self.operator, self.positivity, self.scale = operator, positivity_map(positivity), gain / operator.fan_in**0.5
        weight = torch.randn(operator.weight_shape) * self.scale
        self.sign = nn.Buffer(_along_inputs(sign, operator, weight), persistent=False)
        self.raw = nn.Parameter(self._raw(weight.where(self.sign == 0, weight.abs().clamp(min=1e-3 * self.scale))))
        self.bias = None if bias is None else nn.Parameter(torch.full(operator.bias_shape, bias))

    @property
    def weight(self) -> Float[Tensor, "..."]:
        return torch.where(self.sign == 0, self.raw, self.sign * self.positivity.forward(self.raw, self.scale))

    @property
    def linear(self) -> Linear:
        return Linear(self.operator, self.weight, self.bias)

    def forward(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.linear(value)

    @torch.no_grad()
    def project_(self) -> None:
        if self.positivity.needs_projection:
            self.raw.copy_(self.raw.where(self.sign == 0, self.raw.clamp(min=0)))

    @torch.no_grad()
    def holds(self) -> bool:
        return bool((self.weight * self.sign >= 0).all())

    @torch.no_grad()
    def reparametrise_(self, positivity: str) -> None:
        size = self.weight.where(self.sign == 0, self.weight.abs())
        self.positivity = positivity_map(positivity)
        self.raw.copy_(self._raw(size))

    @torch.no_grad()
    def fill_(self, size: float) -> None:
        """Set every weight to this size, with its sign."""
        self.raw.copy_(self._raw(torch.full_like(self.raw, size)))

    def _raw(self, size: Tensor) -> Tensor:
        """Raw weights of sizes, those of free weights with their sign."""
        return size.where(self.sign == 0, self.positivity.raw(size.abs(), self.scale))


def _along_inputs(sign: Tensor, operator: Operator, weight: Tensor) -> Tensor:
    if weight.ndim == 2:
        return sign.repeat_interleave(prod(operator.inputs[1:])).to(weight)
    return sign.reshape(-1, *(1 for _ in weight.shape[2:])).to(weight)


def signs(monotone: int | Sequence[int], y_shape: Shape) -> Tensor | None:
    """One sign for each entry of a vector y, or for each channel of a picture; None where all are free."""
    values = [monotone] * y_shape[0] if isinstance(monotone, int) else list(monotone)
    if len(values) != y_shape[0] or not set(values) <= {-1, 0, 1}:
        raise ValueError(f"monotone is {monotone!r}, expected -1, 0 or 1, or {y_shape[0]} of them")
    return torch.tensor(values) if any(values) else None


def direct(
    operator: Operator, positivity: str, sign: Tensor | None, gain: float = 1.0, bias: float | None = 0.0
) -> Affine | Signed:
    """A map that carries y itself: free, or with signs."""
    return Affine(operator, gain, bias) if sign is None else Signed(operator, positivity, sign, gain, bias)


def first(operator: Operator, positivity: str, sign: Tensor | None) -> Affine | Signed:
    """The map of y in the first layer: biases start as the weights of one more input that is always one.

    With biases of zero the kinks of all units would pass through y = 0, where data are centred.
    """
    inputs = operator.fan_in + 1
    layer = direct(operator, positivity, sign, sqrt(1 - 1 / inputs))
    if layer.bias is not None:
        nn.init.normal_(layer.bias, std=sqrt(1 / inputs))
    return layer
