"""Pairs of distributions whose optimal transport is known: the gradient of a convex function (Brenier 1991)."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Generator, Tensor

COMPONENTS, SPREAD, WIDTH = 5, 1.5, 0.5  # of the mixture: number, standard deviation of the means, and within
STEEPNESS, TEMPERATURE = 2.0, 2.0  # of the planes; the temperature, times √d

Sampler = Callable[[int, Generator], Tensor]  # n points, (n, d)


@dataclass(frozen=True)
class Pair:
    """P and Q, and the map T that transports P to Q at least cost E |x − T(x)|²; all of (n, d)."""

    source: Sampler
    target: Sampler
    transport: Callable[[Tensor], Tensor]


def gaussians(d: int, seed: int) -> Pair:
    """N(m, S) to N(m', S'), the eigenvalues of S and S' between 1/4 and 4."""
    draw = Generator().manual_seed(seed)
    (mean, root), (mean_to, root_to) = (_gaussian(d, draw) for _ in range(2))
    back = torch.linalg.inv(root)
    A = back @ _square_root(root @ root_to @ root_to @ root) @ back
    return Pair(
        lambda n, generator: mean + torch.randn(n, d, generator=generator) @ root,
        lambda n, generator: mean_to + torch.randn(n, d, generator=generator) @ root_to,
        lambda x: mean_to + (x - mean) @ A,
    )


def _gaussian(d: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Mean and symmetric square root of the covariance."""
    basis = torch.linalg.qr(torch.randn(d, d, generator=draw)).Q
    deviations = 2 ** (2 * torch.rand(d, generator=draw) - 1)
    return torch.randn(d, generator=draw), (basis * deviations) @ basis.mT


def _square_root(M: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(M)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.mT


def mixture(d: int, seed: int) -> Pair:
    """A mixture of Gaussians P, and Q = ∇ψ#P for ψ(x) = τ log Σᵢ exp((aᵢᵀx + bᵢ) / τ) over max(8, 2d) planes."""
    draw = Generator().manual_seed(seed)
    means = SPREAD * torch.randn(COMPONENTS, d, generator=draw)
    planes, tau = max(8, 2 * d), TEMPERATURE * sqrt(d)
    a, b = STEEPNESS * torch.randn(planes, d, generator=draw), torch.randn(planes, generator=draw)

    def source(n: int, generator: Generator) -> Tensor:
        component = torch.randint(COMPONENTS, (n,), generator=generator)
        return means[component] + WIDTH * torch.randn(n, d, generator=generator)

    def transport(x: Tensor) -> Tensor:
        return torch.softmax((x @ a.mT + b) / tau, -1) @ a

    return Pair(source, lambda n, generator: transport(source(n, generator)), transport)


def unexplained(found: Tensor, true: Tensor) -> float:
    """100 E |found − T(x)|² / Var Q, percent: the L2 unexplained variance of a map (Korotin et al. 2021)."""
    return float(100 * (found - true).square().sum(-1).mean() / true.var(0).sum())


def best_linear(x: Tensor, true: Tensor) -> Tensor:
    """The affine map that is closest to T itself, which it is shown, at x."""
    with_one = torch.cat((x, torch.ones_like(x[:, :1])), 1).double()
    return (with_one @ torch.linalg.lstsq(with_one, true.double()).solution).to(x.dtype)


def moment_map(x: Tensor, sample: Tensor, target_sample: Tensor) -> Tensor:
    """The optimal transport between Gaussians with the moments of two samples, at x."""
    mean, mean_to = sample.mean(0), target_sample.mean(0)
    root = _square_root(torch.cov(sample.mT))
    back = torch.linalg.inv(root)
    A = back @ _square_root(root @ torch.cov(target_sample.mT) @ root) @ back
    return mean_to + (x - mean) @ A
