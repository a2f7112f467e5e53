"""What all input convex networks share: the door, the energy of their convex path, and the honest question."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .activations import Activation
from .energy import LayeredEnergy, Step
from .operators import Shape, Window
from .positivity import Constrained
from .terms import Quadratic, signs


class Options(TypedDict, total=False):
    """What every architecture accepts beside its own arguments.

    quadratic: rank r of a term ½ |L y|² + ½ Σ d y² in f, L with r rows, d ≥ 0; 0 for none.
    strong_convexity: μ of a term ½ μ |y|² in f, which is fixed.
    monotone: 0 where f is free; 1 where it does not decrease in an entry of y, -1 where it does not increase; one
        number or one for each entry of y (for each channel of a picture). Not together with a quadratic term.
    """

    quadratic: int
    strong_convexity: float
    monotone: int | Sequence[int]


class ConvexNetwork(nn.Module, ABC):
    """A function f(y) or f(x, y) that is convex in y: (*batch, *y_shape) to (*batch,).

    x_shape is None when there is no x. The keyword arguments are `Options`.
    """

    def __init__(
        self,
        x_shape: Shape | None,
        y_shape: Shape,
        activation: Activation,
        positivity: str = "abs",
        *,
        quadratic: int = 0,
        strong_convexity: float = 0.0,
        monotone: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        self.x_shape, self.y_shape, self.activation = x_shape, y_shape, activation
        self.layers = nn.ModuleList()
        self.output: Activation | None = None
        if quadratic < 0 or not 0 <= strong_convexity < inf:
            raise ValueError(f"quadratic is {quadratic} and strong_convexity {strong_convexity}, expected both >= 0")
        self._signs, self.quadratic = signs(monotone, y_shape), None
        if quadratic or strong_convexity:
            if self._signs is not None:
                raise ValueError("monotone and a quadratic term exclude each other: ½ yᵀQy is not monotone")
            self.quadratic = Quadratic(y_shape, quadratic, strong_convexity, positivity)

    @abstractmethod
    def given(self, x: Float[Tensor, "..."] | None = None) -> Callable[[Tensor], Tensor]:
        """The energy y -> f(x, y); everything that depends on x and the weights alone is computed once.

        x: (*batch, *x_shape), or None for a network without x.

        The energy maps y of shape (*batch, *y_shape) to (*batch,); y may carry extra leading dimensions,
        (*extra, *batch, *y_shape) to (*extra, *batch). Any differentiable function will do for inference; an `Energy`
        makes it fast.
        """

    @property
    def smooth(self) -> bool:
        """Whether f is twice continuously differentiable in y."""
        return all(activation.smooth for activation in self.nonlinear)

    @property
    def piecewise_linear(self) -> bool:
        """Whether f is piecewise linear in y."""
        return self.quadratic is None and all(activation.piecewise_linear for activation in self.nonlinear)

    @property
    def nonlinear(self) -> list[Activation]:
        """The activations that f passes through."""
        hidden = [self.activation] if len(self.layers) > 1 else []
        return hidden if self.output is None else [*hidden, self.output]

    def is_convex(self) -> bool:
        """Whether every weight that must be non-negative is so now; if not, f need not be convex in y.

        False after an optimiser step with positivity="project" until icnn.project_ is called, and for NaN
        weights.
        """
        return all(part.holds() for part in self.modules() if isinstance(part, Constrained))

    def check_convex(self) -> None:
        """Raises ValueError unless `is_convex`."""
        if not self.is_convex():
            raise ValueError(
                "f is not convex in y: a constrained weight is negative. Call icnn.project_(f) after each step."
            )

    def extra_repr(self) -> str:
        x = "" if self.x_shape is None else f"x_shape={self.x_shape}, "
        return f"{x}y_shape={self.y_shape}, activation={self.activation.name!r}"

    def _energy(self, steps: Iterable[Step], batch: torch.Size | None, residual: float | None = None) -> LayeredEnergy:
        """The energy along the convex path; batch: the batch dimensions of x, None without x."""
        weight = next(self.parameters())
        check = partial(_check_y, self.y_shape, weight)
        curvature = None if self.quadratic is None else self.quadratic(weight)
        return LayeredEnergy(tuple(steps), self.activation, batch, check, residual, self.output, curvature)

    def _check(self, name: str, value: Tensor, shape: Shape) -> None:
        _check_value(name, value, shape, next(self.parameters()))


def _check_value(name: str, value: Tensor, shape: Shape, weight: Tensor) -> None:
    """The door: trailing shape, dtype and device."""
    if value.shape[-len(shape) :] != torch.Size(shape):
        expected = ", ".join(["*batch", *map(str, shape)])
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({expected})")
    for fact in ("dtype", "device"):
        came, expected = getattr(value, fact), getattr(weight, fact)
        if came != expected:
            raise ValueError(f"{name} has {fact} {came}, expected that of the network, {expected}")


def _check_y(y_shape: Shape, weight: Tensor, y: Tensor, batch: torch.Size | None) -> None:
    _check_value("y", y, y_shape, weight)
    _check_batch(y.shape[: -len(y_shape)], batch or torch.Size())


def _check_batch(of_y: torch.Size, of_x: torch.Size) -> None:
    sizes_from_the_last = zip(reversed(of_y), reversed(of_x), strict=False)
    if any(a != b and 1 not in (a, b) for a, b in sizes_from_the_last):
        raise ValueError(f"y has batch dimensions {tuple(of_y)}, expected ones that broadcast with x's {tuple(of_x)}")


def sizes(name: str, values: Sequence[int], length: int | None = None) -> tuple[int, ...]:
    """Positive integers as a tuple, refused with a ValueError otherwise; any number without a length."""
    fits = length is None or len(values) == length
    if not fits or not all(isinstance(value, int) and value > 0 for value in values):
        raise ValueError(f"{name} is {values!r}, expected {'' if length is None else f'{length} '}positive integers")
    return tuple(values)


def windows(convs: Sequence[Window]) -> tuple[Window, ...]:
    """Convolutions as (channels, kernel, stride), refused with a ValueError otherwise."""
    for window in convs:
        sizes("convs: (channels, kernel, stride)", window, 3)
    return tuple(convs)


def field(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """The shape of a signal (channels, length) or picture (channels, height, width), refused otherwise."""
    if len(values) not in (2, 3):
        raise ValueError(f"{name} is {values!r}, expected (channels, length) or (channels, height, width)")
    return sizes(name, values)
