"""The maximum of a convex function over a box, which a vertex attains.

With few free variables all vertices are tried. With many, branch and bound: the box is cut into faces, on which some
variables are at an end. On each, f ≤ u'y + o: chords take the place of the activations over the ranges of their
arguments. That is affine in y as a whole and so keeps in mind, as intervals do not, that all units see the same y. Of
½ y'Qy = ½ |Ly|² + ½ Σ d y² it takes the tangent at the centre c and what that leaves out, at most that of |L| |y − c|.
From below vertices bound it: since f(y') ≥ f(y) + g'(y' − y), the best vertex for a tangent is no worse than its point.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from icnn.certificates.boxes import Boxed
from icnn.certificates.jacobian_bounds import magnitude
from icnn.certificates.ranges import chords, highest, ranges, replaced
from icnn.networks.energy import LayeredEnergy

from .flat import FlatEnergy, flat_energy
from .tangents import Bracket

ENUMERATED = 12  # free variables, up to which all vertices are tried
POINTS = 2**16  # vertices at a time, and variables of the faces that a round cuts
ASCENT = 20  # steps from vertex to vertex
ROUNDS, FRONT = 30, 64  # of branch and bound, and faces that each of them cuts


class Faces(NamedTuple):
    """k faces of one box, (k, n) and (k,): f ≤ above on them; vertex: where the affine bound is largest.

    influence: by how much it varies with each variable, zero for those at an end alone.
    """

    lower: Tensor
    upper: Tensor
    above: Tensor
    vertex: Tensor
    influence: Tensor

    def at(self, chosen: Tensor) -> "Faces":
        return Faces(*(part[chosen] for part in self))

    def joined(self, other: "Faces") -> "Faces":
        return Faces(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def maximum(instances: Boxed, tol: float) -> Bracket:
    """Of m instances: lower = f(y) ≤ max f ≤ upper, y a vertex; branch and bound ends at a gap of tol (1 + |f(y)|)."""
    assert instances.lower is not None
    assert instances.upper is not None
    lower, upper = instances.lower.flatten(1), instances.upper.flatten(1)
    energy = flat_energy(instances.energy, lower.shape[:1], instances.y_shape, lower)
    free = (upper > lower).any(0).nonzero().squeeze(-1)
    if len(free) <= ENUMERATED:
        value, y = _enumerate(energy, lower, upper, free)
        return Bracket(value, value, y)
    value, y = _climb(energy, (lower + upper) / 2, lower, upper)
    found = Bracket(value, torch.full_like(value, torch.inf), y)
    if not isinstance(instances.energy, LayeredEnergy):
        return found
    parts = [
        _search(instances.at(index), energy.at(index), value[index], y[index], tol)
        for index in torch.arange(len(y), device=y.device).split(1)
        if len(index)
    ]
    if not parts:
        return found
    return Bracket(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _enumerate(energy: FlatEnergy, lower: Tensor, upper: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    best, y = torch.full_like(lower[:, 0], -torch.inf), lower
    bits = torch.arange(len(free), device=lower.device)
    codes = torch.arange(2 ** len(free), device=lower.device)
    for part in codes.split(max(1, POINTS // max(1, len(lower)))):
        chosen = torch.zeros(len(part), 1, lower.shape[1], dtype=torch.bool, device=lower.device)
        chosen[:, 0, free] = (part[:, None] >> bits) & 1 == 1
        vertices = torch.where(chosen, upper, lower)
        best, y = _better(best, y, energy(vertices).detach(), vertices)
    return best, y


def _better(best: Tensor, y: Tensor, values: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The best of what there is, (m,), and of more values (k, m) at points (k, m, n)."""
    value, index = values.max(0)
    other = points.gather(0, index[None, :, None].expand(1, *y.shape)).squeeze(0)
    return torch.maximum(best, value), torch.where((value > best).unsqueeze(-1), other, y)


def _climb(energy: FlatEnergy, point: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """From points (m, n) to vertices, as long as that is uphill for one of the instances."""
    best, y = torch.full_like(lower[:, 0], -torch.inf), lower
    for _ in range(ASCENT):
        point = torch.where(energy.tangent(point).slope > 0, upper, lower)
        value = energy(point).detach()
        if not bool((value > best).any()):
            break
        best, y = _better(best, y, value[None], point[None])
    return best, y


def _search(instance: Boxed, energy: FlatEnergy, best: Tensor, y: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Branch and bound for one instance from a vertex y of value `best`: the two bounds, (1,), and the vertex."""
    assert instance.lower is not None
    assert instance.upper is not None
    box = instance.lower.flatten(1), instance.upper.flatten(1)
    faces = _bounded(instance, *box)
    enough = best
    for _ in range(ROUNDS):
        best, y = _better(best, y, energy(faces.vertex[:, None]).detach(), faces.vertex[:, None])
        best, y = max(((best, y), _climb(energy, y, *box)), key=lambda pair: float(pair[0]))
        enough = best + 0.5 * tol * (1 + best.abs())
        faces = faces.at(~(faces.above <= enough))
        if not len(faces.above):
            return best, enough, y
        order, front = faces.above.argsort(descending=True), max(1, min(FRONT, POINTS // y.shape[1]))
        faces = faces.at(order[front:]).joined(_halves(instance, faces.at(order[:front])))
    return best, torch.maximum(enough, faces.above.max()), y


def _halves(instance: Boxed, faces: Faces) -> Faces:
    """Both ends of each face along its most influential variable."""
    cut = torch.nn.functional.one_hot(faces.influence.argmax(1), faces.lower.shape[1]).bool()
    ends = (
        (faces.lower, torch.where(cut, faces.lower, faces.upper)),
        (torch.where(cut, faces.upper, faces.lower), faces.upper),
    )
    found = [_bounded(instance, *end) for end in ends]
    first, second = (one._replace(above=torch.minimum(one.above, faces.above)) for one in found)
    return first.joined(second)


def _bounded(instance: Boxed, lower: Tensor, upper: Tensor) -> Faces:
    """The affine function above f on faces of the box of one instance, (k, n)."""
    here = instance.at(torch.zeros(len(lower), dtype=torch.long, device=lower.device))
    energy, (low, high) = here.energy, (end.unflatten(1, instance.y_shape) for end in (lower, upper))
    assert isinstance(energy, LayeredEnergy)
    found, centre, reach = ranges(energy, low, high, low), (low + high) / 2, (high - low) / 2
    value, slope, _ = replaced(replace(energy, curvature=None), centre, [chords(one) for one in found])
    intervals = highest(energy, found, low, high)
    if energy.curvature is not None:
        tangent = energy.curvature.slope(centre)
        quadratic = energy.curvature(centre) + magnitude(energy.curvature)(reach)
        value, slope = value + quadratic, slope + tangent
        intervals = intervals + quadratic + (tangent.abs() * reach).flatten(1).sum(1)
    above = torch.minimum(value + (slope.abs() * reach).flatten(1).sum(1), intervals)
    influence = (slope.abs() + torch.finfo(slope.dtype).tiny) * reach
    return Faces(lower, upper, above, torch.where(slope > 0, high, low).flatten(1), influence.flatten(1))
