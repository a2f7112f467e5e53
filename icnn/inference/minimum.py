"""The minimum of a network over a box: by a linear or quadratic program where it is one, by tangents otherwise."""

import torch

from icnn.certificates.boxes import Boxed
from icnn.certificates.constants import strong_convexity
from icnn.certificates.ranges import activations, replaced
from icnn.networks.energy import LayeredEnergy
from icnn.solvers import solve

from .exact import epigraph_program, has_lines
from .flat import flat_energy
from .tangents import Bracket, by_tangents, lowest

SMALL = 200  # variables and units, up to which the programs of a batch are dense and solved together
ENTRIES = 2**24  # of the matrices that are made at a time


def minimum(instances: Boxed, tol: float, max_iter: int) -> Bracket:
    """Of m instances, each until its gap is at most tol (1 + |f(y)|); max_iter: of the level method."""
    assert instances.lower is not None
    assert instances.upper is not None
    lower, upper = instances.lower.flatten(1), instances.upper.flatten(1)
    energy = flat_energy(instances.energy, lower.shape[:1], instances.y_shape, lower)
    y = (lower + upper) / 2
    found = Bracket(torch.full_like(y[:, 0], -torch.inf), energy(y).detach(), y)
    for sparse, count in _attempts(instances):
        for index in found.open(tol).split(count):
            if len(index):
                found = found.better(index, _by_program(instances.at(index), sparse))
    index = found.open(tol)
    if len(index):
        at, box = (energy.at(index), found.y[index]), (lower[index], upper[index])
        found = found.better(index, by_tangents(*at, *box, _strong(instances), tol, max_iter))
    return Bracket(torch.minimum(found.lower, found.upper), found.upper, found.y)


def _strong(instances: Boxed) -> float:
    """m of the quadratic term."""
    if not isinstance(instances.energy, LayeredEnergy) or instances.lower is None:
        return 0.0
    return strong_convexity(instances.energy.curvature, instances.lower)


def _attempts(instances: Boxed) -> list[tuple[bool, int]]:
    """The programs to try, dense or sparse, and how many instances at a time; none where f is no program.

    What one solver does not bring to the tolerance another may.
    """
    energy, like = instances.energy, instances.lower
    assert like is not None
    if not isinstance(energy, LayeredEnergy) or not has_lines(energy) or not len(like):
        return []
    pieces = energy.activation.pieces
    size = like[0].numel() + sum(slope[0].numel() // pieces for _, slope in energy.layers(like[:1]))
    rows = size * max(len(activation.lines or ()) for activation in activations(energy)) if activations(energy) else 1
    dense, sparse = (False, max(1, ENTRIES // (size * rows))), (True, 1)
    return [dense, sparse] if size <= SMALL else [sparse, dense] if size * rows <= ENTRIES else [sparse]


def _by_program(instances: Boxed, sparse: bool) -> Bracket:
    """The value at the solution, and the bound of the average lines of its multipliers; nothing where it failed."""
    energy, lower, upper = instances.energy, instances.lower, instances.upper
    assert isinstance(energy, LayeredEnergy)
    assert lower is not None
    assert upper is not None
    epigraph, box = epigraph_program(energy, lower, upper, sparse), (lower.flatten(1), upper.flatten(1))
    try:
        solution = solve(epigraph.program, on_failure="zero")
    except ImportError:  # no native solver for sparse programs
        nothing = torch.full_like(box[0][:, 0], torch.inf)
        return Bracket(-nothing, nothing, box[0])
    y = solution.x[:, : lower[0].numel()].reshape(lower.shape).nan_to_num().clamp(lower, upper)
    value, slope, _ = replaced(energy, y, epigraph.lines(solution))
    flat = slope.flatten(1)
    offset = value - (flat * y.flatten(1)).sum(-1)
    return Bracket(lowest(offset, flat, *box), energy(y), y.flatten(1))
