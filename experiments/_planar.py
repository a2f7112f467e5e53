"""Two classes of points in the plane that no line separates."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor


class Labelled(NamedTuple):
    """Points (n, 2) and their classes (n,), 0 or 1, in float64."""

    points: Tensor
    classes: Tensor


def donut1d(count: int, generator: Generator) -> Labelled:
    """On the first axis, an interval and what surrounds it: |x| < 0.4 inside, 0.6 < |x| < 1 outside."""
    classes = _classes(count)
    radius = 0.4 * _uniform(count, generator) + 0.6 * classes
    sign = 1 - 2 * torch.randint(2, (count,), generator=generator)
    return Labelled(torch.stack((sign * radius, torch.zeros_like(radius)), 1), classes)


def donut2d(count: int, generator: Generator) -> Labelled:
    """A disc and a ring: |x| < 0.4 inside, 0.6 < |x| < 1 outside, each uniform by area."""
    classes = _classes(count)
    low, high = 0.6 * classes, 0.4 + 0.6 * classes
    radius = (low.square() + (high.square() - low.square()) * _uniform(count, generator)).sqrt()
    return Labelled(_polar(radius, 2 * torch.pi * _uniform(count, generator)), classes)


def squares(count: int, generator: Generator) -> Labelled:
    """The four quadrants in turn, 0.05 away from the axes: 1 where both coordinates have one sign."""
    classes = _classes(count)
    sizes = 0.05 + 0.95 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    signs = 1.0 - 2 * torch.randint(2, (count,), generator=generator)
    return Labelled(sizes * torch.stack((signs, signs * (2 * classes - 1)), 1), classes)


def spiral(count: int, generator: Generator) -> Labelled:
    """Two arms of one and a half turns, one the other turned by π, blurred by 0.02."""
    classes = _classes(count)
    along = _uniform(count, generator).sqrt()  # evenly, near enough, along an arm
    points = _polar(0.1 + 0.9 * along, torch.pi * (3 * along + classes))
    return Labelled(points + 0.02 * torch.randn(count, 2, generator=generator, dtype=torch.float64), classes)


DATA_SETS: dict[str, Callable[[int, Generator], Labelled]] = {
    "donut1d": donut1d,
    "donut2d": donut2d,
    "squares": squares,
    "spiral": spiral,
}


def _classes(count: int) -> Tensor:
    return (torch.arange(count) % 2).double()


def _uniform(count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack((radius * angle.cos(), radius * angle.sin()), 1)
