"""What all input convex networks share: the door, the energy of their convex path, and the honest question."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .activations import Activation
from .energy import LayeredEnergy, Step
from .operators import Shape, Window
from .positivity import NonNegative


class ConvexNetwork(nn.Module, ABC):
    """A function f(y) or f(x, y) that is convex in y: (*batch, *y_shape) to (*batch,).

    x_shape is None when there is no x.
    """

    def __init__(self, x_shape: Shape | None, y_shape: Shape, activation: Activation) -> None:
        super().__init__()
        self.x_shape, self.y_shape, self.activation = x_shape, y_shape, activation
        self.layers = nn.ModuleList()

    @abstractmethod
    def given(self, x: Float[Tensor, "..."] | None = None) -> Callable[[Tensor], Tensor]:
        """The energy y -> f(x, y); everything that depends on x and the weights alone is computed once.

        x: (*batch, *x_shape), or None for a network without x. The energy maps y of shape (*batch, *y_shape)
        to (*batch,); y may carry extra leading dimensions, (*extra, *batch, *y_shape) to (*extra, *batch).
        Any differentiable function will do for inference; an `Energy` makes it fast.
        """

    @property
    def smooth(self) -> bool:
        """Whether f is twice continuously differentiable in y."""
        return self.activation.smooth or len(self.layers) == 1

    @property
    def piecewise_linear(self) -> bool:
        """Whether f is piecewise linear in y."""
        return self.activation.piecewise_linear or len(self.layers) == 1

    def is_convex(self) -> bool:
        """Whether every weight that must be non-negative is so now; if not, f need not be convex in y.

        False after an optimiser step with positivity="project" until icnn.project_ is called, and for NaN
        weights.
        """
        return all(part.holds() for part in self.modules() if isinstance(part, NonNegative))

    def extra_repr(self) -> str:
        x = "" if self.x_shape is None else f"x_shape={self.x_shape}, "
        return f"{x}y_shape={self.y_shape}, activation={self.activation.name!r}"

    def _energy(self, steps: Iterable[Step], batch: torch.Size | None) -> LayeredEnergy:
        """The energy along the convex path; batch: the batch dimensions of x, None without x."""
        check = partial(_check_y, self.y_shape, next(self.parameters()))
        return LayeredEnergy(tuple(steps), self.activation, batch, check)

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
