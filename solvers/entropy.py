"""Entropy bundles through their dual, which lives in k dimensions.

    minimise_lam  phi*(-G'lam) - o'lam   subject to   1'lam = 1,  lam >= 0,       y = y(z), the minimiser at z = G'lam

Where cuts are so steep that phi* is nearly piecewise linear, Newton steps in lam get nowhere. There the interior-point
loop runs on the bundle itself, with the faces of the domain of y as bounds: y log y beside the barrier -log y is
self-concordant, however steep the cuts. It finds the weights of the cuts, from which Newton in the dual ends.
"""

import torch
from torch import Tensor

from .active_set import Optimum, Solved, certified, optimise, polish, weakly_active
from .interior_point import Iterate, Loop, interior_point
from .kkt import DualKKT, PrimalKKT
from .linalg import mv, tmv
from .program import Bounds, EntropyConjugate, NegativeEntropy, Phi, Program, rows_mv

DUAL_ITERATIONS = 25
ACCURACY = 1e-9


def through_dual(entropy: NegativeEntropy, program: Program, tol: float, max_iter: int) -> Solved:
    """Solve the dual, steep instances by way of `cut_weights`, and read (y, t) and nu off it."""
    phi, dual, bounds = entropy_dual(entropy, program)
    present = torch.isfinite(program.d)
    equal = present / present.sum(-1, keepdim=True).clamp_min(1).to(dual.p.dtype)
    loop = Loop.of(phi, dual, bounds, PrimalKKT, equal)
    optimum = optimise(loop, _inside(loop, equal), tol, min(max_iter, DUAL_ITERATIONS))
    solved = _read(entropy, program, loop, optimum)
    error = certified(loop, optimum.at)
    steep = ~(error <= tol) | (optimum.iterations >= DUAL_ITERATIONS)
    index = (steep & (optimum.iterations < max_iter) & present.any(-1)).nonzero().squeeze(-1)
    if not len(index):
        return solved
    program, dual = (Program(*(t[index] for t in whole)) for whole in (program, dual))
    lam, iterations = cut_weights(entropy, program, max_iter - optimum.iterations[index])
    loop = Loop.of(phi, dual, bounds, PrimalKKT, lam)
    at, kkt, error_again = polish(loop, _touching(loop, lam))
    again = _read(entropy, program, loop, Optimum(at, kkt, optimum.iterations[index] + iterations))
    better = error_again < error[index]
    return Solved(
        *(whole.index_copy(0, index[better], part[better]) for whole, part in zip(solved, again, strict=True))
    )


def entropy_dual(entropy: NegativeEntropy, program: Program) -> tuple[Phi, Program, Bounds]:
    """The dual of a bundle: minimise phi*(-G'lam) - o'lam  subject to  1'lam = 1,  lam >= 0.

    On the simplex G'lam = g + (G - 1g')'lam for any g: cuts are taken relative to their mean, so that cuts that
    nearly coincide, as they do around a minimum, keep the digits in which they differ.
    """
    present = torch.isfinite(program.d)
    slopes = program.G[..., :-1]
    share = (present.to(slopes.dtype) / present.sum(-1, keepdim=True).clamp_min(1)).unsqueeze(-2)
    offsets = program.d.masked_fill(~present, 0.0)
    mean = share @ slopes
    slopes = slopes - mean if present.all() else (slopes - mean).masked_fill(~present.unsqueeze(-1), 0.0)
    Q = torch.cat((slopes, mean), -2)
    p = (offsets - (share.squeeze(-2) * offsets).sum(-1, keepdim=True)) * present
    upper = torch.zeros_like(p).masked_fill(present, torch.inf)
    ones, one = torch.ones_like(p).unsqueeze(-2), torch.ones_like(p[..., :1])
    d = torch.cat((torch.zeros_like(p), upper), -1)
    return EntropyConjugate(entropy), Program(Q, p, ones, one, ones[..., :0, :], d), Bounds(True, True)


