"""Separable Hamiltonians H(q, p) = T(p) + V(q), T = ½|p|²: known ones, where their orbits live, how to step along them.

q̇ = ∇T(p), ṗ = -∇V(q). A state (*batch, 2, d) holds q and p.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipk
from torch import Generator, Tensor

Function = Callable[[Tensor], Tensor]
Gradients = tuple[Function, Function]  # ∇T and ∇V
ANGLES = (0.0, 1.0, 2.5)  # of the ellipses, in which a learned potential need not be symmetric


@dataclass(frozen=True)
class System:
    """A Hamiltonian, orbits of one energy, and samples of where they live.

    convex: whether V is convex there. starts: (orbits, 2, d). steps: of Störmer-Verlet in a period.
    positions, momenta: count and generator to (count, d).
    """

    name: str
    potential: Function
    convex: bool
    period: float
    steps: int
    starts: Tensor
    positions: Callable[[int, Generator], Tensor]
    momenta: Callable[[int, Generator], Tensor]

    @property
    def d(self) -> int:
        return self.starts.shape[-1]

    @property
    def energy(self) -> float:
        return self.hamiltonian(self.starts)[0].item()

    def hamiltonian(self, state: Tensor) -> Tensor:
        q, p = state.unbind(-2)
        return kinetic(p) + self.potential(q)


def kinetic(p: Tensor) -> Tensor:
    return p.square().sum(-1) / 2


def gradient(function: Function, y: Tensor) -> Tensor:
    """∇F(y) for a batch; of a network with detached weights by its sweep back alone."""
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def symplectic_euler(gradients: Gradients, state: Tensor, h: float, steps: int = 1) -> Tensor:
    """Steps p ← p - h ∇V(q), q ← q + h ∇T(p): symplectic, of order one."""
    (grad_T, grad_V), (q, p) = gradients, state.unbind(-2)
    for _ in range(steps):
        p = p - h * grad_V(q)
        q = q + h * grad_T(p)
    return torch.stack((q, p), -2)


def stormer_verlet(gradients: Gradients, state: Tensor, h: float, steps: int = 1) -> Tensor:
    """Steps p ← p - h/2 ∇V(q), q ← q + h ∇T(p), p ← p - h/2 ∇V(q): symplectic, symmetric, of order two.

    The last half of a step and the first of the next are one.
    """
    (grad_T, grad_V), (q, p) = gradients, state.unbind(-2)
    force = grad_V(q)
    p = p + h / 2 * force
    for _ in range(steps):
        p = p - h * force
        q = q + h * grad_T(p)
        force = grad_V(q)
    return torch.stack((q, p - h / 2 * force), -2)


def solved(gradients: Gradients, starts: Tensor, times: np.ndarray, rtol: float) -> Tensor:
    """The states at these times from starts (orbits, 2, d), (times, orbits, 2, d): by scipy, of order eight."""
    grad_T, grad_V = gradients

    def flow(_: float, flat: np.ndarray) -> np.ndarray:
        q, p = torch.as_tensor(flat).reshape(starts.shape).unbind(-2)
        return torch.stack((grad_T(p), -grad_V(q)), -2).flatten().numpy()

    found = solve_ivp(flow, (0.0, times[-1]), starts.flatten().numpy(), "DOP853", times, rtol=rtol, atol=1e-2 * rtol)
    return torch.as_tensor(found.y.T.copy()).reshape(-1, *starts.shape)


INTEGRATORS = {"Störmer–Verlet": stormer_verlet, "symplectic Euler": symplectic_euler}


def pendulum(swing: float, name: str) -> System:
    """V = 1 - cos q, up to this angle: convex up to π/2."""
    edge, fastest = min(1.05 * swing, math.pi), 1.05 * 2 * math.sin(swing / 2)
    return System(
        name,
        lambda q: (1 - q.cos()).sum(-1),
        convex=swing <= math.pi / 2,
        period=4 * float(ellipk(math.sin(swing / 2) ** 2)),
        steps=160,
        starts=torch.tensor([[[swing], [0.0]]], dtype=torch.float64),
        positions=lambda count, generator: edge * _cube(count, 1, generator),
        momenta=lambda count, generator: fastest * _cube(count, 1, generator),
    )


def kepler(eccentricity: float) -> System:
    """V = -1/|q|, nowhere convex; ellipses of half axis one, from where they are nearest to the centre."""
    near, far = 1 - eccentricity, 1 + eccentricity
    fastest = math.sqrt(far / near)
    turned = [(math.cos(angle), math.sin(angle)) for angle in ANGLES]
    starts = [[[near * c, near * s], [-fastest * s, fastest * c]] for c, s in turned]
    return System(
        "Kepler",
        lambda q: -1 / q.norm(dim=-1),
        convex=False,
        period=2 * math.pi,
        steps=320,
        starts=torch.tensor(starts, dtype=torch.float64),
        positions=lambda count, generator: ring(count, 0.92 * near, 1.08 * far, generator),
        momenta=lambda count, generator: ring(count, 0.0, 1.08 * fastest, generator),
    )


def henon_heiles(energy: float) -> System:
    """V = ½|q|² + x²y - y³/3; the period is that of small orbits.

    ∇²V has the determinant 1 - 4|q|², so V is convex up to |q| = ½, and up to the energy 1/12 an orbit stays there.
    """

    def potential(q: Tensor) -> Tensor:
        x, y = q.unbind(-1)
        return (x.square() + y.square()) / 2 + x.square() * y - y**3 / 3

    def positions(count: int, generator: Generator) -> Tensor:
        q = ring(8 * count, 0.0, 0.5, generator)
        return q[potential(q) <= 1.02 * energy][:count]

    places = torch.tensor([[0.0, -0.2], [0.0, 0.1], [0.0, 0.3]], dtype=torch.float64)
    speeds = (2 * (energy - potential(places))).sqrt()
    momenta = speeds[:, None] * torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)
    return System(
        "Hénon–Heiles",
        potential,
        convex=energy <= 1 / 12,
        period=2 * math.pi,
        steps=120,
        starts=torch.stack((places, momenta), 1),
        positions=positions,
        momenta=lambda count, generator: ring(count, 0.0, 1.02 * math.sqrt(2 * energy), generator),
    )


def ring(count: int, inner: float, outer: float, generator: Generator) -> Tensor:
    """Points of the plane, uniform between two circles."""
    square, angle = torch.rand(2, count, generator=generator, dtype=torch.float64)
    radius, angle = (inner**2 + (outer**2 - inner**2) * square).sqrt(), 2 * math.pi * angle
    return torch.stack((radius * angle.cos(), radius * angle.sin()), -1)


def _cube(count: int, d: int, generator: Generator) -> Tensor:
    return 2 * torch.rand(count, d, generator=generator, dtype=torch.float64) - 1
