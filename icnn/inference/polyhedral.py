"""Exact inference in piecewise linear networks, also with a quadratic term: one linear or quadratic program each."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from icnn.networks.energy import LayeredEnergy
from icnn.solvers import QP, Status

from .exact import Epigraph, epigraph_program
from .flat import FlatEnergy
from .outcome import Outcome
from .regions import Objective, Polyhedron
from .regularized import Euclidean

Lines = list[tuple[Tensor, Tensor]]
ENTRIES = 2**24  # of the matrices of the programs that are solved together


def by_epigraph(
    energy: FlatEnergy, layered: LayeredEnergy, linear: Tensor, over: Euclidean, y_shape: torch.Size, tol: float
) -> Outcome:
    """The minimisers of f(y) + linear'y + phi(y), differentiable in all of them and in the set.

    energy: f + linear, as a function of y. layered: the layers of f, in float64, with lines (`has_lines`). The bound
    from below is the value of the program: where it is f(y) + phi(y), the epigraph is tight.
    """
    units = sum(slope[0].numel() for _, slope in layered.layers(torch.zeros(1, *y_shape).to(linear)))
    count = max(1, ENTRIES // (linear.shape[-1] + units) ** 2)
    parts = [
        _solved(layered.at(index), linear[index], over.at(index), y_shape)
        for index in torch.arange(len(linear), device=linear.device).split(count)
    ]
    y, lower, status = (torch.cat(part) for part in zip(*(part[:3] for part in parts), strict=True))
    layers = zip(*(part[3] for part in parts), strict=True)
    lines = [(torch.cat([slope for slope, _ in layer]), torch.cat([offset for _, offset in layer])) for layer in layers]
    with torch.no_grad():
        upper = energy(y) + over.value(y)
        lower = torch.where(status == Status.OPTIMAL, lower, -torch.inf)
        loose = (status == Status.OPTIMAL) & ~(upper - lower <= tol * (1 + upper.abs()))
        status = status.masked_fill(loose, int(Status.NUMERICAL))
        status = status.masked_fill(~upper.isfinite() & (status == Status.NUMERICAL), int(Status.NONFINITE_INPUT))
    ones = torch.ones_like(status)
    return Outcome(y, upper, lower.detach(), status, ones, ones, lines=lines)


def _solved(
    layered: LayeredEnergy, linear: Tensor, over: Euclidean, y_shape: torch.Size
) -> tuple[Tensor, Tensor, Tensor, Lines]:
    """y, the value of the program, its status, and the lines that support f there."""
    free = torch.full((len(linear), *y_shape), torch.inf).to(linear)
    epigraph, n = epigraph_program(layered, -free, free), linear.shape[-1]
    objective = _objective(epigraph, linear, over)
    found = over.region.minimise(objective)
    y, Q = found.x[:, :n], objective.Q
    image = Q * found.x if Q.dim() == 2 else (Q @ found.x.unsqueeze(-1)).squeeze(-1)
    value = torch.linalg.vecdot(0.5 * image + objective.p, found.x) + epigraph.constant
    value = value + 0.5 * over.weight * over.centre.square().sum(-1)
    if isinstance(over.region, Polyhedron):  # bounds are held to the last digit
        y = y + (y.clamp(over.region.lower, over.region.upper) - y).detach()
    with torch.no_grad():
        return y, value, found.status, epigraph.lines(found)


def _objective(epigraph: Epigraph, linear: Tensor, over: Euclidean) -> Objective:
    """The program with what phi and the linear term add to it."""
    program = epigraph.program
    assert isinstance(program, QP)
    assert isinstance(program.lower, Tensor)
    extra = program.p.shape[-1] - linear.shape[-1]
    Q, p = program.Q, program.p + pad(linear - over.weight * over.centre, (0, extra))
    weight = pad(torch.full_like(linear, over.weight), (0, extra))
    Q = Q + weight if Q.dim() == 1 else Q + torch.diag_embed(weight[:1])
    return Objective(Q, p, program.G, program.h, program.lower, None)
