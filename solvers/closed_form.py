"""Separable quadratic programs on a box, with at most one equality: solved and differentiated without a matrix.

    minimise sum_j q_j x_j^2 / 2 + p_j x_j   subject to   lower <= x <= upper,   a'x = b (nu),      q > 0

For a given nu every x_j stands alone, x(nu) = clip(-(p + nu a)/q, lower, upper), and a'x(nu) - b falls with nu,
piecewise linearly: Newton's method inside a bracket ends at the exact root. Projections onto a box, the simplex and
the capped simplex are of this form.

Source: Cominetti, Mascarenhas, Silva (2014), A Newton's method for the continuous quadratic knapsack problem.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .certificate import residuals
from .kernels import kernels_for
from .linalg import dot, largest
from .program import Bounds, Program, Quadratic, is_diagonal

WEAK = 1e-9  # slack or multiplier, in the units of its variable, that counts as zero
MAX_ITER = 100


class Separable(NamedTuple):
    """The data, each (batch, n); infinite bounds where there are none; b (batch,)."""

    q: Tensor
    p: Tensor
    a: Tensor
    b: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, program: Program, bounds: Bounds) -> "Separable":
        q, p, A, b, _, d = program
        n, free = p.shape[-1], torch.full_like(p, torch.inf)
        lower = -d[:, :n] if bounds.lower else -free
        upper = d[:, n * bounds.lower :] if bounds.upper else free
        if not A.shape[-2]:
            return cls(q, p, torch.zeros_like(p), p.new_zeros(len(p)), lower, upper)
        return cls(q, p, A[:, 0], b[:, 0], lower, upper)

    def x(self, nu: Tensor) -> Tensor:
        return (-(self.p + nu.unsqueeze(-1) * self.a) / self.q).clamp(self.lower, self.upper)


def is_separable(Q: Tensor, p: Tensor, A: Tensor, G: Tensor) -> bool:
    """Whether a program with these data has this form."""
    return is_diagonal(Q, p) and not G.shape[-2] and A.shape[-2] <= 1


def solve_separable(program: Program, bounds: Bounds) -> dict[str, Tensor]:
    """x, nu, lam, w, iterations, degenerate, the residuals of its certificate and whether it is `done`."""
    if kernels := kernels_for(program.p):
        return kernels.solve_separable(program, bounds)
    data = Separable.of(program, bounds)
    q, p, a, _, lower, upper = data
    nu, iterations = _multiplier(data) if program.A.shape[-2] else (torch.zeros_like(data.b), torch.ones_like(data.b))
    x = data.x(nu)
    slope = q * x + p + nu.unsqueeze(-1) * a
    lam_lower = slope.clamp_min(0.0) * (x <= lower)
    lam_upper = (-slope).clamp_min(0.0) * (x >= upper)
    column = q.rsqrt()
    cost = largest(p * column)
    reach = WEAK * (largest(x / column) + WEAK * cost).unsqueeze(-1) * column
    force = WEAK * (cost + largest(slope * column)).unsqueeze(-1) / column
    near_lower, near_upper = x - lower <= reach, upper - x <= reach
    free = lower < upper
    weak = (near_lower & (lam_lower <= force) | near_upper & (lam_upper <= force)) & free
    held_lower = torch.where(free, near_lower, lam_upper == 0)
    held_upper = torch.where(free, near_upper, lam_upper > 0)
    held = torch.cat([held_lower] * bounds.lower + [held_upper] * bounds.upper + [held_lower[:, :0]], -1)
    nu = nu.unsqueeze(-1)[:, : program.A.shape[-2]]
    lam = torch.cat([lam_lower] * bounds.lower + [lam_upper] * bounds.upper + [lam_lower[:, :0]], -1)
    return {
        "x": x,
        "nu": nu,
        "lam": lam,
        "residuals": torch.stack(residuals(Quadratic(), program, bounds, x, nu, lam), -1),
        "w": torch.full_like(held, torch.inf, dtype=x.dtype).masked_fill(held, 0.0),
        "iterations": iterations.long(),
        "done": ((q > 0) & (lower <= upper)).all(-1),
        "degenerate": weak.any(-1),
    }


def _multiplier(data: Separable) -> tuple[Tensor, Tensor]:
    """(nu, iterations) with a'x(nu) = b, (batch,)."""
    q, p, a, b, lower, upper = data
    weight = a * a / q
    turns = torch.cat(
        [
            (-(p + q * bound) / a).where(torch.isfinite(bound) & (a != 0), p.new_tensor(torch.nan))
            for bound in (lower, upper)
        ],
        -1,
    )
    low, high = turns.nan_to_num(torch.inf).amin(-1), turns.nan_to_num(-torch.inf).amax(-1)
    nu = -(b + dot(a / q, p)) / weight.sum(-1)
    iterations, below, above = torch.zeros_like(nu), torch.full_like(nu, -torch.inf), torch.full_like(nu, torch.inf)
    for _ in range(MAX_ITER):
        x = data.x(nu)
        excess = dot(a, x) - b
        slope = (weight * ((x > lower) & (x < upper))).sum(-1)
        below, above = torch.where(excess > 0, nu, below), torch.where(excess < 0, nu, above)
        middle = 0.5 * (below.maximum(low) + above.minimum(high))
        step = nu + excess / slope
        new = torch.where((step >= below) & (step <= above) & torch.isfinite(step), step, middle)
        new = torch.where(excess == 0, nu, new)
        moved = (new - nu).abs() > 1e-15 * nu.abs()
        nu = torch.where(moved, new, nu)
        iterations = iterations + moved
        if not moved.any():
            break
    return nu, iterations


def solve_separable_kkt(program: Program, bounds: Bounds, w: Tensor) -> tuple[Tensor, Tensor]:
    """(c, relative residual): the KKT system with the rows w = 0 as equalities; program as in `AdjointRule`."""
    if kernels := kernels_for(program.p):
        return kernels.solve_separable_kkt(program, bounds, w)
    q, g, A, r_A, _, r_J = program
    n, zero = g.shape[-1], torch.zeros_like(g)
    signs = [-1.0] * bounds.lower + [1.0] * bounds.upper
    parts = (w == 0).split([n] * len(signs), -1), r_J.split([n] * len(signs), -1)
    held = torch.stack(parts[0]).any(0) if signs else torch.zeros_like(g, dtype=torch.bool)
    fixed = sum((sign * r * on for sign, on, r in zip(signs, *parts, strict=True)), start=zero)
    a = A[:, 0] if A.shape[-2] else zero
    target = r_A[:, 0] if A.shape[-2] else torch.zeros_like(g[:, 0])
    weight = torch.where(held, zero, a / q)
    slope = dot(weight, a)
    c_nu = (dot(a, torch.where(held, fixed, zero)) - dot(weight, g) - target) / slope if A.shape[-2] else target
    left = -g - c_nu.unsqueeze(-1) * a
    c_x = torch.where(held, fixed, left / q)
    force = torch.where(held, left - q * c_x, zero)
    c_J = [sign * force * on for sign, on in zip(signs, parts[0], strict=True)]
    both = torch.stack(parts[0]).all(0).any(-1) if len(signs) == 2 else torch.zeros_like(target, dtype=torch.bool)
    c = torch.cat([c_x, c_nu.unsqueeze(-1)[:, : A.shape[-2]], *c_J], -1)
    sound = torch.isfinite(c).all(-1) & ~both
    return c.nan_to_num(0.0, 0.0, 0.0), torch.zeros_like(target).masked_fill(~sound, torch.inf)
