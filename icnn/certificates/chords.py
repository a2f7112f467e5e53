"""Chords under which a function may lie, proposed from cheap to thorough."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

LANCZOS_STEPS = 24
POINTS = 65  # of a line, ends included
STRIDES = (1, 2, 4, 8, 16)  # between the ends of a chord of a line and its middle
REACHES = (1.0, 0.3, 0.1, 0.03, 0.01)  # of chords along an eigenvector, in units of the box


class Chords(NamedTuple):
    """Candidates: two ends and the weight of the first."""

    y1: Tensor  # (samples, *batch, *y_shape)
    y2: Tensor
    t: Tensor  # (samples, *batch)


@dataclass(frozen=True, eq=False)
class BoxedEnergy:
    """The energy in float64, with its domain."""

    energy: Callable[[Tensor], Tensor]
    y_shape: tuple[int, ...]
    lower: Tensor
    upper: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        """Values of shape (samples, *batch); a trailing dimension of one, as from nn.Linear, is accepted."""
        return self.energy(y).reshape(y.shape[: y.ndim - len(self.y_shape)])

    def clamp(self, y: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(y, self.lower), self.upper)

    def per_point(self, t: Tensor) -> Tensor:
        return t.reshape(*t.shape, *(1 for _ in self.y_shape))

    def uniform(self, lead: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Points of the box."""
        share = torch.rand(*lead, *self.y_shape, generator=generator, dtype=torch.float64)
        return torch.lerp(self.lower, self.upper, share.to(self.lower.device))

    def gap(self, chords: Chords) -> tuple[Tensor, Tensor]:
        """By how much f exceeds the chord, and the size of f there."""
        y1, y2, t = chords
        weight = self.per_point(t)
        middle, first, second = self(weight * y1 + (1 - weight) * y2), self(y1), self(y2)
        size = torch.stack([middle, first, second]).detach().abs().amax(0)
        return middle - t * first - (1 - t) * second, size


def random_chords(domain: BoxedEnergy, lead: tuple[int, ...], generator: torch.Generator) -> Chords:
    """Ends uniform in the box; every other chord shortened, down to a thousandth, for local violations."""
    y1, y2 = (domain.uniform(lead, generator) for _ in range(2))
    reach, t = (torch.rand(lead, generator=generator, dtype=torch.float64).to(y1.device) for _ in range(2))
    reach = 10 ** (-3 * reach)
    reach[::2] = 1
    return Chords(y1, torch.lerp(y1, y2, domain.per_point(reach)), 0.1 + 0.8 * t)


@torch.no_grad()
def line_chords(domain: BoxedEnergy, lead: tuple[int, ...], generator: torch.Generator) -> Chords:
    """The worst chord of each of many lines across the box: a line meets many kinks, a chord few."""
    start, end = (domain.uniform(lead, generator) for _ in range(2))
    values = torch.stack([domain(torch.lerp(start, end, i / (POINTS - 1))) for i in range(POINTS)])
    gaps = [values[s:-s] - (values[2 * s :] + values[: -2 * s]) / 2 for s in STRIDES]
    best = torch.stack([gap.amax(0) for gap in gaps]).argmax(0, keepdim=True)
    middles = torch.stack([gap.argmax(0) + s for gap, s in zip(gaps, STRIDES, strict=True)])
    middle, half = middles.gather(0, best)[0], torch.tensor(STRIDES, device=best.device)[best[0]]
    ends = (domain.per_point((middle + side * half) / (POINTS - 1)) for side in (-1, 1))
    y1, y2 = (torch.lerp(start, end, at.to(start)) for at in ends)
    return Chords(y1, y2, torch.full(lead, 0.5).to(start))


def ascend(domain: BoxedEnergy, chords: Chords, steps: int) -> Chords:
    """Projected ascent of the gap with normalised, shrinking steps; each chord keeps the best that it met."""
    width = (domain.upper - domain.lower).norm()
    best, record = chords, domain.gap(chords)[0].detach()
    for step in range(steps):
        leaves = Chords(*(part.detach().requires_grad_() for part in chords))
        gap, _ = domain.gap(leaves)
        slopes = torch.autograd.grad(gap.sum(), leaves, materialize_grads=True)
        best, record = _better(domain, best, record, leaves, gap.detach())
        length = 0.3 * 0.05 ** (step / steps)
        chords = Chords(
            domain.clamp(leaves.y1 + length * width * _unit(slopes[0], domain)).detach(),
            domain.clamp(leaves.y2 + length * width * _unit(slopes[1], domain)).detach(),
            (leaves.t + 0.1 * length * slopes[2].sign()).clamp(0.05, 0.95).detach(),
        )
    return best


def _better(domain: BoxedEnergy, best: Chords, record: Tensor, chords: Chords, gap: Tensor) -> tuple[Chords, Tensor]:
    wins = gap > record
    won = domain.per_point(wins)
    kept = Chords(
        torch.where(won, chords.y1.detach(), best.y1),
        torch.where(won, chords.y2.detach(), best.y2),
        torch.where(wins, chords.t.detach(), best.t),
    )
    return kept, torch.where(wins, gap, record)


def _unit(direction: Tensor, domain: BoxedEnergy) -> Tensor:
    size = direction.flatten(-len(domain.y_shape)).norm(dim=-1)
    return direction / domain.per_point(size.clamp(min=torch.finfo(size.dtype).tiny))


def curvature_chords(domain: BoxedEnergy, points: Tensor, generator: torch.Generator) -> Iterator[Chords]:
    """Chords around the points, along the eigenvector of the smallest Hessian eigenvalue."""
    point = points.detach().requires_grad_()
    slope = torch.autograd.grad(domain(point).sum(), point, create_graph=True, materialize_grads=True)[0]
    if not slope.requires_grad:  # f is affine
        return
    hessian = partial(_hessian_times, slope, point)
    width = (domain.upper - domain.lower).norm()
    direction = width * _smallest_eigenvector(hessian, points, domain, generator)
    for reach in REACHES:
        ends = domain.clamp(points + reach * direction), domain.clamp(points - reach * direction)
        yield Chords(*ends, torch.full(points.shape[: points.ndim - len(domain.y_shape)], 0.5).to(points))


def _hessian_times(slope: Tensor, point: Tensor, vector: Tensor) -> Tensor:
    return torch.autograd.grad(slope, point, vector, retain_graph=True, materialize_grads=True)[0]


def _smallest_eigenvector(
    hessian: Callable[[Tensor], Tensor], points: Tensor, domain: BoxedEnergy, generator: torch.Generator
) -> Tensor:
    """Ritz vector of the smallest Ritz value of a Krylov space, fully reorthogonalised, for each point."""
    lead = points.ndim - len(domain.y_shape)
    vector = torch.randn(points.shape, generator=generator, dtype=points.dtype).to(points.device)
    basis, images = [], []
    for _ in range(min(LANCZOS_STEPS, domain.lower.numel())):
        for _ in range(2):  # the first time leaves rounding when little of the vector is left
            for other in basis:
                vector = vector - domain.per_point((vector * other).flatten(lead).sum(-1)) * other
            vector = _unit(vector, domain)
        basis.append(vector)
        images.append(hessian(basis[-1]))
        vector = images[-1]
    span, image = (torch.stack(part, lead).flatten(lead + 1) for part in (basis, images))
    small = span @ image.mT
    weights = torch.linalg.eigh((small + small.mT) / 2).eigenvectors[..., :1]
    return (weights * span).sum(-2).reshape(points.shape)
