"""Bounds of what a module returns over a box of inputs, by interval arithmetic along the walk of certify."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from .walk import Box, Stopped, walk


class Interval(NamedTuple):
    """lower ≤ v ≤ upper, entrywise, in float64."""

    lower: Tensor
    upper: Tensor


def output_bounds(
    f: nn.Module | Callable[..., Any], *arguments: Tensor, bounds: Mapping[str | int, Box]
) -> Interval | tuple[Interval, ...]:
    """Bounds of f(v) for every v within bounds.

        lower ≤ f(v) ≤ upper   for all v_i ∈ [lower_i, upper_i]

    They hold in real arithmetic and need not be tight: each operation takes the worst of its arguments, as if they
    varied independently. Where an operation has no rule they are infinite. Tighter ones for a convex network at
    given x, over a box of y: `icnn.extrema`.

    f, arguments: as in certify; integers and masks are taken as given.
    bounds: lower and upper bounds of arguments, by name or position, numbers or tensors; others are unbounded.
    Returns an Interval of the shape of the output, one for each tensor if f returns several.
    Raises ValueError where the program cannot be followed, as for branches that depend on values.
    """
    try:
        found = walk(f, arguments, bounds=bounds)
    except Stopped as stopped:
        raise ValueError(f"f cannot be bounded: {stopped}") from stopped
    intervals = tuple(Interval(value.lower, value.upper) for value in found)
    return intervals[0] if len(intervals) == 1 else intervals
