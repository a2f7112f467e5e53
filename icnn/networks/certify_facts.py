"""What certify knows about a tensor, entry by entry, and how sums, products and linear maps carry it on.

Every entry v of a tensor is a function of the inputs. Known about it: bounds; whether it is convex, concave, or fixed
(free of the inputs); and two facts that survive where plain rules of composition lose track,

    rooted:      v ≥ 0 and √v is convex, as for a sum of squares, so √(Σ v) is convex (a norm);
    logconvex:   v > 0 and log v is convex, as for an exponential, so log Σ v is convex (log-sum-exp).

An entry that is convex and concave is affine, one that is neither is unknown. Bounds are intervals computed in float64;
sums widen them by their rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-12  # of a sum of 10⁴ products in float64, relative to the sum of their sizes

Map = Callable[[Tensor], Tensor]


class Node(NamedTuple):
    """A place in the computation: the path of the module, or of the owner of the weight, and the operation."""

    module: str
    operation: str

    def __str__(self) -> str:
        return f"{self.module}: {self.operation}" if self.module else self.operation


class Stop(NamedTuple):
    """Where curvature was lost, and why."""

    node: Node
    reason: str


class Profile(NamedTuple):
    """An entrywise convex function of `base` with slopes in [low, high]; quadratic: k if it is k base² + c, c ≥ 0."""

    base: "Facts"
    low: float
    high: float
    quadratic: float | None = None

    def times(self, factor: float) -> "Profile | None":
        """None where the multiple is not convex."""
        if factor < 0 and self.low != self.high:
            return None
        low, high = sorted((factor * self.low, factor * self.high)) if factor else (0.0, 0.0)
        return Profile(self.base, low, high, None if self.quadratic is None else factor * self.quadratic)

    @property
    def convex(self) -> Tensor:
        if self.low >= 0:
            return self.base.convex
        return self.base.concave if self.high <= 0 else self.base.affine


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts about the entries of one tensor; all fields have its shape.

    value: the tensor itself where it is known, as weights are. reason: what to say if this is where unknown entries
    appear; stop: where they appeared first; turn: where some entries became concave and others convex.
    """

    lower: Tensor
    upper: Tensor
    convex: Tensor
    concave: Tensor
    fixed: Tensor
    rooted: Tensor
    logconvex: Tensor
    value: Tensor | None = None
    profile: Profile | None = None
    reason: str = ""
    stop: Stop | None = None
    turn: Stop | None = None

    @cached_property
    def affine(self) -> Tensor:
        return self.convex & self.concave

    @cached_property
    def unknown(self) -> bool:
        """Whether some entry is neither convex nor concave."""
        return not bool((self.convex | self.concave).all())

    @cached_property
    def mixed(self) -> bool:
        """Whether the entries are neither all convex nor all concave."""
        return not (bool(self.convex.all()) or bool(self.concave.all()))

    @cached_property
    def magnitude_convex(self) -> Tensor:
        """Where |v| is convex."""
        return self.affine | (self.convex & (self.lower >= 0)) | (self.concave & (self.upper <= 0))

    def describe(self) -> str:
        """The curvature in one word, of the least certain entries."""
        if self.unknown:
            return "unknown"
        if bool(self.fixed.all()):
            return "constant"
        if bool(self.affine.all()):
            return "affine"
        if self.mixed:
            return "partly convex, partly concave"
        return "convex" if bool(self.convex.all()) else "concave"

    def profiles(self) -> list[Profile]:
        own = Profile(self, 1.0, 1.0)
        return [own] if self.profile is None else [self.profile, own]


