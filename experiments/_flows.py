"""Where a Hamiltonian leads: its orbits over many periods, the energies along them, how far from true ones they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments._hamiltonians import INTEGRATORS, Function, Gradients, System, gradient, solved

RECORDS, DRAWN = 40, 5  # states kept in a period; periods drawn of an orbit
MARKS = (1, 10, 100)  # periods after which orbits are compared


def times(system: System, periods: int) -> np.ndarray:
    return np.linspace(0, periods * system.period, periods * RECORDS + 1)


def truth(system: System) -> Gradients:
    return (lambda p: p), lambda q: gradient(system.potential, q)


def followed(
    system: System, gradients: Gradients, parts: Sequence[tuple[Function, Function]], reference: Tensor, periods: int
) -> dict[str, Any]:
    """Follow Hamiltonians side by side, one for each (T, V) of parts; gradients: ∇T and ∇V of all, (*, count * d).

    reference: the true orbits at `times`, (times, orbits, 2, d).
    Returns metrics by integrator and by mark, one number for each Hamiltonian; and of the first one the lines of
    energy and distance against the periods, and an orbit.
    """
    starts = system.starts.repeat(1, 1, len(parts))
    metrics: dict[str, Any] = {"drift": {}, "true energy": {}}
    lines: dict[str, Tensor] = {}
    for name in INTEGRATORS:
        states = _apart(_stepped(system, name, gradients, starts, periods), system.d)
        learned = torch.stack([_energy(of, state) for of, state in zip(parts, states, strict=True)])
        change, true_change = (_change(system, energy) for energy in (learned, system.hamiltonian(states)))
        metrics["drift"][name], metrics["true energy"][name] = (
            each.amax(-1).tolist() for each in (change, true_change)
        )
        lines[name] = _envelope(change[0])
    states = _apart(solved(gradients, starts, times(system, periods), rtol=1e-8), system.d)
    distance = (states - reference).flatten(-2).norm(dim=-1).amax(-1) / reference.flatten(-2).norm(dim=-1).max()
    worst = distance.cummax(-1).values
    metrics["distance"] = {f"{mark}": worst[:, mark * RECORDS].tolist() for mark in MARKS if mark <= periods}
    orbit = drawn(states[0])
    return {"metrics": metrics, "energy": lines, "distance": _envelope(distance[0]), "orbit": orbit}


def drawn(states: Tensor) -> Tensor:
    """The first periods of the first orbit: (q, p) in one dimension, q in two."""
    orbit = states[: DRAWN * RECORDS + 1, 0]
    return orbit[:, 0] if orbit.shape[-1] > 1 else orbit[..., 0]


def _stepped(system: System, integrator: str, gradients: Gradients, starts: Tensor, periods: int) -> Tensor:
    every, h = system.steps // RECORDS, system.period / system.steps
    states = [starts]
    for _ in range(periods * RECORDS):
        states.append(INTEGRATORS[integrator](gradients, states[-1], h, every))
    return torch.stack(states)


def _apart(states: Tensor, d: int) -> Tensor:
    """(times, orbits, 2, count * d) to (count, times, orbits, 2, d)."""
    return states.unflatten(-1, (-1, d)).movedim(-2, 0)


@torch.no_grad()
def _energy(parts: tuple[Function, Function], states: Tensor) -> Tensor:
    q, p = states.unbind(-2)
    return parts[0](p.flatten(0, 1)).reshape(p.shape[:-1]) + parts[1](q.flatten(0, 1)).reshape(q.shape[:-1])


def _change(system: System, energy: Tensor) -> Tensor:
    """Of energies (count, times, orbits), since the start and relative to the true energy, of the worst orbit."""
    return ((energy - energy[:, :1]) / system.energy).abs().amax(-1)


def _envelope(line: Tensor) -> Tensor:
    """The largest value of each period, but for the start."""
    return line[1:].unflatten(0, (-1, RECORDS)).amax(-1)
