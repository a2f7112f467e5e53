"""How sums, products, rearrangements and linear maps carry facts on, entry by entry.

Bounds are intervals computed in float64; sums widen them by their rounding.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from .facts import Facts, Map, Profile, facts
from .forms import form_of_product, mapped, moved, scaled, settled, summed

ROUNDING = 1e-12  # of a sum of 10⁴ products in float64, relative to the sum of their sizes


def through(value: Facts, move: Map) -> Facts:
    """Rearranged: `move` copies entries and computes nothing."""

    def mask(part: Tensor) -> Tensor:
        return move(part.double()) > 0.5

    masks = map(mask, (value.convex, value.concave, value.fixed, value.rooted, value.logconvex))
    return moved(facts(move(value.lower), move(value.upper), *masks), value, move)


def joined(values: list[Facts], join: Callable[[list[Tensor]], Tensor]) -> Facts:
    """Several, put together by `join`, which copies entries and computes nothing."""

    def mask(name: str) -> Tensor:
        return join([getattr(value, name).double() for value in values]) > 0.5

    names = ("convex", "concave", "fixed", "rooted", "logconvex")
    lower, upper = join([value.lower for value in values]), join([value.upper for value in values])
    return facts(lower, upper, *map(mask, names))


def nothing(value: Tensor) -> Tensor:
    """A negative part that is not there."""
    return torch.zeros((), dtype=value.dtype)


def linear(value: Facts, plus: Map, minus: Map = nothing, reason: str = "") -> Facts:
    """plus(v) − minus(v), both linear with non-negative coefficients."""

    def all_of(of_plus: Tensor, of_minus: Tensor) -> Tensor:
        return plus((~of_plus).double()) + minus((~of_minus).double()) == 0

    none = torch.zeros_like(value.fixed)
    found = facts(
        _least(value.lower, value.upper, plus, minus),
        -_least(-value.upper, -value.lower, plus, minus),
        all_of(value.convex, value.concave),
        all_of(value.concave, value.convex),
        all_of(value.fixed, value.fixed),
        all_of(value.rooted, none),
        all_of(value.logconvex, none),
        reason=reason,
    )
    return settled(mapped(found, value, plus, minus))


def _least(lower: Tensor, upper: Tensor, plus: Map, minus: Map) -> Tensor:
    """A lower bound of plus(v) − minus(v), for lower ≤ v ≤ upper."""

    def finite(bound: Tensor) -> Tensor:
        return torch.where(bound.isfinite(), bound, 0.0)

    low, high = finite(lower), finite(upper)
    endless = plus((~lower.isfinite()).double()) + minus((~upper.isfinite()).double())
    least = plus(low) - minus(high) - ROUNDING * (plus(low.abs()) + minus(high.abs()))
    return torch.where(endless == 0, least, -inf)


def add(a: Facts, b: Facts, reason: str = "") -> Facts:
    """a + b, entrywise, broadcasting."""
    a_lower, b_lower = torch.broadcast_tensors(a.lower, b.lower)
    a_upper, b_upper = torch.broadcast_tensors(a.upper, b.upper)
    found = facts(
        a_lower + b_lower - _slack(a_lower, b_lower),
        a_upper + b_upper + _slack(a_upper, b_upper),
        a.convex & b.convex,
        a.concave & b.concave,
        a.fixed & b.fixed,
        a.rooted & b.rooted,
        a.logconvex & b.logconvex,
        profile=_sum_of_profiles(a, b, a_lower.shape),
        reason=reason or f"the sum of {a.named} and {b.named} value",
    )
    return summed(found, a, b)


def _slack(a: Tensor, b: Tensor) -> Tensor:
    """The rounding of a sum, none where a term is zero."""
    slack = torch.where((a == 0) | (b == 0), 0.0, ROUNDING * (a.abs() + b.abs()))
    return torch.where(slack.isfinite(), slack, 0.0)


def _sum_of_profiles(a: Facts, b: Facts, shape: torch.Size) -> Profile | None:
    for one, other in ((a, b), (b, a)):
        if bool(other.fixed.all()) and one.profile is not None and one.lower.shape == shape:
            shifted_up = bool((other.lower >= 0).all())
            return one.profile if shifted_up else one.profile._replace(quadratic=None)
    for p in a.profiles():
        for q in b.profiles():
            if p.base is q.base and p.base.lower.shape == shape:
                return Profile(p.base, p.low + q.low, p.high + q.high)
    return None


def negative(value: Facts) -> Facts:
    """−v."""
    found = facts(-value.upper, -value.lower, value.concave, value.convex, value.fixed)
    profile = [p.times(-1.0) for p in value.profiles()]
    found = scaled(found, value, torch.tensor(-1.0))
    return replace(found, profile=next((p for p in profile if p is not None), None))


def product(a: Facts, b: Facts) -> Facts:
    """Entrywise; one factor must be fixed, and of known sign unless the other is affine."""
    lower, upper = _range_of_product(a, b)
    (convex, concave), (also_convex, also_concave) = _scaled(a, b), _scaled(b, a)
    nonnegative = (a.fixed & (a.lower >= 0)) | (b.fixed & (b.lower >= 0))
    found = facts(
        lower,
        upper,
        convex | also_convex,
        concave | also_concave,
        a.fixed & b.fixed,
        a.rooted & b.rooted & nonnegative,
        a.logconvex & b.logconvex,
        profile=_scaled_profile(a, b, lower.shape) or _scaled_profile(b, a, lower.shape),
        reason=_reason_of_product(a, b),
    )
    for value, factor in ((a, b), (b, a)):
        if factor.value is not None:
            return scaled(found, value, factor.value)
    return replace(found, form=form_of_product(a, b))


def _scaled(value: Facts, factor: Facts) -> tuple[Tensor, Tensor]:
    """Where value times a fixed factor is convex, and where concave."""
    up, down = factor.fixed & (factor.lower >= 0), factor.fixed & (factor.upper <= 0)
    affine = factor.fixed & value.affine
    return (up & value.convex) | (down & value.concave) | affine, (up & value.concave) | (down & value.convex) | affine


def _range_of_product(a: Facts, b: Facts) -> tuple[Tensor, Tensor]:
    corners = [
        (p * q).nan_to_num(nan=0.0, posinf=inf, neginf=-inf) for p in (a.lower, a.upper) for q in (b.lower, b.upper)
    ]
    stacked = torch.stack(corners)
    lower, upper = stacked.amin(0), stacked.amax(0)
    if a.value is not None and b.value is not None:
        return lower, upper
    return lower - ROUNDING * finite_size(lower), upper + ROUNDING * finite_size(upper)


def finite_size(value: Tensor) -> Tensor:
    """|v|, and 0 where that is infinite; lower − ε|lower| keeps the sign of lower ≥ 0."""
    return torch.where(value.isfinite(), value.abs(), 0.0)


def _scaled_profile(value: Facts, factor: Facts, shape: torch.Size) -> Profile | None:
    if factor.value is None or factor.value.numel() != 1 or value.lower.shape != shape:
        return None
    profiles = [p.times(float(factor.value)) for p in value.profiles()]
    return next((p for p in profiles if p is not None), None)


def _reason_of_product(a: Facts, b: Facts) -> str:
    for value, factor in ((a, b), (b, a)):
        if bool(factor.fixed.all()):
            low = float(factor.lower.min()) if factor.lower.numel() else 0.0
            return f"{value.named} value times a factor that may be negative (at least {low:.3g} is known)"
    return "a product of two values that both depend on the inputs"
