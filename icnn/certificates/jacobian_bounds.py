"""Bounds of λ_max(Q + Σ_i J_i' diag(c_i) J_i), given the c_i ≥ 0 and ranges of the slopes of all units.

The Jacobians J_{i+1} = P_{i+1} D_i J_i + S_{i+1}, D_i = diag g'(v_i), are bounded entry by entry: they do not decrease
in D_i J_i, since P ≥ 0. With J_i within C_i ± R_i and |J_i| its largest absolute entries, the triangle inequality for
the stacked matrices √c_i J_i, and norms of non-negative matrices, which grow with their entries, give

    λ_max ≤ min( (√λ_max(Q + Σ C_i'c_i C_i) + √λ_max(Σ R_i'c_i R_i))²,  λ_max(|Q| + Σ |J_i|'c_i |J_i|) ).

Where there are too many variables for these matrices, the last one, M ≥ 0, is only applied to vectors:

    λ_max(M) ≤ max_j (Mp)_j / p_j   for every p > 0   (Collatz, Wielandt).

Power steps improve p, and none can spoil the bound, as it would a power iteration that estimates λ_max from below.
"""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from icnn.networks.energy import Curvature, LayeredEnergy, Step

from .ranges import Range, joined, linear_part, pull

STEPS = 20  # of the power method
POSITIVE = 1e-3  # the smallest entry of p, relative to its largest

Bounds = tuple[Tensor, Tensor, Tensor]


def by_matrices(energy: LayeredEnergy, found: list[Range], weights: list[Tensor], like: Tensor) -> Bounds:
    """Bounds of the slope of f without its quadratic term, (m, *y_shape) each, and L of f with it, (m,).

    weights: c_i, one for each range.
    """
    n, m = like[0].numel(), len(like)
    axes = torch.eye(n).to(like).reshape(n, 1, *like.shape[1:])
    Q = matrix(energy.curvature, like).repeat(m, 1, 1)
    grams = [Q, torch.zeros_like(Q), Q.abs()]
    low, high = None, None
    for number, step in enumerate(map(linear_part, energy.steps)):
        J_low, J_high = _finite(step(low, axes), -inf), _finite(step(high, axes), inf)
        if number == len(found):  # the last step, without an activation
            low, high = J_low, J_high
            break
        parts = (J_low + J_high) / 2, (J_high - J_low) / 2, torch.maximum(J_low.abs(), J_high.abs())
        grams = [gram + _gram(J, weights[number], m) for gram, J in zip(grams, parts, strict=True)]
        support = found[number].support
        low = joined(energy, number, low, -support(-J_low))
        high = joined(energy, number, high, support(J_high))
    assert low is not None
    assert high is not None
    low, high = (J.expand(n, m, 1).squeeze(-1).mT.reshape(like.shape) for J in (low, high))
    centre, reach, largest = map(_largest_eigenvalue, grams)
    return low, high, torch.minimum((centre.sqrt() + reach.sqrt()).square(), largest)


def _gram(J: Tensor, weight: Tensor, m: int) -> Tensor:
    """J'cJ, (m, n, n), for J (n, m or 1, *v_shape); nothing from a row of zeros, even with infinite weight."""
    rows = J * weight.sqrt()
    rows = rows.masked_fill(J == 0, 0.0).flatten(2).expand(-1, m, -1)
    return torch.einsum("imu,jmu->mij", rows, rows)


def _finite(J: Tensor, end: float) -> Tensor:
    return J.nan_to_num(nan=end, posinf=inf, neginf=-inf)


def _largest_eigenvalue(gram: Tensor) -> Tensor:
    """Of each matrix, with room for rounding; infinite where the matrix is not finite."""
    bad = ~gram.isfinite().flatten(1).all(1)
    values = torch.linalg.eigvalsh(gram.masked_fill(bad[:, None, None], 0.0))[:, -1].clamp_min(0.0)
    return (values * (1 + rounding(gram.shape[-1]))).masked_fill(bad, inf)


def rounding(n: int) -> float:
    """The error of eigenvalues of n × n matrices in float64, relative to the largest."""
    return 16 * n * torch.finfo(torch.float64).eps


def by_vectors(energy: LayeredEnergy, found: list[Range], weights: list[Tensor], like: Tensor) -> Bounds:
    """As by_matrices, by products with non-negative vectors alone."""
    steps = [linear_part(step, absolute=True) for step in energy.steps]
    one = like.flatten(1)[:, :1].new_ones(len(like), 1)
    v_bar = one if energy.output is None else pull(found[-1], one)
    slope = _backward(energy, steps, found, [None] * (len(steps) - 1) + [v_bar], like)
    p, smoothness = torch.ones_like(like), like.new_full((len(like),), inf)
    for _ in range(STEPS):
        image = _product(energy, steps, found, weights, p)
        smoothness = torch.minimum(smoothness, _finite(image / p, inf).flatten(1).amax(1))
        size = image.flatten(1).amax(1).reshape(-1, *(1 for _ in like.shape[1:]))
        p = torch.where(size.isfinite() & (size > 0), image / size, 1.0).clamp_min(POSITIVE)
    return -slope, slope, smoothness


def _product(
    energy: LayeredEnergy, steps: Sequence[Step], found: list[Range], weights: list[Tensor], p: Tensor
) -> Tensor:
    """At least M p."""
    z, sources = None, []
    for number, (step, one, weight) in enumerate(zip(steps, found, weights, strict=False)):
        t = step(z, p)
        sources.append((weight * t).masked_fill(t == 0, 0.0))
        z = joined(energy, number, z, one.support(t))
    sources += [None] * (len(steps) - len(found))
    image = _backward(energy, steps, found, sources, p)
    return image if energy.curvature is None else image + magnitude(energy.curvature).slope(p)


def _backward(
    energy: LayeredEnergy, steps: Sequence[Step], found: list[Range], sources: Sequence[Tensor | None], like: Tensor
) -> Tensor:
    """At least Σ_i |J_i|' r_i, r_i = sources[i] ≥ 0 or nothing."""
    z_bar, total = None, torch.zeros_like(like)
    for number in reversed(range(len(steps))):
        v_bar = sources[number]
        if z_bar is not None:
            scale = 1.0 if energy.residual is None or number == 0 else energy.residual
            steep = scale * pull(found[number], z_bar)
            v_bar = steep if v_bar is None else v_bar + steep
        if v_bar is not None:
            back, y_bar = steps[number].transpose(_finite(v_bar, inf))
            z_bar = back if energy.residual is None or z_bar is None or back is None else z_bar + back
            total = total if y_bar is None else total + _finite(y_bar, inf)
    return total


def matrix(curvature: Curvature | None, like: Tensor) -> Tensor:
    """Q, (1, n, n); zero without a quadratic term."""
    n = like[0].numel()
    if curvature is None:
        return like.new_zeros(1, n, n)
    Q = torch.diag(curvature.diagonal.expand(like.shape[1:]).flatten())
    if curvature.factor is not None:
        rows = curvature.factor(torch.eye(n).to(like).reshape(n, *like.shape[1:]))
        Q = Q + rows @ rows.mT
    return Q.unsqueeze(0)


def magnitude(curvature: Curvature) -> Curvature:
    """That of |L|; its slope at p ≥ 0 is at least |Q| p."""
    factor = curvature.factor
    return curvature if factor is None else curvature._replace(factor=factor._replace(weight=factor.weight.abs()))
