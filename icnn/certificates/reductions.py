"""Rules for reductions that are smooth: log-sum-exp, norms, softmax."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .algebra import add, negative, through
from .calls import EXPANDED, Arguments, Result, number
from .facts import Facts, facts
from .scalars import root, square


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
    reason = f"log-sum-exp of {a.named} and {b.named} value"
    return facts(lower, upper, a.convex & b.convex, None, a.fixed & b.fixed, reason=reason)


def vector_norm(operation: Any, given: Arguments) -> Facts:
    """linalg.vector_norm."""
    return norm(given["self"], float(given["ord"]), given["dim"], given["keepdim"])


def older_norm(operation: Any, given: Arguments) -> Facts:
    """aten::norm, which F.pairwise_distance calls."""
    order = 2.0 if given["p"] is None else float(given["p"])
    return norm(given["self"], order, given.get("dim"), given.get("keepdim", False))


def distance(operation: Any, given: Arguments) -> Facts:
    """dist: ‖self − other‖."""
    return norm(add(given["self"], negative(given["other"])), float(given["p"]), None, False)


def distances(operation: Any, given: Arguments) -> Result:
    """cdist: ‖a_i − b_j‖ of rows."""
    a, b = (through(given[name], partial(torch.unsqueeze, dim=dim)) for name, dim in (("x1", -2), ("x2", -3)))
    if torch.broadcast_shapes(a.lower.shape, b.lower.shape).numel() > EXPANDED:
        return ()
    return norm(add(a, negative(b)), float(given["p"]), (-1,), False)


def hypotenuse(operation: Any, given: Arguments) -> Facts:
    """hypot: √(self² + other²)."""
    return root(add(square(number(given["self"])), square(number(given["other"]))))


def norm(value: Facts, order: float, dims: Sequence[int] | None, keepdim: bool) -> Facts:
    """‖v‖ of some order, convex from 1 on."""
    dims = tuple(dims or range(value.lower.ndim))

    def over(part: Tensor) -> Tensor:
        return torch.linalg.vector_norm(part, order, dims, keepdim)

    def all_of(mask: Tensor) -> Tensor:
        return (~mask).double().amax(dims, keepdim=keepdim) <= 0

    low, high = value.lower, value.upper
    least, most = (
        torch.where((low < 0) & (high > 0), 0.0, torch.minimum(low.abs(), high.abs())),
        torch.maximum(-low, high),
    )
    convex = all_of(value.magnitude_convex) if order >= 1 else None
    least, most = over(least) * (1 - 1e-12), over(most) * (1 + 1e-12)
    return facts(least, most, convex, None, all_of(value.fixed), reason=f"norm of {value.describe()} values")


def probabilities(operation: Any, given: Arguments) -> Facts:
    """softmax: between 0 and 1."""
    value = given["self"]
    fixed = torch.full_like(value.fixed, bool(value.fixed.all()))
    one = torch.ones_like(value.lower)
    return facts(torch.zeros_like(one), one, fixed=fixed, reason="softmax is neither convex nor concave")