def facts(
    lower: Tensor,
    upper: Tensor,
    convex: Tensor | None = None,
    concave: Tensor | None = None,
    fixed: Tensor | None = None,
    rooted: Tensor | None = None,
    logconvex: Tensor | None = None,
    *,
    profile: Profile | None = None,
    reason: str = "",
) -> Facts:
    """Facts with what follows: fixed entries are affine, entries with a convex root or logarithm are convex."""
    no = torch.zeros_like(lower, dtype=torch.bool)
    given = (convex, concave, fixed, rooted, logconvex)
    convex, concave, fixed, rooted, logconvex = [no if part is None else part for part in given]
    lower, upper = (
        lower.nan_to_num(nan=-inf, posinf=inf, neginf=-inf),
        upper.nan_to_num(nan=inf, posinf=inf, neginf=-inf),
    )
    if profile is not None:
        convex = convex | profile.convex
    nonnegative = fixed & (lower >= 0)
    rooted, logconvex = rooted | nonnegative, logconvex | nonnegative
    convex = convex | fixed | rooted | logconvex
    return Facts(lower, upper, convex, concave | fixed, fixed, rooted, logconvex, None, profile, reason)


def known(value: Tensor) -> Facts:
    """A tensor with its values of now; NaN is nothing that a claim can rest on."""
    exact = value.detach().to("cpu", torch.float64)
    good = ~exact.isnan()
    found = facts(exact, exact, good, good, good)
    return replace(found, value=value)


def unknown(shape: torch.Size, reason: str, fixed: bool = False) -> Facts:
    """Anything, though free of the inputs if fixed."""
    infinite = torch.full(shape, inf, dtype=torch.float64)
    mask = torch.full(shape, fixed)
    return facts(-infinite, infinite, mask, mask, mask, reason=reason)


def variable(lower: Tensor, upper: Tensor, fixed: bool) -> Facts:
    """An input within bounds; fixed: one that is held fixed."""
    yes = torch.ones_like(lower, dtype=torch.bool)
    return facts(lower, upper, yes, yes, yes if fixed else None)


def through(value: Facts, move: Map) -> Facts:
    """Rearranged: `move` copies entries and computes nothing."""

    def mask(part: Tensor) -> Tensor:
        return move(part.double()) > 0.5

    return facts(
        move(value.lower),
        move(value.upper),
        *map(mask, (value.convex, value.concave, value.fixed, value.rooted, value.logconvex)),
    )


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
    return facts(
        _least(value.lower, value.upper, plus, minus),
        -_least(-value.upper, -value.lower, plus, minus),
        all_of(value.convex, value.concave),
        all_of(value.concave, value.convex),
        all_of(value.fixed, value.fixed),
        all_of(value.rooted, none),
        all_of(value.logconvex, none),
        reason=reason,
    )


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
    return facts(
        a_lower + b_lower - _slack(a_lower, b_lower),
        a_upper + b_upper + _slack(a_upper, b_upper),
        a.convex & b.convex,
        a.concave & b.concave,
        a.fixed & b.fixed,
        a.rooted & b.rooted,
        a.logconvex & b.logconvex,
        profile=_sum_of_profiles(a, b, a_lower.shape),
        reason=reason or f"the sum of a {a.describe()} and a {b.describe()} value",
    )


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
    return replace(found, profile=next((p for p in profile if p is not None), None))


def product(a: Facts, b: Facts) -> Facts:
    """Entrywise; one factor must be fixed, and of known sign unless the other is affine."""
    lower, upper = _range_of_product(a, b)
    scaled = [_scaled(value, factor) for value, factor in ((a, b), (b, a))]
    convex = scaled[0][0] | scaled[1][0]
    concave = scaled[0][1] | scaled[1][1]
    nonnegative = (a.fixed & (a.lower >= 0)) | (b.fixed & (b.lower >= 0))
    return facts(
        lower,
        upper,
        convex,
        concave,
        a.fixed & b.fixed,
        a.rooted & b.rooted & nonnegative,
        a.logconvex & b.logconvex,
        profile=_scaled_profile(a, b, lower.shape) or _scaled_profile(b, a, lower.shape),
        reason=_reason_of_product(a, b),
    )


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
    scaled = [p.times(float(factor.value)) for p in value.profiles()]
    return next((p for p in scaled if p is not None), None)


def _reason_of_product(a: Facts, b: Facts) -> str:
    for value, factor in ((a, b), (b, a)):
        if bool(factor.fixed.all()):
            low = float(factor.lower.min()) if factor.lower.numel() else 0.0
            return f"a {value.describe()} value times a factor that may be negative (at least {low:.3g} is known)"
    return "a product of two values that both depend on the inputs"
