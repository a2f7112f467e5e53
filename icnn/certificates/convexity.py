"""A search for evidence that a function is not convex.

f is convex on a box exactly if no chord lies below it: for y₁, y₂ in the box and t in (0, 1),

    gap = f(t y₁ + (1 − t) y₂) − t f(y₁) − (1 − t) f(y₂) ≤ 0.

Chords are proposed by four searches, from cheap to thorough: at random; the worst of many on each of many lines; by
ascent of the gap over both ends and t; along the eigenvector of the smallest eigenvalue of the Hessian. One check
judges them all.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .chords import BoxedEnergy, Chords, ascend, curvature_chords, line_chords, random_chords

Bound = float | int | Tensor

# Rounding of f relative to its size. A network sums up to 10⁴ products per unit, which costs at most 10⁴ ·
# 2⁻⁵³ = 10⁻¹² of the terms in float64; the rest allows for terms that cancel down to a hundredth.
ROUNDING = 1e-10
ROUNDS_OF_LINES = 8  # about as many evaluations as the ascent


@dataclass(frozen=True, eq=False)
class Violation:
    """A chord below the function: f(t y1 + (1 − t) y2) = t f(y1) + (1 − t) f(y2) + gap, gap > 0.

    y1, y2: (*y_shape) in float64. x: the instance of the context at which it happens, or None.
    """

    y1: Tensor
    y2: Tensor
    t: float
    gap: float
    x: Tensor | None = None


def falsify(
    f: nn.Module | Callable[..., Tensor],
    x: Float[Tensor, "..."] | None = None,
    *,
    y_shape: Sequence[int] | None = None,
    bounds: tuple[Bound, Bound] = (0.0, 1.0),
    samples: int = 256,
    steps: int = 60,
    seed: int = 0,
) -> Violation | None:
    """Look for a chord that shows that f is not convex in y on a box.

        f(x, t y₁ + (1 − t) y₂) > t f(x, y₁) + (1 − t) f(x, y₂),   y₁, y₂ ∈ [lower, upper],   t ∈ (0, 1)

    None means that none was found, not that f is convex. The search runs in float64, on a copy of a module
    that is in evaluation mode, and leaves the global random state alone.

    f: a module or a function, f(y) or f(x, y), that maps (samples, *batch, *y_shape) to (samples, *batch).
    x: the context, (*batch, *x_shape) for a network that knows its x_shape, else one instance; None for f(y).
    y_shape: the shape of one y, needed when f has no attribute of that name.
    bounds: lower and upper, numbers or tensors of shape y_shape.
    samples: chords tried per instance. steps: of the ascent. seed: of the search.
    Returns the Violation with the largest gap relative to the size of f, or None.
    Raises ValueError if y_shape is unknown, the bounds are contradictory or f is not finite in the box.
    """
    domain, batch = _domain(f, x, y_shape, bounds)
    generator = torch.Generator().manual_seed(seed)
    chords = random_chords(domain, (samples, *batch), generator)
    for found in _searches(f, domain, chords, steps, generator):
        violation = _worst(domain, found, x, batch)
        if violation is not None:
            return violation
    return None


def _searches(
    f: object, domain: BoxedEnergy, chords: Chords, steps: int, generator: torch.Generator
) -> Iterator[Chords]:
    yield chords
    for _ in range(ROUNDS_OF_LINES):
        yield line_chords(domain, tuple(chords.t.shape), generator)
    yield ascend(domain, chords, steps)
    if not getattr(f, "piecewise_linear", False):
        yield from curvature_chords(domain, chords.y1, generator)


def _domain(
    f: nn.Module | Callable[..., Tensor],
    x: Tensor | None,
    y_shape: Sequence[int] | None,
    bounds: tuple[Bound, Bound],
) -> tuple[BoxedEnergy, tuple[int, ...]]:
    """The door: the energy in float64, its box, and the batch dimensions of x."""
    shape = y_shape if y_shape is not None else getattr(f, "y_shape", None)
    if shape is None:
        raise ValueError("f has no y_shape, so the argument y_shape is needed: the shape of one y")
    place = next(f.parameters(), x) if isinstance(f, nn.Module) else x
    device = None if place is None else place.device
    lower, upper = (torch.as_tensor(b, dtype=torch.float64, device=device).expand(*shape) for b in bounds)
    if not bool((lower <= upper).all()):
        raise ValueError("bounds are contradictory, expected lower <= upper everywhere")
    x_shape = getattr(f, "x_shape", None)
    if isinstance(f, nn.Module):
        f = copy.deepcopy(f).double().eval()
    batch = () if x is None or x_shape is None else tuple(x.shape[: x.ndim - len(x_shape)])
    return BoxedEnergy(_energy(f, x), tuple(shape), lower, upper), batch


def _energy(f: Callable[..., Tensor], x: Tensor | None) -> Callable[[Tensor], Tensor]:
    if x is None:
        return f
    context = x.double() if x.is_floating_point() else x
    given = getattr(f, "given", None)
    if given is not None:
        return given(context)
    return lambda y: f(context.expand(len(y), *context.shape), y)


def _worst(domain: BoxedEnergy, chords: Chords, x: Tensor | None, batch: tuple[int, ...]) -> Violation | None:
    """The chord with the largest gap relative to the size of f at its instance, if above rounding."""
    with torch.no_grad():
        gap, size = domain.gap(chords)
    if not bool(gap.isfinite().all()):
        raise ValueError("f is not finite at some points of the box, expected finite values")
    relative = gap / size.amax(0).clamp(min=torch.finfo(gap.dtype).tiny)
    at = int(relative.argmax())
    if float(relative.flatten()[at]) <= ROUNDING:
        return None
    index = torch.unravel_index(torch.tensor(at), relative.shape)
    instance = x[index[1:]] if x is not None and batch else x
    return Violation(
        chords.y1[index].clone(),
        chords.y2[index].clone(),
        float(chords.t[index]),
        float(gap[index]),
        instance,
    )
