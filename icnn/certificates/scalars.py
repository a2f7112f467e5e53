"""Scalar functions, applied entry by entry: where each is convex, concave, rising and falling.

g(v) is convex if g is convex on the range of v and v is affine, or v convex and g rising, or v concave and g falling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import e, inf, pi, sqrt
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import finite_size, negative
from .facts import Facts, Profile, facts, known
from .forms import form_of_product

Interval = tuple[float, float]
LINE: tuple[Interval, ...] = ((-inf, inf),)
LEFT: tuple[Interval, ...] = ((-inf, 0.0),)
RIGHT: tuple[Interval, ...] = ((0.0, inf),)
HALVES = LEFT + RIGHT
NEGLIGIBLE = 20.0  # threshold of softplus, the default of torch
ELEMENTARY = 1e-14  # relative rounding of an elementary function and its argument, per operation


@dataclass(frozen=True)
class Scalar:
    """A scalar function and intervals with each property; turns: arguments of its extrema; slopes: of a convex one.

    domain: where it is finite; strict: without the lower end. image: bounds that always hold.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    convex: tuple[Interval, ...] = ()
    concave: tuple[Interval, ...] = ()
    rising: tuple[Interval, ...] = ()
    falling: tuple[Interval, ...] = ()
    turns: tuple[float, ...] = ()
    domain: Interval = (-inf, inf)
    strict: bool = False
    image: Interval = (-inf, inf)
    slopes: Interval | None = None

    def __call__(self, value: Facts) -> Facts:
        low, high = value.lower, value.upper
        inside = (low > self.domain[0]) if self.strict else (low >= self.domain[0])
        inside = inside & (high <= self.domain[1])
        rising, falling = _within(low, high, self.rising), _within(low, high, self.falling)
        upwards = value.affine | (rising & value.convex) | (falling & value.concave)
        downwards = value.affine | (rising & value.concave) | (falling & value.convex)
        lower, upper = self.range(low, high, inside)
        return facts(
            lower,
            upper,
            inside & _within(low, high, self.convex) & upwards,
            inside & _within(low, high, self.concave) & downwards,
            value.fixed,
            profile=None if self.slopes is None else Profile(value, *self.slopes),
            reason=self._reason(value, bool(inside.all())),
        )

    def range(self, low: Tensor, high: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the function between low and high: at the ends and at the turns between them."""
        if not (self.rising or self.falling):
            return torch.full_like(low, self.image[0]), torch.full_like(high, self.image[1])
        ends = [self.function(low), self.function(high)]
        ends += [self.function(torch.full_like(low, turn).clamp(low, high)) for turn in self.turns]
        values = torch.stack(ends)
        least, most = values.amin(0), values.amax(0)
        least, most = least - ELEMENTARY * finite_size(least), most + ELEMENTARY * finite_size(most)
        least = least.nan_to_num(nan=self.image[0], posinf=inf, neginf=-inf).clamp(min=self.image[0])
        most = most.nan_to_num(nan=self.image[1], posinf=inf, neginf=-inf).clamp(max=self.image[1])
        return torch.where(inside, least, -inf), torch.where(inside, most, inf)

    def _reason(self, value: Facts, inside: bool) -> str:
        if not inside:
            return f"{self.name} of a value that may leave its domain"
        if value.describe() == "affine":
            return f"{self.name} is neither convex nor concave on the range of its argument"
        return f"{self.name} of {value.named} value"


def _within(low: Tensor, high: Tensor, intervals: tuple[Interval, ...]) -> Tensor:
    found = torch.zeros_like(low, dtype=torch.bool)
    for left, right in intervals:
        found = found | ((low >= left) & (high <= right))
    return found


_growing = partial(Scalar, rising=LINE)
_positive = partial(Scalar, domain=(0.0, inf), strict=True)

RELU = _growing("relu", F.relu, convex=LINE, concave=HALVES, slopes=(0.0, 1.0))
SQUARE = Scalar(
    "square", torch.square, convex=LINE, rising=RIGHT, falling=LEFT, turns=(0.0,), image=(0.0, inf), slopes=(-inf, inf)
)
ABS = Scalar(
    "abs", torch.abs, LINE, HALVES, rising=RIGHT, falling=LEFT, turns=(0.0,), image=(0.0, inf), slopes=(-1.0, 1.0)
)
EXP = _growing("exp", torch.exp, convex=LINE, image=(0.0, inf))
SQRT = Scalar("sqrt", torch.sqrt, concave=RIGHT, rising=RIGHT, domain=(0.0, inf), image=(0.0, inf))
LOG = _positive("log", torch.log, concave=RIGHT, rising=RIGHT)
RECIPROCAL = _positive("division", torch.reciprocal, convex=RIGHT, falling=RIGHT, image=(0.0, inf))
COSH = Scalar("cosh", torch.cosh, convex=LINE, rising=RIGHT, falling=LEFT, turns=(0.0,), image=(1.0, inf))
LOG1P = Scalar("log1p", torch.log1p, (), ((-1.0, inf),), ((-1.0, inf),), domain=(-1.0, inf), strict=True)
ENTROPY = Scalar(
    "special_entr",
    torch.special.entr,
    concave=RIGHT,
    rising=((0.0, 1 / e),),
    falling=((1 / e, inf),),
    turns=(1 / e,),
    domain=(0.0, inf),
    image=(-inf, 0.3679),
)
SIGMOID = _growing("sigmoid", torch.sigmoid, convex=LEFT, concave=RIGHT, image=(0.0, 1.0))

_PLAIN = (
    RELU,
    ABS,
    SIGMOID,
    ENTROPY,
    _growing("expm1", torch.expm1, convex=LINE),
    _growing("exp2", torch.exp2, convex=LINE, image=(0.0, inf)),
    _growing("tanh", torch.tanh, convex=LEFT, concave=RIGHT, image=(-1.0, 1.0)),
    _growing("erf", torch.erf, convex=LEFT, concave=RIGHT, image=(-1.0, 1.0)),
    _growing("atan", torch.atan, convex=LEFT, concave=RIGHT, image=(-pi / 2, pi / 2)),
    _growing("asinh", torch.asinh, convex=LEFT, concave=RIGHT),
    _growing("sinh", torch.sinh, convex=RIGHT, concave=LEFT),
    _growing("floor", torch.floor),
    _growing("ceil", torch.ceil),
    Scalar("round", torch.round),
    _growing("sign", torch.sign, image=(-1.0, 1.0)),
    _growing("hardsigmoid", F.hardsigmoid, convex=((-inf, 3.0),), concave=((-3.0, inf),), image=(0.0, 1.0)),
    Scalar("sin", torch.sin, image=(-1.0, 1.0)),
    Scalar("cos", torch.cos, image=(-1.0, 1.0)),
    Scalar("gelu", F.gelu, image=(-0.18, inf)),
    Scalar("silu", F.silu, image=(-0.28, inf)),
    Scalar("mish", F.mish, image=(-0.31, inf)),
    Scalar("hardswish", F.hardswish, image=(-0.38, inf)),
    _positive("log2", torch.log2, concave=RIGHT, rising=RIGHT),
    _positive("log10", torch.log10, concave=RIGHT, rising=RIGHT),
    _positive("rsqrt", torch.rsqrt, convex=RIGHT, falling=RIGHT, image=(0.0, inf)),
)
SCALARS: Mapping[str, Scalar] = MappingProxyType({scalar.name: scalar for scalar in _PLAIN})


def leaky_relu(slope: float) -> Scalar:
    """v where v ≥ 0, slope · v elsewhere."""
    function = partial(F.leaky_relu, negative_slope=slope)
    rising, falling = (LINE, ()) if slope >= 0 else (RIGHT, LEFT)
    if slope > 1:
        return Scalar("leaky_relu", function, HALVES, LINE, rising, falling)
    return Scalar("leaky_relu", function, LINE, HALVES, rising, falling, turns=(0.0,), slopes=(slope, 1.0))


def elu(alpha: float, scale: float, input_scale: float) -> Scalar:
    """scale (v for v > 0, α (exp(κ v) − 1) else): convex if the slope does not fall at zero, α κ ≤ 1."""
    if scale < 0 or alpha < 0 or input_scale < 0:
        return Scalar("elu", F.elu)
    convex = LINE if alpha * input_scale <= 1 else HALVES

    def function(v: Tensor) -> Tensor:
        return scale * torch.where(v > 0, v, alpha * torch.expm1(input_scale * v.clamp(max=0.0)))

    return _growing("elu", function, convex=convex, concave=RIGHT)


def softplus(beta: float, threshold: float) -> Scalar:
    """log(1 + exp(β v)) / β; torch takes it as v beyond the threshold of β v, from 20 on a step below 3e-9 / β."""
    if beta <= 0 or threshold < NEGLIGIBLE:
        return Scalar("softplus", F.softplus)
    return _growing("softplus", partial(F.softplus, beta=beta, threshold=threshold), convex=LINE, image=(0.0, inf))


def clamp(low: float, high: float) -> Scalar:
    """min(max(v, low), high)."""
    function = partial(torch.clamp, min=low, max=high)
    return _growing("clamp", function, convex=((-inf, high),), concave=((low, inf),), image=(min(low, high), high))


def power(value: Facts, exponent: float) -> Facts:
    """v to a number."""
    if exponent == 2:
        return square(value)
    if exponent == 0.5:
        return root(value)
    if exponent == 1:
        return value
    found = _power(exponent)(value)
    return facts(
        found.lower,
        found.upper,
        found.convex,
        found.concave,
        found.fixed,
        logconvex=value.logconvex if exponent > 0 else None,
        reason=found.reason,
    )


def _power(p: float) -> Scalar:
    named = partial(Scalar, "pow", lambda v: v.pow(p))
    if p < 0:
        return named(convex=RIGHT, falling=RIGHT, domain=(0.0, inf), strict=True, image=(0.0, inf))
    if p < 1:
        return named(concave=RIGHT, rising=RIGHT, domain=(0.0, inf), image=(0.0, inf))
    if p % 2 == 0:
        return named(convex=LINE, rising=RIGHT, falling=LEFT, turns=(0.0,), image=(0.0, inf))
    if p % 2 == 1:
        return named(convex=RIGHT, concave=LEFT, rising=LINE)
    return named(convex=RIGHT, rising=RIGHT, domain=(0.0, inf), image=(0.0, inf))


def square(value: Facts) -> Facts:
    """v²; its root |v| is convex where v is affine, or convex and of one sign."""
    found = SQUARE(value)
    rooted = value.magnitude_convex
    found = _with(found, rooted=rooted, profile=Profile(value, -inf, inf, quadratic=1.0))
    form = form_of_product(value, value)
    return found if form is None else replace(found, form=form._replace(settled=True))


def root(value: Facts) -> Facts:
    """√v; convex where v is rooted, and a function of slopes ±√k of u where v = k u² + c."""
    found = SQRT(value)
    quadratic = None if value.profile is None else value.profile.quadratic
    profile = None
    if value.profile is not None and quadratic is not None:
        profile = Profile(value.profile.base, -sqrt(quadratic), sqrt(quadratic))
    return _with(found, convex=found.convex | value.rooted, logconvex=value.logconvex, profile=profile)


def reciprocal(value: Facts) -> Facts:
    """1 / v."""
    if value.value is not None:
        return known(value.value.double().reciprocal())
    if bool((value.upper < 0).all()):
        return negative(RECIPROCAL(negative(value)))
    return RECIPROCAL(value)


def exponential(value: Facts) -> Facts:
    """exp v; its logarithm is v."""
    return _with(EXP(value), logconvex=value.convex)


def logarithm(value: Facts) -> Facts:
    """log v; convex where v is log-convex."""
    found = LOG(value)
    return _with(found, convex=found.convex | value.logconvex)


def log_one_plus(value: Facts) -> Facts:
    """log(1 + v); convex where v is log-convex."""
    found = LOG1P(value)
    return _with(found, convex=found.convex | value.logconvex)


def hyperbolic_cosine(value: Facts) -> Facts:
    """cosh v; its logarithm is convex and grows with |v|."""
    return _with(COSH(value), logconvex=value.magnitude_convex)


def softshrink(threshold: float) -> Scalar:
    """v − λ above λ, v + λ below −λ, 0 between."""
    function = partial(F.softshrink, lambd=threshold)
    return _growing("softshrink", function, convex=((-threshold, inf),), concave=((-inf, threshold),))


def _with(found: Facts, **changes) -> Facts:
    """The facts with some replaced, and what follows from them."""
    fields = ("lower", "upper", "convex", "concave", "fixed", "rooted", "logconvex", "profile", "reason")
    return facts(**{**{name: getattr(found, name) for name in fields}, **changes})