def cut_weights(entropy: NegativeEntropy, program: Program, budget: Tensor) -> tuple[Tensor, Tensor]:
    """(lam on the simplex, iterations): close to optimal, by the loop in (y, t) from the middle of the domain."""
    present, infinite = torch.isfinite(program.d), torch.full_like(program.d[:, :1], torch.inf)
    y = entropy.minimiser(torch.zeros_like(program.p[:, :-1]))
    lower, upper = [torch.zeros_like(y), infinite], [torch.ones_like(y), infinite]
    faces = lower * entropy.bounds.lower + upper * entropy.bounds.upper
    bounded = program._replace(d=torch.cat((program.d, *faces), -1))
    values = mv(program.G[..., :-1], y) - program.d
    top = values.amax(-1, keepdim=True)
    spread = top - values.masked_fill(~present, torch.inf).amin(-1, keepdim=True)
    x = torch.cat((y, top + spread.clamp_min(1.0)), -1)
    loop = Loop.of(entropy, bounded, entropy.bounds, DualKKT, x)
    interior, k = loop.rows.interior, program.d.shape[-1]
    s = torch.where(interior, bounded.d - rows_mv(program.G, entropy.bounds, x), torch.ones_like(bounded.d))
    mu = (present / s[:, :k]).sum(-1, keepdim=True).reciprocal()
    start = Iterate(x, torch.zeros_like(program.b), torch.where(interior, mu / s, torch.zeros_like(s)), s)
    outcome = interior_point(loop, start, ACCURACY, budget)
    lam = outcome.iterate.lam[:, :k].clamp_min(0.0) * present
    return lam / lam.sum(-1, keepdim=True), outcome.iterations


def _read(entropy: NegativeEntropy, program: Program, loop: Loop, optimum: Optimum) -> Solved:
    """The solution of a bundle from that of its dual.

    A cut is inactive where its lam is held at zero. The dual operator is singular just where the primal one is:
    where active cuts are affinely dependent.
    """
    at, kkt, iterations = optimum
    present, k = torch.isfinite(program.d), program.d.shape[-1]
    weak = weakly_active(loop, at)[:, :k]
    idle = kkt.kept[:, :k] & ~weak | ~present
    lam = at.x.clamp_min(0.0) * present
    G = program.G[..., :-1]
    z = tmv(G, lam)
    y = entropy.minimiser(z)
    t = (mv(G, y) - program.d).amax(-1, keepdim=True)
    w = torch.zeros_like(lam).masked_fill(idle, torch.inf)
    degenerate = weak.any(-1) | kkt.singular()
    return Solved(torch.cat((y, t), -1), entropy.multiplier(z), lam, iterations, degenerate, w)


def _inside(loop: Loop, lam: Tensor) -> Iterate:
    """The iterate at lam on the simplex, primal and dual feasible, with positive multipliers."""
    slope = loop.phi.gradient(loop.program.Q, lam) + loop.program.p
    nu = (slope.amax(-1, keepdim=True) - 2 * slope.amin(-1, keepdim=True)).clamp_min(loop.units.cost)
    return _iterate(loop, lam, nu, slope + nu)


def _touching(loop: Loop, lam: Tensor) -> Iterate:
    """The iterate at lam on the simplex whose smallest multiplier is zero: multipliers are the slacks of the cuts."""
    slope = loop.phi.gradient(loop.program.Q, lam) + loop.program.p
    nu = -slope.amin(-1, keepdim=True)
    return _iterate(loop, lam, nu, slope + nu)


def _iterate(loop: Loop, lam: Tensor, nu: Tensor, lower: Tensor) -> Iterate:
    s = torch.where(loop.rows.interior[:, : lam.shape[-1]], lam, torch.ones_like(lam))
    return Iterate(lam, nu, torch.cat((lower, torch.zeros_like(lam)), -1), torch.cat((s, torch.ones_like(lam)), -1))
