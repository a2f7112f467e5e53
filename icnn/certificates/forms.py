"""Quadratic forms: sums of products of two linear images of one affine value.

    v = L(u) + c,   w = M(u) + d,   u affine in the inputs, c and d fixed:   Σ v w = uᵀ H u + affine

is convex where the symmetric part of H is positive semidefinite, which no rule for products of single entries sees. The
maps L and M are kept as functions, and become matrices only where such a sum is neither convex nor concave by other
rules. H is then known up to rounding; a claim needs eigenvalues that are further from zero than that, except for
entries of u that do not take part.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product as pairs_of
from typing import NamedTuple

import torch
from torch import Tensor

from .facts import BasisPairs, Facts, Form, Image, Map

ROUNDING = 1e-12  # of a coefficient, relative to the sum of the sizes of its terms
SIDE, ENTRIES = 256, 10**7  # most rows of H; most entries of H over all outputs, and of L and M


def images(value: Facts) -> tuple[Image, ...]:
    """The affine values whose linear image this one is; itself, unless a pure one is known."""
    recorded = value.images
    if any(image.pure for image in recorded) or not bool(value.affine.all()) or bool(value.fixed.all()):
        return recorded
    return (*recorded, Image(value, _same, _same, True))


def _same(value: Tensor) -> Tensor:
    return value


def mapped(found: Facts, value: Facts, plus: Map, minus: Map) -> Facts:
    """The facts about plus(v) − minus(v), with its images and its form."""

    def difference(part: Tensor) -> Tensor:
        return plus(part) - minus(part)

    def total(part: Tensor) -> Tensor:
        return plus(part) + minus(part)

    return _after(found, value, difference, total)


def moved(found: Facts, value: Facts, move: Map) -> Facts:
    """The facts about move(v), which has the entries of v elsewhere, or zeros."""
    return _after(found, value, move, move)


def scaled(found: Facts, value: Facts, factor: Tensor) -> Facts:
    """The facts about v times a known factor."""
    exact = factor.detach().to("cpu", torch.float64)
    return _after(found, value, lambda part: part * exact, lambda part: part * exact.abs())


def _after(found: Facts, value: Facts, then: Map, then_size: Map) -> Facts:
    before, form = images(value), value.form
    after = tuple(i._replace(map=_chain(i.map, then), size=_chain(i.size, then_size)) for i in before)
    if form is not None:
        form = form._replace(map=_chain_pairs(form.map, then), size=_chain_pairs(form.size, then_size))
    return replace(found, images=after, form=form)


def _chain(first: Map, then: Map) -> Map:
    return lambda part: then(first(part))


def _chain_pairs(first: BasisPairs, then: Map) -> BasisPairs:
    def chained(i: int, j: int) -> Tensor | None:
        part = first(i, j)
        return None if part is None else then(part)

    return chained


def summed(found: Facts, a: Facts, b: Facts) -> Facts:
    """The facts about a + b; a form of the sum of two forms is looked at."""
    spread = partial(torch.broadcast_to, size=found.lower.shape)
    for value, other in ((a, b), (b, a)):
        if bool(other.fixed.all()) and other.form is None:
            kept = _after(found, value, spread, spread)
            form = None if kept.form is None else kept.form._replace(pure=False)
            return replace(kept, images=tuple(i._replace(pure=False) for i in kept.images[:1]), form=form)
    found = replace(found, images=_pairwise(images(a), images(b), spread), form=_sum_of_forms(a, b, spread))
    return settled(found) if a.form is not None and b.form is not None and not pending(found) else found


def _pairwise(a: Sequence[Image], b: Sequence[Image], spread: Map) -> tuple[Image, ...]:
    """Images of a sum: of what both are images of."""
    return tuple(
        Image(p.base, _sum_of_maps(p.map, q.map, spread), _sum_of_maps(p.size, q.size, spread), p.pure and q.pure)
        for p, q in pairs_of(a, b)
        if p.base is q.base
    )


def _sum_of_maps(first: Map, second: Map, spread: Map) -> Map:
    return lambda part: spread(first(part)) + spread(second(part))


def _sum_of_forms(a: Facts, b: Facts, spread: Map) -> Form | None:
    """Of two forms of one base, or of a form and an affine value."""
    if a.form is not None and b.form is not None:
        if a.form.base is not b.form.base:
            return None
        return Form(
            a.form.base,
            _sum_of_pairs(a.form.map, b.form.map, spread),
            _sum_of_pairs(a.form.size, b.form.size, spread),
            a.form.pure and b.form.pure,
            a.form.settled and b.form.settled,
        )
    for value, other in ((a, b), (b, a)):
        if value.form is not None and bool(other.affine.all()):
            form = value.form
            return form._replace(map=_chain_pairs(form.map, spread), size=_chain_pairs(form.size, spread), pure=False)
    return None


def _sum_of_pairs(first: BasisPairs, second: BasisPairs, spread: Map) -> BasisPairs:
    def both(i: int, j: int) -> Tensor | None:
        parts = [spread(part) for part in (first(i, j), second(i, j)) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None

    return both


def form_of_product(a: Facts, b: Facts) -> Form | None:
    """Of two images of one base; rather of pure ones."""
    common = [(p, q) for p, q in pairs_of(images(a), images(b)) if p.base is q.base]
    if not common:
        return None
    p, q = max(common, key=lambda pair: pair[0].pure and pair[1].pure)
    if p.base.lower.numel() * torch.broadcast_shapes(a.lower.shape, b.lower.shape).numel() > ENTRIES:
        return None
    of_values, of_sizes = _products(p.base, p.map, q.map), _products(p.base, p.size, q.size)
    return Form(p.base, of_values, of_sizes, p.pure and q.pure, settled=False)


def _products(base: Facts, first: Map, second: Map) -> BasisPairs:
    """Products of the images of unit vectors; None where they do not meet."""

    def of_unit(i: int, image: Map) -> Tensor:
        unit = torch.zeros(base.lower.numel(), dtype=torch.float64)
        unit[i] = 1.0
        return image(unit.reshape(base.lower.shape))

    left, right = cache(partial(of_unit, image=first)), cache(partial(of_unit, image=second))

    def product(i: int, j: int) -> Tensor | None:
        image = left(i) * right(j)
        return image if bool(image.any()) else None

    return product


def pending(value: Facts) -> bool:
    """Whether it is a product whose sum may yet be a form with a sign."""
    return value.form is not None and not value.form.settled


def settled(found: Facts) -> Facts:
    """The facts, with the signs of the forms where other rules know no curvature."""
    form = found.form
    if form is None:
        return found
    found = replace(found, form=form._replace(settled=True))
    if not found.unknown:
        return found
    side = form.base.lower.numel()
    if side > SIDE or side**2 * found.lower.numel() > ENTRIES:
        return replace(found, reason=f"a quadratic form in {side} numbers, more than are looked at")
    H, E = (_matrices(pairs, found, side) for pairs in (form.map, form.size))
    return _with_signs(found, form.pure, list(map(_signs, H, E)))


class _Signs(NamedTuple):
    """Of one form: the extreme eigenvalues, and how far from zero they must be."""

    least: float
    most: float
    rounding: float

    @property
    def up(self) -> bool:
        return self.least >= self.rounding

    @property
    def down(self) -> bool:
        return self.most <= -self.rounding

    @property
    def reason(self) -> str:
        rounded = min(abs(self.least), abs(self.most)) < self.rounding
        hint = ", zero up to rounding: a sum of squares would be certain" if rounded else ""
        return f"a quadratic form with eigenvalues from {self.least:.3g} to {self.most:.3g}{hint}"


def _signs(H: Tensor, E: Tensor) -> _Signs:
    """Of the symmetric matrix of a form and the sizes of its coefficients."""
    part = E.sum(-1) != 0  # also where it is NaN
    H, E = H[part][:, part], E[part][:, part]
    if not len(H):
        return _Signs(0.0, 0.0, 0.0)
    if not bool(E.isfinite().all()):
        return _Signs(-torch.inf, torch.inf, 0.0)
    eigenvalues = torch.linalg.eigvalsh(H)
    return _Signs(float(eigenvalues[0]), float(eigenvalues[-1]), ROUNDING * float(E.norm()))


def _matrices(pairs: BasisPairs, found: Facts, side: int) -> Tensor:
    """The symmetric matrix of each entry of the form."""
    full = torch.zeros(side, side, found.lower.numel(), dtype=torch.float64)
    for i, j in pairs_of(range(side), range(side)):
        part = pairs(i, j)
        if part is not None:
            full[i, j] = part.flatten()
    full = full.permute(2, 0, 1)
    return (full + full.mT) / 2


def _with_signs(found: Facts, pure: bool, signs: Sequence[_Signs]) -> Facts:
    def mask(values: Sequence[bool]) -> Tensor:
        return torch.tensor(values).reshape(found.lower.shape)

    up, down = mask([s.up for s in signs]), mask([s.down for s in signs])
    root = up if pure else torch.zeros_like(up)
    undecided = [s for s in signs if not (s.up or s.down)]
    return replace(
        found,
        convex=found.convex | up,
        concave=found.concave | down,
        rooted=found.rooted | root,
        lower=torch.where(root, found.lower.clamp(min=0.0), found.lower),
        reason=min(undecided, key=lambda s: s.least).reason if undecided else found.reason,
    )
