"""The central path: where the barrier function is least, for one mu.

    minimise_x  phi(x) + p'x - mu sum_i log s_i    subject to   A x = b,   s = d - J x > 0

Its optimality conditions are those of the program with lam_i s_i = mu in place of 0. Newton's method on them starts
from any s, lam > 0, as in the interior-point loop, and follows the path down to mu.
"""

import torch
from torch import Tensor

from .active_set import split_fixed
from .certificate import residuals
from .interior_point import PATIENCE, TO_BOUNDARY, Iterate, Loop, choose
from .program import rows_mv

DESCENT = 0.1  # of lam s in one step, until mu is reached


def centre(loop: Loop, start: Iterate, products: Tensor, tol: float, max_iter: int) -> tuple[Iterate, Tensor]:
    """The point where lam s = products (mu on interior rows, else 0), and the iterations that it took, (batch,)."""
    interior = loop.rows.interior
    at = best = start._replace(lam=torch.where(interior, start.lam.maximum(products / start.s), start.lam))
    least = torch.full_like(start.x[:, 0], torch.inf)
    iterations = torch.zeros_like(least, dtype=torch.int64)
    waiting, running = torch.zeros_like(iterations), torch.ones_like(iterations, dtype=torch.bool)
    for iteration in range(max_iter + 1):
        error = _error(loop, at, products)
        waiting = torch.where(error < 0.9 * least, 0, waiting + 1)
        best, least = choose(error < least, at, best), least.fmin(error)
        running = running & (least > tol) & (waiting <= PATIENCE) & torch.isfinite(error)
        if iteration == max_iter or not running.any():
            break
        iterations = iterations + running
        at = choose(running, _advance(loop, at, products, error), at)
    s = torch.where(interior, loop.program.d - rows_mv(loop.program.G, loop.bounds, best.x), best.s)
    return best._replace(s=s), iterations


def _advance(loop: Loop, at: Iterate, products: Tensor, error: Tensor) -> Iterate:
    interior = loop.rows.interior
    product = at.lam * at.s
    mean = (product * interior).sum(-1, keepdim=True) / interior.sum(-1, keepdim=True).clamp_min(1)
    excess = product - products.maximum(DESCENT * mean)
    step = loop.direction(loop.newton_kkt(at, error), at, loop.measure(at)[0], excess)
    length = loop.longest(at, step, TO_BOUNDARY)
    return Iterate(*(old + length * new for old, new in zip(at, step, strict=True)))


def _error(loop: Loop, at: Iterate, products: Tensor) -> Tensor:
    lam = split_fixed(loop, at.lam)
    found = residuals(loop.phi, loop.program, loop.bounds, at.x, at.nu, lam, products)
    return found.max.nan_to_num(torch.inf)
