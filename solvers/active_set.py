"""From an interior iterate to the vertex or face it points at.

At the end of the loop lam_i s_i is tiny for every row and one of the two is clearly the larger: the active set
can be read off. With active rows held (w = 0) and the others dropped (w = inf) the optimality conditions are
equations, which a Newton step solves to rounding; the operator of that step is the one the adjoint needs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .certificate import residuals
from .interior_point import Iterate, Loop, choose, interior_point
from .kkt import KKT
from .linalg import largest, mv, tmv
from .program import rows_mv, rows_tmv

WEAK = 1e-6
CROSSOVER = 1e-7
FURTHER = (1e-1, 1e-3)  # of the tolerance, to which the loop goes on where the active set does not show


class Optimum(NamedTuple):
    """Where a batch ended: the point, the operator of its active set, and how many iterations it took."""

    at: Iterate
    kkt: KKT
    iterations: Tensor


class Solved(NamedTuple):
    """A point with its active set: w is 0 on active rows, inf on others."""

    x: Tensor
    nu: Tensor
    lam: Tensor
    iterations: Tensor
    degenerate: Tensor
    w: Tensor


def optimise(loop: Loop, start: Iterate, tol: float, max_iter: int) -> Optimum:
    """Interior-point iterations until the active set shows, then Newton on it; more of both where it misled."""
    budget = torch.full(start.x.shape[:1], max_iter, device=start.x.device)
    outcome = interior_point(loop, start, max(CROSSOVER, tol), budget)
    at, kkt, error = polish(loop, outcome.iterate)
    iterations = outcome.iterations
    inner = outcome.iterate
    for share in FURTHER:
        rest = outcome.converged & ~(error <= tol)
        if not rest.any():
            break
        part, index = loop.at(rest), rest.nonzero().squeeze(-1)
        more = interior_point(part, inner.at(rest), share * tol, (budget - iterations)[rest])
        better, _, error_there = polish(part, more.iterate)
        better = choose(error_there < error[rest], better, at.at(rest))
        at, inner = _replaced(at, index, better), _replaced(inner, index, more.iterate)
        error = error.index_copy(0, index, error[rest].fmin(error_there))
        iterations = iterations.index_add(0, index, more.iterations)
        kkt = active_kkt(loop, at, active_rows(loop, at))
    return Optimum(at, kkt, iterations)


def _replaced(at: Iterate, index: Tensor, new: Iterate) -> Iterate:
    """The batch with the instances of this index replaced."""
    return Iterate(*(t.index_copy(0, index, part) for t, part in zip(at, new, strict=True)))


def polish(loop: Loop, at: Iterate) -> tuple[Iterate, KKT, Tensor]:
    """Newton on the active set, kept for each instance whose certificate it improves; its operator and certificate."""
    active = active_rows(loop, at)
    kkt = active_kkt(loop, at, active)
    best, error = at, certified(loop, at)
    for remaining in reversed(range(1 if loop.phi.constant_hessian else 2)):
        trial = _on_active(loop, _newton(loop, kkt, _on_active(loop, best, active)), active)
        trial_error = certified(loop, trial)
        better = trial_error < error
        best = choose(better, trial, best)
        error = error.fmin(trial_error)
        if remaining:
            kkt = active_kkt(loop, best, active)
    if (active_rows(loop, best) != active).any():
        kkt = active_kkt(loop, best, active_rows(loop, best))
    return best, kkt, error


def active_rows(loop: Loop, at: Iterate) -> Tensor:
    """Rows whose multiplier is larger than their slack, each in its unit, and weakly active ones."""
    unit = loop.slack_unit
    return loop.rows.interior & ((at.lam * unit.square() / loop.units.cost > at.s) | weakly_active(loop, at))


def weakly_active(loop: Loop, at: Iterate) -> Tensor:
    """Rows whose slack and multiplier both vanish to rounding: the derivative is one-sided there.

    Taken as active: of the one-sided derivatives this is the one of least norm.
    """
    unit, cost = loop.slack_unit, loop.units.cost
    column = loop.units.column
    s, lam = at.s / unit, at.lam * unit / cost
    small_s = s.abs() <= WEAK * (1 + largest(at.x / column).unsqueeze(-1))
    small_lam = lam.abs() <= WEAK * (1 + largest(lam * loop.rows.interior).unsqueeze(-1))
    return loop.rows.interior & small_s & small_lam


def active_kkt(loop: Loop, at: Iterate, active: Tensor) -> KKT:
    """The operator with active rows held and the rest dropped."""
    return loop.kkt(at.x, torch.zeros_like(at.s).masked_fill(~active, torch.inf))


def _newton(loop: Loop, kkt: KKT, at: Iterate) -> Iterate:
    Q, p, A, b, G, d = loop.program
    stationarity = loop.phi.gradient(Q, at.x) + p + tmv(A, at.nu) + rows_tmv(G, loop.bounds, at.lam)
    violation = (rows_mv(G, loop.bounds, at.x) - d).masked_fill(~kkt.kept, 0.0)
    step, _ = kkt.solve(-torch.cat((stationarity, mv(A, at.x) - b, violation), -1))
    x, nu, lam = kkt.split(step)
    return Iterate(at.x + x, at.nu + nu, at.lam + lam, at.s)


def _on_active(loop: Loop, at: Iterate, active: Tensor) -> Iterate:
    """The point with its slacks recomputed and complementarity made exact."""
    s = (loop.program.d - rows_mv(loop.program.G, loop.bounds, at.x)).clamp_min(0.0)
    s = torch.where(loop.rows.interior, s.masked_fill(active, 0.0), torch.ones_like(s))
    lam = torch.where(active, at.lam.clamp_min(0.0), at.lam.masked_fill(~loop.rows.held, 0.0))
    return Iterate(at.x, at.nu, lam, s)


def certified(loop: Loop, at: Iterate) -> Tensor:
    """The largest residual of the certificate, inf where that is nan."""
    split = split_fixed(loop, at.lam)
    return residuals(loop.phi, loop.program, loop.bounds, at.x, at.nu, split).max.nan_to_num(torch.inf)


def split_fixed(loop: Loop, lam: Tensor) -> Tensor:
    """Multipliers with the free one of a fixed variable divided into its lower and its upper bound."""
    if not loop.bounds.lower or not loop.bounds.upper:
        return lam
    m, n = loop.program.G.shape[-2:]
    lam_G, lower, upper = lam.split([m, n, n], -1)
    held = loop.rows.held[..., m : m + n]
    upper = torch.where(held, (-lower).clamp_min(0.0), upper)
    return torch.cat((lam_G, torch.where(held, lower.clamp_min(0.0), lower), upper), -1)
