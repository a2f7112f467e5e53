"""What certify knows about a tensor, entry by entry.

Every entry v of a tensor is a function of the inputs. Known about it: bounds; whether it is convex, concave, or fixed
(free of the inputs); and two facts that survive where plain rules of composition lose track,

    rooted:      v ≥ 0 and √v is convex, as for a sum of squares, so √(Σ v) is convex (a norm);
    logconvex:   v > 0 and log v is convex, as for an exponential, so log Σ v is convex (log-sum-exp).

An entry that is convex and concave is affine, one that is neither is unknown.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
BasisPairs = Callable[[int, int], Tensor | None]


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


class Image(NamedTuple):
    """v = map(base) + what is fixed, with map linear and base affine; size: map with its coefficients made positive.

    pure: nothing is added.
    """

    base: "Facts"
    map: Map
    size: Map
    pure: bool


class Form(NamedTuple):
    """v = Σ map(i, j) base_i base_j + what is affine in the inputs; size: the same with positive terms only.

    map gives a coefficient for each entry of v, or None where all are zero. pure: no affine part. settled: not a mere
    product, whose sum may yet have a sign.
    """

    base: "Facts"
    map: BasisPairs
    size: BasisPairs
    pure: bool
    settled: bool


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts about the entries of one tensor; all fields have its shape.

    value: the tensor itself where it is known, as weights are. reason: what to say if this is where unknown entries
    appear; stop: where they appeared first; turn: where some entries became concave and others convex. images, form:
    as what linear image, or quadratic form, of an earlier affine value it was computed.
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
    images: tuple[Image, ...] = ()
    form: Form | None = None

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

    @property
    def named(self) -> str:
        """The same with an article."""
        word = self.describe()
        return f"an {word}" if word[0] in "au" else f"a {word}"

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
