"""Rules for sums, products and linear maps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .algebra import add, linear, negative, nothing, product, through
from .calls import EXPANDED, Arguments, because, call, number, reshaped_factor
from .facts import Facts, Map, known, unknown
from .scalars import reciprocal, square


def total(operation: Any, given: Arguments) -> Facts:
    """Sums and means over some dimensions."""
    value, dims, keep = given["self"], given.get("dim"), given.get("keepdim", False)
    reducer = torch.mean if operation._schema.name == "aten::mean" else torch.sum
    over = dims or list(range(value.lower.ndim))
    return linear(value, lambda part: reducer(part, dim=over, keepdim=keep) if over else part)


def linear_operation(operation: Any, given: Arguments) -> Facts:
    """An operation that is linear in `self` with non-negative coefficients, as pooling and linear interpolation."""
    return linear(given["self"], lambda part: call(operation, {**given, "self": part}))


def added(operation: Any, given: Arguments) -> Facts:
    """self + α other."""
    alpha = given.get("alpha", 1)
    other = number(given["other"])
    return add(number(given["self"]), other if alpha == 1 else product(other, number(alpha)))


def subtracted(operation: Any, given: Arguments) -> Facts:
    """self − α other."""
    other = product(number(given["other"]), number(given.get("alpha", 1)))
    return add(number(given["self"]), negative(other), f"subtraction of {other.named} value")


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
    reason = f"a weight as low as {least:.3g}, on {value.named} value"
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
    return because(through(found, lambda part: part.reshape(shape)), found.reason)


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
    return add(image, reshaped_factor(bias, channels), image.reason if image.mixed else "")


def _plain(given: Arguments) -> Arguments:
    return tree_map(lambda v: v.lower if isinstance(v, Facts) else v, given, is_leaf=lambda v: isinstance(v, Facts))
