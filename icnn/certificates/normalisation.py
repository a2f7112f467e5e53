"""Rules for layers that normalise: by stored statistics they are affine, by those of their input they are not."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from .algebra import add, product
from .calls import Arguments, Result, because, reshaped_factor
from .facts import Facts, facts, known


def batch_norm(operation: Any, given: Arguments) -> Result:
    """Batch norm with the statistics it has stored: a scale and a shift of each channel."""
    value, mean, variance = given["input"], given.get("running_mean"), given.get("running_var")
    channels = (-1, *(1 for _ in value.lower.shape[2:]))
    if given.get("training", False) or mean is None or variance is None:
        count = value.lower.numel() // max(value.lower.shape[1], 1)
        reason = "statistics of the input: where the layer stores its own, call eval() first"
        return _standardised(given, value, count, channels, reason)
    if mean.value is None or variance.value is None:
        return ()
    scale = torch.rsqrt(variance.value.double() + given["eps"])
    shift = -scale * mean.value.double()
    standard = add(product(value, known(scale.reshape(channels))), known(shift.reshape(channels)))
    return _with_statistics(_scaled(given, standard, channels))


def layer_norm(operation: Any, given: Arguments) -> Result:
    """Layer norm: the entries of the last dimensions are standardised together."""
    shape = torch.Size(given["normalized_shape"])
    reason = "layer norm divides by a standard deviation that depends on the inputs"
    return _standardised(given, given["input"], shape.numel(), tuple(shape), reason)


def group_norm(operation: Any, given: Arguments) -> Result:
    """Group norm: the entries of a group of channels are standardised together."""
    channels = (-1, *(1 for _ in given["input"].lower.shape[2:]))
    count = given["C"] // given["group"] * given["HxW"]
    reason = "group norm divides by a standard deviation that depends on the inputs"
    return _standardised(given, given["input"], count, channels, reason)


def _standardised(given: Arguments, value: Facts, count: int, shape: tuple[int, ...], reason: str) -> Result:
    """(v − mean) / √(variance + ε) over `count` entries: their squares add up to `count` at most."""
    fixed: Tensor = torch.full_like(value.fixed, bool(value.fixed.all()))
    reach = torch.full_like(value.lower, sqrt(count) * (1 + 1e-12))
    return _with_statistics(because(_scaled(given, facts(-reach, reach, fixed=fixed), shape), reason))


def _scaled(given: Arguments, value: Facts, shape: tuple[int, ...]) -> Facts:
    """w v + b, both of this shape where they are there."""
    weight, bias = given["weight"], given["bias"]
    scaled = value if weight is None else product(value, reshaped_factor(weight, shape))
    if bias is None:
        return scaled
    return add(scaled, reshaped_factor(bias, shape), scaled.reason if scaled.mixed else "")


def _with_statistics(found: Facts) -> Result:
    """Beside mean and scale, which nobody reads."""
    return found, known(torch.zeros(0)), known(torch.zeros(0))
