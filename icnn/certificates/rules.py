"""What each ATen operation does to the facts about its arguments: the table of rules."""

from collections.abc import Callable, Iterator, Mapping
from math import inf
from types import MappingProxyType
from typing import Any

import torch

from .algebra import negative, product
from .calls import Arguments, Result, Rule, call, number
from .extremes import (
    both_extremes,
    clamped,
    maximum,
    minimum,
    parametric_relu,
    pooled_max,
    reduced_max,
    reduced_min,
    running_max,
    running_min,
    thresholded,
)
from .facts import Facts, known, unknown
from .linear import (
    added,
    added_entries,
    added_product,
    convolved,
    divided,
    interpolated,
    linear_operation,
    multiplied,
    multiplied_matrices,
    multiplied_vectors,
    reverse_subtracted,
    subtracted,
    total,
)
from .losses import huber_loss, logistic_loss, negative_likelihood, smooth_l1_loss, squared_error
from .moves import REARRANGEMENTS, cast, chosen, filled, padded, rearrangement, reshaped
from .normalisation import batch_norm, group_norm, layer_norm
from .reductions import (
    distance,
    distances,
    hypotenuse,
    log_add_exp,
    log_softmax,
    log_sum_exp,
    older_norm,
    probabilities,
    vector_norm,
)
from .scalars import (
    ENTROPY,
    SCALARS,
    elu,
    exponential,
    hyperbolic_cosine,
    leaky_relu,
    log_one_plus,
    logarithm,
    power,
    reciprocal,
    root,
    softplus,
    softshrink,
    square,
)

__all__ = ["RULES", "call"]


def powered(operation: Any, given: Arguments) -> Facts:
    """self to a power."""
    base, exponent = number(given["self"]), number(given["exponent"])
    if exponent.value is not None and exponent.value.numel() == 1:
        return power(base, float(exponent.value))
    if base.value is not None and bool((base.value > 0).all()):
        return exponential(product(exponent, known(base.value.double().log())))
    return unknown(torch.broadcast_shapes(base.lower.shape, exponent.lower.shape), "a computed exponent")


def times_logarithm(operation: Any, given: Arguments) -> Facts:
    """xlogy: self · log(other); of a value with itself, the negative entropy."""
    a, b = number(given["self"]), number(given["other"])
    return negative(ENTROPY(a)) if a is b else product(a, logarithm(b))


def of_parameters(make: Callable[..., Callable[[Facts], Facts]], *names: str) -> Rule:
    """A scalar function that some of the arguments choose."""
    return lambda operation, given: make(*(float(given[name]) for name in names))(given["self"])


def entrywise(function: Callable[[Facts], Facts]) -> Rule:
    """A function of `self` alone."""
    return lambda operation, given: function(given["self"])


def _log_sigmoid(operation: Any, given: Arguments) -> Result:
    found = negative(softplus(1.0, inf)(negative(given["self"])))
    return found, known(torch.zeros(0))


def _named() -> Iterator[tuple[str, Rule]]:
    for name in REARRANGEMENTS:
        yield name, rearrangement
    for name in (
        "avg_pool2d",
        "upsample_linear1d",
        "upsample_bilinear2d",
        "upsample_trilinear3d",
        "_upsample_bilinear2d_aa",
        "im2col",
        "col2im",
        "avg_pool3d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "cumsum",
        "trace",
        "tril",
        "triu",
    ):
        yield name, linear_operation
    for name in (
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
    ):
        yield name, pooled_max
    for name in ("amax", "max"):
        yield name, reduced_max
    for name in ("amin", "min"):
        yield name, reduced_min
    for name in ("clamp", "clamp_min", "clamp_max", "hardtanh"):
        yield name, clamped
    for name in (
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "_native_batch_norm_legit",
    ):
        yield name, batch_norm
    for name, scalar in SCALARS.items():
        yield name, entrywise(scalar)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict(_named()),
        "view": reshaped,
        "_unsafe_view": reshaped,
        "_reshape_alias": reshaped,
        "constant_pad_nd": padded,
        "where": chosen,
        "masked_fill": filled,
        "_to_copy": cast,
        "sum": total,
        "mean": total,
        "add": added,
        "sub": subtracted,
        "rsub": reverse_subtracted,
        "mul": multiplied,
        "div": divided,
        "neg": entrywise(negative),
        "reciprocal": entrywise(reciprocal),
        "mm": multiplied_matrices,
        "bmm": multiplied_matrices,
        "addmm": added_product,
        "baddbmm": added_product,
        "addcmul": added_entries,
        "lerp": interpolated,
        "mv": multiplied_vectors,
        "dot": multiplied_vectors,
        "convolution": convolved,
        "maximum": maximum,
        "minimum": minimum,
        "logsumexp": log_sum_exp,
        "logaddexp": log_add_exp,
        "_log_softmax": log_softmax,
        "linalg_vector_norm": vector_norm,
        "norm": older_norm,
        "dist": distance,
        "_cdist_forward": distances,
        "hypot": hypotenuse,
        "aminmax": both_extremes,
        "cummax": running_max,
        "cummin": running_min,
        "native_layer_norm": layer_norm,
        "native_group_norm": group_norm,
        "mse_loss": squared_error,
        "huber_loss": huber_loss,
        "smooth_l1_loss": smooth_l1_loss,
        "binary_cross_entropy_with_logits": logistic_loss,
        "nll_loss_forward": negative_likelihood,
        "nll_loss2d_forward": negative_likelihood,
        "xlogy": times_logarithm,
        "threshold": thresholded,
        "_prelu_kernel": parametric_relu,
        "pow": powered,
        "square": entrywise(square),
        "sqrt": entrywise(root),
        "exp": entrywise(exponential),
        "log": entrywise(logarithm),
        "log1p": entrywise(log_one_plus),
        "cosh": entrywise(hyperbolic_cosine),
        "softshrink": of_parameters(softshrink, "lambd"),
        "_softmax": probabilities,
        "leaky_relu": of_parameters(leaky_relu, "negative_slope"),
        "elu": of_parameters(elu, "alpha", "scale", "input_scale"),
        "celu": of_parameters(lambda alpha: elu(alpha, 1.0, 1 / alpha), "alpha"),
        "softplus": of_parameters(softplus, "beta", "threshold"),
        "log_sigmoid_forward": _log_sigmoid,
    }
)
