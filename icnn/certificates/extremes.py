"""Rules for maxima and minima, of two tensors or over dimensions, and for what is made of them."""

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor

from .algebra import negative, product, through
from .calls import Arguments, Result, because, call, number
from .facts import Facts, Map, facts, unknown
from .scalars import clamp


def larger(a: Facts, b: Facts) -> Facts:
    """The larger of two, entrywise."""
    dominated = (a.lower >= b.upper) & a.concave | (b.lower >= a.upper) & b.concave
    return facts(
        torch.maximum(a.lower, b.lower),
        torch.maximum(a.upper, b.upper),
        a.convex & b.convex,
        dominated,
        a.fixed & b.fixed,
        a.rooted & b.rooted,
        a.logconvex & b.logconvex,
        reason=f"maximum of {a.named} and {b.named} value",
    )


def maximum(operation: Any, given: Arguments) -> Facts:
    """maximum(self, other)."""
    return larger(number(given["self"]), number(given["other"]))


def minimum(operation: Any, given: Arguments) -> Facts:
    """minimum(self, other) = −maximum(−self, −other)."""
    a, b = number(given["self"]), number(given["other"])
    reason = f"minimum of {a.named} and of {b.named} value"
    return because(negative(larger(negative(a), negative(b))), reason)


def largest(value: Facts, pick: Map) -> Facts:
    """The largest of some entries; pick: that, on a tensor."""

    def all_of(mask: Tensor) -> Tensor:
        return pick((~mask).double()) <= 0

    parts = [all_of(mask) for mask in (value.convex, value.fixed, value.rooted, value.logconvex)]
    reason = f"maximum of {value.describe()} values"
    return facts(pick(value.lower), pick(value.upper), parts[0], None, *parts[1:], reason=reason)


def smallest(value: Facts, pick: Map) -> Facts:
    """The smallest of some entries; pick: the largest of them, on a tensor."""
    return because(negative(largest(negative(value), pick)), f"minimum of {value.describe()} values")


def over_dims(value: Facts, given: Arguments, extreme: Callable[[Facts, Map], Facts]) -> Facts:
    """Over the dimensions that an operation names; of one entry it is that entry."""
    dims, keep = given.get("dim"), given.get("keepdim", False)

    def pick(part: Tensor) -> Tensor:
        return part.amax(() if dims is None else dims, keepdim=keep)

    alone = pick(value.lower).numel() == value.lower.numel()
    return through(value, pick) if alone else extreme(value, pick)


def reduced_max(operation: Any, given: Arguments) -> Result:
    """max, amax."""
    return _with_index(operation, over_dims(given["self"], given, largest), given["self"])


def reduced_min(operation: Any, given: Arguments) -> Result:
    """min, amin."""
    return _with_index(operation, over_dims(given["self"], given, smallest), given["self"])


def both_extremes(operation: Any, given: Arguments) -> Result:
    """aminmax."""
    return over_dims(given["self"], given, smallest), over_dims(given["self"], given, largest)


def running_max(operation: Any, given: Arguments) -> Result:
    """cummax: the largest entry up to each."""
    return _with_index(operation, largest(given["self"], _running(given["dim"])), given["self"])


def running_min(operation: Any, given: Arguments) -> Result:
    """cummin."""
    return _with_index(operation, smallest(given["self"], _running(given["dim"])), given["self"])


def _running(dim: int) -> Map:
    return lambda part: part.cummax(dim).values


def _with_index(operation: Any, found: Facts, value: Facts) -> Result:
    if len(operation._schema.returns) == 1:
        return found
    return found, unknown(found.lower.shape, "the index of an extremum", bool(value.fixed.all()))


def pooled_max(operation: Any, given: Arguments) -> Result:
    """Max pooling."""

    def pick(part: Tensor) -> Tensor:
        return call(operation, {**given, "self": part})[0]

    return _with_index(operation, largest(given["self"], pick), given["self"])


def clamped(operation: Any, given: Arguments) -> Facts:
    """clamp, clamp_min, clamp_max, hardtanh, between numbers or tensors."""
    found = given["self"]
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    if not isinstance(low, Facts) and not isinstance(high, Facts):
        return clamp(-inf if low is None else float(low), inf if high is None else float(high))(found)
    found = found if low is None else maximum(operation, {"self": found, "other": low})
    return found if high is None else minimum(operation, {"self": found, "other": high})


def thresholded(operation: Any, given: Arguments) -> Facts:
    """v where v > threshold, else a number: a ReLU where both are equal."""
    if given["threshold"] != given["value"]:
        return unknown(given["self"].lower.shape, "a threshold that jumps")
    return clamp(float(given["threshold"]), inf)(given["self"])


def parametric_relu(operation: Any, given: Arguments) -> Facts:
    """PReLU: the larger of v and its multiple, where slopes are at most 1."""
    slope, value = given["weight"], given["self"]
    below = product(value, slope)
    if bool((slope.fixed & (slope.upper <= 1)).all()):
        return larger(value, below)
    return unknown(value.lower.shape, "a slope that may be larger below zero than above", bool(value.fixed.all()))
