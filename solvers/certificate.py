"""The certificate: how far a point is from satisfying the optimality conditions of the user's problem.

Computed from the data and the point alone: it knows nothing of the loop that found the point, of its slacks, scaling
or regularisation.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .linalg import dot, largest, mv, tmv
from .problem import ConvexProblem
from .program import Bounds, Phi, Program, Quadratic, rows_mv, rows_tmv
from .solution import Residuals, Solution

if TYPE_CHECKING:
    from .sparse import SparseQP

FLOOR = 1e-5


def certificate(problem: "ConvexProblem | SparseQP", solution: Solution) -> Residuals:
    """The five residuals of a solution, each (*batch,) and zero at an exact one.

    With X = 1 + max |x|, C = the largest entry of p, grad phi(x), A'nu and J'lam (1 if p = 0 and all vanish) and |A_i|
    the largest entry of a row:

        stationarity     |grad phi(x) + p + A'nu + J'lam|_j / max(|p|, |grad phi(x)|, |A'nu|, |J'lam|, 1e-5 C)_j
        primal           |A x - b|_i / max(|A x|, |b|, 1e-5 |A_i| X)_i,  and so (J x - d)^+
        sign             max lam_i^- |J_i| / C
        complementarity  max |lam_i s_i| / (C X)
        gap              |sum lam_i s_i| / max(C, |phi(x)|, |p'x|)

    The first two are the largest over j and i: every condition is held against its own terms, so that no one of
    them hides in the unit of another.

    For `EntropyBundle` stationarity in y is |y - sigmoid(-G'lam)|, over the simplex |y - exp(-1 - nu - G'lam)|: the
    gradient of the entropy is too steep near the faces of the domain to be compared.
    """
    if not isinstance(problem, ConvexProblem):
        from .sparse import sparse_certificate  # which imports the forward pass, and that this module

        return sparse_certificate(problem, solution)
    detached = Program(*(t.detach() for t in problem.program))
    lam = torch.cat((solution.lam, solution.lam_lower, solution.lam_upper), -1).detach().double()
    x, nu = solution.x.detach().double(), solution.nu.detach().double()
    return residuals(problem.phi, detached, problem.bounds, x, nu, lam)


def residuals(
    phi: Phi, program: Program, bounds: Bounds, x: Tensor, nu: Tensor, lam: Tensor, products: Tensor | float = 0.0
) -> Residuals:
    """The certificate of (x, nu, lam) for a canonical program; see `certificate`.

    products: what lam_i s_i should be; mu on the rows of a logarithmic barrier.
    """
    Q, p, A, b, G, d = program
    pull_A, pull_J = tmv(A, nu), rows_tmv(G, bounds, lam)
    dual = p + pull_A + pull_J
    gradient = phi.gradient(Q, x)
    terms = torch.stack((p, gradient.nan_to_num(0.0, 0.0, 0.0), pull_A, pull_J)).abs().amax(0)
    cost = largest(terms)
    cost = torch.where(largest(p) > 0, cost, cost.clamp_min(1.0))
    size = 1 + largest(x)
    held, pushed = mv(A, x), rows_mv(G, bounds, x)
    slack = d - pushed
    row_A, row_J = _row_size(A), torch.cat((_row_size(G), torch.ones_like(d[..., G.shape[-2] :])), -1)
    violation = torch.cat(((held - b).abs(), slack.clamp_max(0.0)), -1)
    sides = torch.cat((held.abs().maximum(b.abs()), pushed.abs().maximum(d.abs().nan_to_num(torch.nan, 0.0))), -1)
    rows = sides.maximum(FLOOR * torch.cat((row_A, row_J), -1) * size.unsqueeze(-1))
    columns = terms.maximum(FLOOR * cost.unsqueeze(-1)) if isinstance(phi, Quadratic) else cost.unsqueeze(-1)
    excess = torch.where(lam == 0, torch.zeros_like(lam), lam * slack) - products
    unit = (cost * size).unsqueeze(-1)
    if isinstance(products, Tensor):  # a barrier: a small mu is held against itself
        unit = torch.where(products > 0, products.maximum(FLOOR * unit), unit)
    value = phi.value(Q, x).abs().maximum(dot(p, x).abs()).maximum(cost)
    return Residuals(
        stationarity=largest(phi.stationarity(x, gradient, dual) / columns),
        primal=largest(violation / rows),
        sign=largest(lam.clamp_max(0.0) * row_J) / cost,
        complementarity=largest(excess / unit),
        gap=excess.sum(-1).abs() / value,
    )


def _row_size(M: Tensor) -> Tensor:
    """The largest entry of each row, 1 for a zero row."""
    size = largest(M)
    return torch.where(size > 0, size, torch.ones_like(size))
