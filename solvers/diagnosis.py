"""Why an instance has no solution: the same loop, run on a program that always has one.

Infeasible:  minimise |u|^2/2 + |v|^2/2  subject to  A x - u = b,  G x - v <= h  and the bounds. If the least
             violation is not zero, its multipliers are a Farkas certificate.
Unbounded:   minimise p'd + |d|^2/2  over the recession cone  Q d = 0, A d = 0, J d <= 0: the projection of -p.
             If it is not zero, it is a direction in which the objective falls without end.

Lengths are measured in the units of the columns, rows and cost. A certificate is accepted only if it rules
out every feasible point, or holds along the ray, up to `REACH` units.
"""

import torch
from torch import Tensor

from .active_set import optimise, split_fixed
from .interior_point import Iterate, Loop
from .kkt import PrimalKKT, Units
from .linalg import dot, largest, mv, tmv
from .program import Bounds, Program, Quadratic, is_diagonal, rows_mv, rows_tmv, symmetric_mv

REACH = 1e6
MAX_ITER = 100
TOL = 1e-9
ROUNDING = 1e-10  # of its terms: the least that the value of a certificate must be


def farkas_ray(program: Program, bounds: Bounds, units: Units) -> tuple[Tensor, Tensor, Tensor]:
    """(found, nu, lam): multipliers that prove the constraints contradictory, scaled to b'nu + d'lam = -1."""
    _, p, A, b, G, d = program
    q, m, n = A.shape[-2], G.shape[-2], p.shape[-1]
    violation = torch.eye(q + m, dtype=p.dtype, device=p.device).expand(len(p), -1, -1) * units.row[:, None, : q + m]
    rows = torch.cat((torch.cat((A, G), -2), -violation), -1)
    free = torch.full_like(p[:, :1], torch.inf).expand(-1, q + m)
    bound_parts = d[:, m:].split(n, -1) if sum(bounds) else ()
    elastic = Program(
        torch.cat((torch.zeros_like(p), torch.ones_like(free)), -1),
        torch.zeros_like(torch.cat((p, free), -1)),
        rows[:, :q],
        b,
        rows[:, q:],
        torch.cat([d[:, :m], *(torch.cat((part, free), -1) for part in bound_parts)], -1),
    )
    at, lam_elastic = _run(elastic, bounds)
    lam_bounds = [part[:, :n] for part in lam_elastic[:, m:].split(n + q + m, -1)] if sum(bounds) else []
    nu, lam = at.nu, torch.cat([lam_elastic[:, :m], *lam_bounds], -1).clamp_min(0.0)
    finite = torch.where(torch.isfinite(d), d, torch.zeros_like(d))
    value = dot(b, nu) + dot(finite, lam)
    clear = -value > ROUNDING * (dot(b.abs(), nu.abs()) + dot(finite.abs(), lam))
    scale = (-value).clamp_min(torch.finfo(p.dtype).tiny).unsqueeze(-1)
    nu, lam = nu / scale, lam / scale
    leak = largest((tmv(A, nu) + rows_tmv(G, bounds, lam)) * units.column)
    return clear & (leak * REACH < 1), nu, lam


def recession_ray(program: Program, bounds: Bounds, units: Units) -> tuple[Tensor, Tensor]:
    """(found, d): a direction of endless descent, of unit length in the units of x."""
    Q, p, A, b, G, d = program
    column, row, cost = units
    curvature = torch.diag_embed(Q) if is_diagonal(Q, p) else Q
    cone = Program(
        cost / column.square(),
        p,
        torch.cat((curvature, A), -2),
        torch.cat((torch.zeros_like(p), torch.zeros_like(b)), -1),
        G,
        torch.where(torch.isfinite(d), torch.zeros_like(d), d),
    )
    at, _ = _run(cone, bounds)
    direction = at.x / largest(at.x / column).clamp_min(torch.finfo(p.dtype).tiny).unsqueeze(-1)
    descent = -dot(p, direction)
    rise = rows_mv(G, bounds, direction).clamp_min(0.0).masked_fill(~torch.isfinite(d), 0.0)
    leaks = (
        largest(symmetric_mv(Q, direction) * column / cost),
        largest(torch.cat((mv(A, direction), rise), -1) / row),
    )
    slope = descent / largest(p * column).clamp_min(torch.finfo(p.dtype).tiny)
    return (slope * 1e4 > 1) & (torch.stack(leaks).amax(0) * REACH < slope), direction


def _run(program: Program, bounds: Bounds) -> tuple[Iterate, Tensor]:
    start = torch.zeros_like(program.p)
    loop = Loop.of(Quadratic(), program, bounds, PrimalKKT, start)
    at = optimise(loop, loop.start(start), TOL, MAX_ITER).at
    return at, split_fixed(loop, at.lam)
