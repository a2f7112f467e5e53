"""Integrators are symplectic and of their order, gradients are right, and a short run leaves its files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad

from experiments._energies import Kind, Nets, ResidualEnergy, learn, sampled, scores, side_by_side
from experiments._hamiltonians import (
    INTEGRATORS,
    System,
    gradient,
    henon_heiles,
    kepler,
    kinetic,
    pendulum,
    solved,
)
from experiments.hamiltonian import main, systems

NETS = Nets(width=5, steps=3, convex=(5, 4))
every = pytest.mark.parametrize("system", systems().values(), ids=systems())
each_kind = pytest.mark.parametrize("kind", ["residual", "convex", "free"])
each_integrator = pytest.mark.parametrize("name", INTEGRATORS)


def points(count: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wavy(y: Tensor) -> Tensor:
    """A function whose gradient mixes the coordinates."""
    return (y.prod(-1) + y.sin().sum(-1)).cosh()


@each_integrator
def test_an_integrator_is_symplectic(name: str) -> None:
    gradients = (grad(lambda p: wavy(p)), grad(lambda q: 2 * wavy(q)))
    zero, one = torch.zeros(2, 2), torch.eye(2)
    J = torch.cat((torch.cat((zero, one), 1), torch.cat((-one, zero), 1))).double()
    for state in points(3, 4).unflatten(-1, (2, 2)) / 2:
        jacobian = torch.autograd.functional.jacobian(lambda z: INTEGRATORS[name](gradients, z, 0.1, 3), state)
        D = torch.as_tensor(jacobian).reshape(4, 4)
        torch.testing.assert_close(D.mT @ J @ D, J, rtol=0, atol=1e-12)
        assert (D - torch.eye(4)).abs().max() > 0.1


@pytest.mark.parametrize(("name", "order"), [("Störmer–Verlet", 2), ("symplectic Euler", 1)])
def test_an_integrator_has_its_order(name: str, order: int) -> None:
    start = points(4, 3).unflatten(0, (2, 2)).movedim(1, -2)  # (2, 2, 3): two states of the harmonic oscillator
    c, s = math.cos(1.0), math.sin(1.0)
    turned = torch.tensor([[c, s], [-s, c]], dtype=torch.float64) @ start
    errors = [
        (INTEGRATORS[name]((lambda p: p, lambda q: q), start, 1 / steps, steps) - turned).norm().item()
        for steps in (50, 100)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.03)


@each_integrator
def test_many_steps_at_once_are_single_steps(name: str) -> None:
    gradients, step = (grad(wavy), grad(wavy)), INTEGRATORS[name]
    state = points(2, 2)
    again = state
    for _ in range(5):
        again = step(gradients, again, 0.05)
    torch.testing.assert_close(step(gradients, state, 0.05, 5), again, rtol=1e-13, atol=1e-13)


@every
def test_a_system_lives_where_it_is_sampled(system: System) -> None:
    torch.testing.assert_close(
        system.hamiltonian(system.starts), torch.full((len(system.starts),), system.energy).double()
    )
    times = np.linspace(0, 3 * system.period, 200)
    orbit = solved((lambda p: p, lambda q: gradient(system.potential, q)), system.starts, times, rtol=1e-8)
    torch.testing.assert_close(
        system.hamiltonian(orbit), system.hamiltonian(orbit[0]).expand(200, -1), rtol=1e-5, atol=0
    )
    generator = torch.Generator().manual_seed(0)
    positions, momenta = system.positions(2000, generator), system.momenta(2000, generator)
    assert positions.shape == momenta.shape == (2000, system.d)
    for sample, passed in zip((positions, momenta), orbit.unbind(-2), strict=True):
        nearest = torch.cdist(passed.flatten(0, 1), sample).amin(-1)
        assert nearest.max() < 0.15 * passed.abs().max()


@every
def test_convexity_is_what_it_is_said_to_be(system: System) -> None:
    q = system.positions(500, torch.Generator().manual_seed(1))
    hessians = torch.vmap(torch.func.jacrev(grad(lambda point: system.potential(point[None])[0])))(q)
    assert bool(torch.linalg.eigvalsh(hessians).min() >= 0) == system.convex


def test_periods_are_those_of_the_orbits() -> None:
    for system in (pendulum(1.4, "small"), pendulum(2.5, "large"), kepler(0.3)):
        truth = (lambda p: p), lambda q: gradient(system.potential, q)  # noqa: B023
        end = solved(truth, system.starts, np.array([0.0, system.period]), rtol=1e-10)[1]
        torch.testing.assert_close(end, system.starts, rtol=0, atol=1e-7)


def test_known_gradients() -> None:
    q = points(6, 2)
    x, y = q.unbind(-1)
    torch.testing.assert_close(gradient(kinetic, q), q)
    torch.testing.assert_close(gradient(kepler(0.3).potential, q), q / q.norm(dim=-1, keepdim=True) ** 3)
    true = torch.stack((x + 2 * x * y, y + x**2 - y**2), -1)
    torch.testing.assert_close(gradient(henon_heiles(0.08).potential, q), true)


@pytest.mark.parametrize("eta", [None, "softplus"])
def test_the_sweep_back_is_the_gradient_by_differences(eta) -> None:
    net, y, e = ResidualEnergy(3, 5, 4, eta).double(), points(4, 3), 1e-5
    steps = e * torch.eye(3, dtype=torch.float64)[:, None]
    differences = ((net(y + steps) - net(y - steps)) / (2 * e)).mT.detach()
    torch.testing.assert_close(gradient(net, y), differences, rtol=0, atol=1e-9)


@each_kind
def test_networks_side_by_side_have_their_own_gradients(kind: Kind) -> None:
    samples = [sampled(wavy, points(20, 2, seed) + seed) for seed in range(3)]
    nets = [NETS.build(kind, of, seed) for seed, of in enumerate(samples)]
    y = points(7, 6)
    alone = [gradient(net, part) for net, part in zip(nets, y.split(2, -1), strict=True)]
    torch.testing.assert_close(side_by_side(nets, 2)(y), torch.cat(alone, -1), rtol=1e-11, atol=1e-11)
    assert not side_by_side(nets, 2)(y).requires_grad


@each_kind
@pytest.mark.parametrize("given", ["values", "derivatives", "both"])
def test_a_network_learns_a_parabola(kind: Kind, given) -> None:
    samples, test = (sampled(kinetic, points(40, 1, seed).tanh()) for seed in range(2))
    net = NETS.build(kind, samples, seed=0)
    before = scores(net, test)
    assert scores(kinetic, test) == {"value": 0.0, "gradient": 0.0}
    left = learn(net, samples, given, ridge=1e-10, evaluations=20)
    after = scores(net, test)
    assert 0 < left < 1e-2
    assert all(after[measure] < 0.1 < before[measure] for measure in after)


def test_a_convex_network_stays_convex_where_the_truth_is_not() -> None:
    samples = sampled(lambda y: (1 - y.cos()).sum(-1), points(60, 1) * 3)
    net = NETS.build("convex", samples, seed=0)
    learn(net, samples, "derivatives", ridge=1e-10, evaluations=20)
    slopes = gradient(net, torch.linspace(-6, 6, 200, dtype=torch.float64)[:, None])
    assert slopes.diff(dim=0).min() > -1e-12


def test_a_short_run_leaves_its_files_and_continues(tmp_path: Path) -> None:
    small = ["--quick", "--out", str(tmp_path)]
    assert main(small) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert list(record) == ["name", "config", "seed", "versions", "data", "metrics", "seconds"]
    (flows,) = (found["flows"] for found in record["metrics"]["systems"].values())
    for name, flow in flows.items():
        assert max(flow["drift"]["Störmer–Verlet"]) < 1e-3, name
        assert max(flow["drift"]["symplectic Euler"]) > 1e-3, name
    pictures = ("functions", "samples", "energy", "distance", "orbits")
    assert all((tmp_path / f"{picture}.png").exists() for picture in pictures)
    (tmp_path / "record.json").unlink()
    assert main(small) == 0
    assert json.loads((tmp_path / "record.json").read_text())["metrics"] == record["metrics"]
    assert main([*small, "--ridge", "1"]) == 1, "another run does not take this folder"
