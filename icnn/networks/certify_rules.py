"""What each ATen operation does to the facts about its arguments.

A rule is called with the operation and its arguments by name, tensors as Facts, and returns the Facts of what the
operation returns, a tuple where that is several tensors, an empty one where it does not know. Operations of fixed
values alone need no rule.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import inf
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .certify_facts import Facts, Map, add, facts, joined, known, linear, negative, nothing, product, through, unknown
from .certify_scalars import (
    SCALARS,
    clamp,
    elu,
    exponential,
    leaky_relu,
    logarithm,
    power,
    reciprocal,
    root,
    softplus,
    square,
)

Arguments = dict[str, Any]
Result = Facts | tuple[Facts, ...]
Rule = Callable[[Any, Arguments], Result]

REARRANGEMENTS = (
    "permute",
    "t",
    "transpose",
    "expand",
    "squeeze",
    "unsqueeze",
    "slice",
    "select",
    "index",
    "index_select",
    "gather",
    "cat",
    "stack",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "flip",
    "roll",
    "repeat",
    "clone",
    "detach",
    "alias",
    "lift_fresh",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "channel_shuffle",
    "diagonal",
    "unfold",
    "movedim",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "narrow",
    "contiguous",
)
EXPANDED = 10**7  # entries of a product of two tensors of which neither is known, before it is summed


def number(value: object) -> Facts:
    """Facts about an argument that may be a plain number."""
    return value if isinstance(value, Facts) else known(torch.as_tensor(value, dtype=torch.float64))


def numeric(value: Facts) -> bool:
    """Whether facts are about real numbers, not indices or masks."""
    return value.value is None or value.value.is_floating_point()


def call(operation: Any, given: Arguments) -> Any:
    """The operation on tensors, whatever its arguments are called."""
    names = [argument for argument in operation._schema.arguments if argument.name in given]
    args = [given[argument.name] for argument in names if not argument.kwarg_only]
    return operation(*args, **{argument.name: given[argument.name] for argument in names if argument.kwarg_only})


def rearrangement(operation: Any, given: Arguments) -> Result:
    """Views, copies, gathers and concatenations: applied to each fact; indices stay what they are."""
    indices = tree_leaves([given.get("index"), given.get("indices")], is_leaf=lambda leaf: isinstance(leaf, Facts))
    if any(isinstance(index, Facts) and index.value is None for index in indices):
        return ()

    def with_part(pick: Callable[[Facts], Tensor]) -> Any:
        def place(leaf: object) -> object:
            if not isinstance(leaf, Facts):
                return leaf
            return pick(leaf) if numeric(leaf) else leaf.value

        return call(operation, tree_map(place, given, is_leaf=lambda leaf: isinstance(leaf, Facts)))

    def mask(name: str) -> list[Tensor]:
        return [part > 0.5 for part in _several(with_part(lambda value: getattr(value, name).double()))]

    masks = [mask(name) for name in ("convex", "concave", "fixed", "rooted", "logconvex")]
    lower, upper = (_several(with_part(lambda value, name=name: getattr(value, name))) for name in ("lower", "upper"))
    found = tuple(facts(*parts) for parts in zip(lower, upper, *masks, strict=True))
    return found[0] if len(found) == 1 else found


def _several(result: Tensor | list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def reshaped(operation: Any, given: Arguments) -> Facts:
    """view: by reshape, since facts need not lie in memory as the tensor does."""
    return through(given["self"], lambda part: part.reshape(given["size"]))


def padded(operation: Any, given: Arguments) -> Facts:
    """Padding with a constant."""
    fill = float(given["value"] or 0)
    value, pad = given["self"], given["pad"]
    sides = through(value, lambda part: F.pad(part, pad, value=1.0))  # what is added is fixed
    frame = F.pad(torch.zeros_like(value.lower), pad, value=1.0) > 0
    lower, upper = (F.pad(part, pad, value=fill) for part in (value.lower, value.upper))
    sign = ~frame | (fill >= 0)
    return facts(lower, upper, sides.convex, sides.concave, sides.fixed, sides.rooted & sign, sides.logconvex & sign)


def chosen(operation: Any, given: Arguments) -> Facts:
    """Entries of one or the other, where the condition does not depend on the inputs."""
    condition, a, b = given["condition"], number(given["self"]), number(given["other"])
    if not bool(condition.fixed.all()):
        return unknown(torch.broadcast_shapes(condition.lower.shape, a.lower.shape, b.lower.shape), "a choice by value")
    if condition.value is not None:
        return joined([a, b], lambda parts: torch.where(condition.value, *parts))
    lower, upper = torch.minimum(a.lower, b.lower), torch.maximum(a.upper, b.upper)
    pairs = zip(_masks(a), _masks(b), strict=True)
    return facts(*torch.broadcast_tensors(lower, upper, *(p & q for p, q in pairs), condition.lower)[:-1])


def _masks(value: Facts) -> tuple[Tensor, ...]:
    return value.convex, value.concave, value.fixed, value.rooted, value.logconvex


def filled(operation: Any, given: Arguments) -> Facts:
    """masked_fill: entries under the mask are replaced."""
    return chosen(operation, {"condition": given["mask"], "self": given["value"], "other": given["self"]})


def cast(operation: Any, given: Arguments) -> Facts:
    """A change of type."""
    value = given["self"]
    dtype = given.get("dtype")
    if dtype is None or dtype.is_floating_point:
        return value
    return unknown(value.lower.shape, "a conversion to integers", bool(value.fixed.all()))


def total(operation: Any, given: Arguments) -> Facts:
    """Sums and means over some dimensions."""
    value, dims, keep = given["self"], given.get("dim"), given.get("keepdim", False)
    reducer = torch.mean if operation._schema.name == "aten::mean" else torch.sum
    over = dims or list(range(value.lower.ndim))
    return linear(value, lambda part: reducer(part, dim=over, keepdim=keep) if over else part)


def linear_operation(operation: Any, given: Arguments) -> Facts:
    """An operation that is linear in `self` with non-negative coefficients, as pooling."""
    return linear(given["self"], lambda part: call(operation, {**given, "self": part}))


def added(operation: Any, given: Arguments) -> Facts:
    """self + α other."""
    alpha = given.get("alpha", 1)
    other = number(given["other"])
    return add(number(given["self"]), other if alpha == 1 else product(other, number(alpha)))


def subtracted(operation: Any, given: Arguments) -> Facts:
    """self − α other."""
    other = product(number(given["other"]), number(given.get("alpha", 1)))
    return add(number(given["self"]), negative(other), f"subtraction of a {other.describe()} value")


def reverse_subtracted(operation: Any, given: Arguments) -> Facts:
    """other − α self."""
    return subtracted(operation, {**given, "self": given["other"], "other": given["self"]})


def multiplied(operation: Any, given: Arguments) -> Facts:
    """self · other; a value times itself is its square."""
    a, b = number(given["self"]), number(given["other"])
    return square(a) if a is b else product(a, b)


def divided(operation: Any, given: Arguments) -> Facts:
    """self / other."""
    below = reciprocal(number(given["other"]))
    if given.get("rounding_mode") is not None or not bool(below.fixed.all()):
        reason = "division by a value that depends on the inputs"
        found = product(number(given["self"]), below)
        return found if given.get("rounding_mode") is None and not found.unknown else unknown(found.lower.shape, reason)
    return product(number(given["self"]), below)


def signed(weight: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> tuple[Map, Map]:
    """v -> apply(v, w) as the difference of two maps with non-negative weights."""
    exact = weight.double()
    plus, minus = exact.clamp(min=0), (-exact).clamp(min=0)
    least = (lambda v: apply(v, minus)) if bool((exact < 0).any()) else nothing
    return lambda v: apply(v, plus), least


def weighted(value: Facts, weight: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> Facts:
    """apply(v, w), linear in both; w is known."""
    least = float(weight.min()) if weight.numel() else 0.0
    reason = f"a weight as low as {least:.3g}, on a {value.describe()} value"
    return linear(value, *signed(weight, apply), reason)


def matrix_product(a: Facts, b: Facts) -> Facts:
    """Over the last dimension of a and the last but one of b."""
    if b.value is not None:
        return weighted(a, b.value, lambda v, w: v @ w)
    if a.value is not None:
        return weighted(b, a.value, lambda v, w: w @ v)
    if a.lower.numel() * b.lower.shape[-1] > EXPANDED:
        return unknown((a.lower @ b.lower).shape, "a large product of two computed matrices")
    outer = product(through(a, lambda part: part.unsqueeze(-1)), through(b, lambda part: part.unsqueeze(-3)))
    return linear(outer, lambda part: part.sum(-2), reason=outer.reason)


def multiplied_matrices(operation: Any, given: Arguments) -> Facts:
    """mm, bmm."""
    return matrix_product(given["self"], given["mat2"])


def multiplied_vectors(operation: Any, given: Arguments) -> Facts:
    """mv, dot: through columns and rows of matrices."""
    a, b = given["self"], given["vec" if "vec" in given else "tensor"]
    column = through(b, lambda part: part.unsqueeze(-1))
    rows = a if a.lower.ndim == 2 else through(a, lambda part: part.unsqueeze(0))
    if b.value is not None:
        column = known(b.value.unsqueeze(-1))
    if a.value is not None:
        rows = known(a.value if a.lower.ndim == 2 else a.value.unsqueeze(0))
    found = matrix_product(rows, column)
    shape = a.lower.shape[:-1]
    return _as(through(found, lambda part: part.reshape(shape)), found.reason)


def _as(found: Facts, reason: str) -> Facts:
    return replace(found, reason=reason)


def added_product(operation: Any, given: Arguments) -> Facts:
    """addmm, baddbmm: β self + α (a b)."""
    pair = [given[name] for name in ("mat1", "mat2", "batch1", "batch2") if name in given]
    image = matrix_product(*pair)
    scaled = product(image, number(given["alpha"])) if given["alpha"] != 1 else image
    offset = product(given["self"], number(given["beta"])) if given["beta"] != 1 else given["self"]
    return add(scaled, offset, image.reason if image.mixed else "")


def added_entries(operation: Any, given: Arguments) -> Facts:
    """addcmul: self + value · a b."""
    a, b = given["tensor1"], given["tensor2"]
    term = square(a) if a is b else product(a, b)
    return add(given["self"], product(term, number(given["value"])))


def interpolated(operation: Any, given: Arguments) -> Facts:
    """lerp: (1 − w) self + w end."""
    weight = number(given["weight"])
    rest = add(number(1.0), negative(weight))
    return add(product(given["self"], rest), product(given["end"], weight))


def convolved(operation: Any, given: Arguments) -> Facts:
    """A convolution, also transposed, with its bias."""
    value, weight, bias = given["input"], given["weight"], given["bias"]
    if weight.value is None:
        return unknown(call(operation, _plain(given)).shape, "a convolution with a computed kernel")

    def apply(v: Tensor, w: Tensor) -> Tensor:
        return call(operation, {**_plain(given), "input": v, "weight": w, "bias": None})

    image = weighted(value, weight.value, apply)
    if bias is None:
        return image
    channels = (-1, *(1 for _ in image.lower.shape[2:]))
    bias = (
        known(bias.value.reshape(channels)) if bias.value is not None else through(bias, lambda b: b.reshape(channels))
    )
    return add(image, bias, image.reason if image.mixed else "")


def _plain(given: Arguments) -> Arguments:
    return tree_map(lambda v: v.lower if isinstance(v, Facts) else v, given, is_leaf=lambda v: isinstance(v, Facts))


def normalised(operation: Any, given: Arguments) -> Result:
    """Batch norm with the statistics it has stored: a scale and a shift of each channel."""
    value = given["input"]
    if given.get("training", False) or given.get("running_mean") is None:
        return (unknown(value.lower.shape, "statistics of the batch: call eval() first"),) * 3
    channels = (-1, *(1 for _ in value.lower.shape[2:]))

    def stored(name: str, default: float) -> Tensor:
        part = given[name]
        return torch.tensor(default).double() if part is None else part.value.double().reshape(channels)

    scale = stored("weight", 1.0) / torch.sqrt(stored("running_var", 1.0) + given["eps"])
    shift = stored("bias", 0.0) - scale * stored("running_mean", 0.0)
    scaled = product(value, known(scale))
    return (add(scaled, known(shift), scaled.reason if scaled.mixed else ""),) + (known(torch.zeros(0)),) * 2


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
        reason=f"maximum of a {a.describe()} and a {b.describe()} value",
    )


def maximum(operation: Any, given: Arguments) -> Facts:
    """maximum(self, other)."""
    return larger(number(given["self"]), number(given["other"]))


def minimum(operation: Any, given: Arguments) -> Facts:
    """minimum(self, other) = −maximum(−self, −other)."""
    a, b = number(given["self"]), number(given["other"])
    reason = f"minimum of a {a.describe()} and of a {b.describe()} value"
    return _as(negative(larger(negative(a), negative(b))), reason)


def largest(value: Facts, pick: Map) -> Facts:
    """The largest of some entries; pick: that, on a tensor."""

    def all_of(mask: Tensor) -> Tensor:
        return pick((~mask).double()) <= 0

    parts = [all_of(mask) for mask in (value.convex, value.fixed, value.rooted, value.logconvex)]
    alone = pick(value.lower).numel() == value.lower.numel()
    concave = all_of(value.concave) if alone else None
    reason = f"maximum of {value.describe()} values"
    return facts(pick(value.lower), pick(value.upper), parts[0], concave, *parts[1:], reason=reason)


def over_dims(operation: Any, given: Arguments) -> Map:
    """The maximum over the dimensions that an operation names."""
    dims, keep = given.get("dim", ()), given.get("keepdim", False)
    return lambda part: part.amax(() if dims is None else dims, keepdim=keep)


def reduced_max(operation: Any, given: Arguments) -> Result:
    """max, amax."""
    return _with_index(operation, largest(given["self"], over_dims(operation, given)), given["self"])


def reduced_min(operation: Any, given: Arguments) -> Result:
    """min, amin."""
    found = negative(largest(negative(given["self"]), over_dims(operation, given)))
    return _with_index(operation, _as(found, f"minimum of {given['self'].describe()} values"), given["self"])


def _with_index(operation: Any, found: Facts, value: Facts) -> Result:
    if len(operation._schema.returns) == 1:
        return found
    return found, unknown(found.lower.shape, "the index of an extremum", bool(value.fixed.all()))


def pooled_max(operation: Any, given: Arguments) -> Result:
    """Max pooling."""

    def pick(part: Tensor) -> Tensor:
        return call(operation, {**given, "self": part})[0]

    return _with_index(operation, largest(given["self"], pick), given["self"])


def log_sum_exp(operation: Any, given: Arguments) -> Facts:
    """log Σ exp v: convex and rising in every entry."""
    value = given["self"]

    def over(part: Tensor) -> Tensor:
        return torch.logsumexp(part, given["dim"], given["keepdim"])

    def all_of(mask: Tensor) -> Tensor:
        return (~mask).double().amax(given["dim"], keepdim=given["keepdim"]) <= 0

    reason = f"log-sum-exp of {value.describe()} values"
    return facts(over(value.lower), over(value.upper), all_of(value.convex), None, all_of(value.fixed), reason=reason)


def log_softmax(operation: Any, given: Arguments) -> Facts:
    """v − log Σ exp v."""
    value = given["self"]
    total = log_sum_exp(operation, {"self": value, "dim": [given["dim"]], "keepdim": True})
    return add(value, negative(total), f"log-softmax of {value.describe()} values")


def log_add_exp(operation: Any, given: Arguments) -> Facts:
    """log(exp self + exp other)."""
    a, b = number(given["self"]), number(given["other"])
    lower, upper = torch.logaddexp(a.lower, b.lower), torch.logaddexp(a.upper, b.upper)
    reason = f"log-sum-exp of a {a.describe()} and a {b.describe()} value"
    return facts(lower, upper, a.convex & b.convex, None, a.fixed & b.fixed, reason=reason)


def norm(operation: Any, given: Arguments) -> Facts:
    """‖v‖ of some order, convex from 1 on."""
    value, order = given["self"], float(given["ord"])
    dims = given["dim"] or tuple(range(value.lower.ndim))

    def over(part: Tensor) -> Tensor:
        return torch.linalg.vector_norm(part, order, dims, given["keepdim"])

    def all_of(mask: Tensor) -> Tensor:
        return (~mask).double().amax(dims, keepdim=given["keepdim"]) <= 0

    low, high = value.lower, value.upper
    least, most = (
        torch.where((low < 0) & (high > 0), 0.0, torch.minimum(low.abs(), high.abs())),
        torch.maximum(-low, high),
    )
    convex = all_of(value.magnitude_convex) if order >= 1 else None
    least, most = over(least) * (1 - 1e-12), over(most) * (1 + 1e-12)
    return facts(least, most, convex, None, all_of(value.fixed), reason=f"norm of {value.describe()} values")


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


def powered(operation: Any, given: Arguments) -> Facts:
    """self to a power."""
    base, exponent = number(given["self"]), number(given["exponent"])
    if exponent.value is not None and exponent.value.numel() == 1:
        return power(base, float(exponent.value))
    if base.value is not None and bool((base.value > 0).all()):
        return exponential(product(exponent, known(base.value.double().log())))
    return unknown(torch.broadcast_shapes(base.lower.shape, exponent.lower.shape), "a computed exponent")


def probabilities(operation: Any, given: Arguments) -> Facts:
    """softmax: between 0 and 1."""
    value = given["self"]
    fixed = torch.full_like(value.fixed, bool(value.fixed.all()))
    one = torch.ones_like(value.lower)
    return facts(torch.zeros_like(one), one, fixed=fixed, reason="softmax is neither convex nor concave")


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
        "avg_pool3d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "cumsum",
        "trace",
        "tril",
        "triu",
    ):
        yield name, linear_operation
    for name in ("max_pool2d_with_indices", "max_pool3d_with_indices"):
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
        yield name, normalised
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
        "linalg_vector_norm": norm,
        "threshold": thresholded,
        "_prelu_kernel": parametric_relu,
        "pow": powered,
        "square": entrywise(square),
        "sqrt": entrywise(root),
        "exp": entrywise(exponential),
        "log": entrywise(logarithm),
        "_softmax": probabilities,
        "leaky_relu": of_parameters(leaky_relu, "negative_slope"),
        "elu": of_parameters(elu, "alpha", "scale", "input_scale"),
        "celu": of_parameters(lambda alpha: elu(alpha, 1.0, 1 / alpha), "alpha"),
        "softplus": of_parameters(softplus, "beta", "threshold"),
        "log_sigmoid_forward": _log_sigmoid,
    }
)
