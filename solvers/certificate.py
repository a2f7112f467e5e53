"""The certificate: how far a point is from satisfying the optimality conditions of the user's problem.

Computed from the data and the point alone: it knows nothing of the loop that found the point, of its slacks, scaling
or regularisation.
"""

import torch
from torch import Tensor

from .linalg import dot, largest, mv, tmv
from .problem import ConvexProblem
from .program import Bounds, Phi, Program, rows_mv, rows_tmv
from .solution import Residuals, Solution


def certificate(problem: ConvexProblem, solution: Solution) -> Residuals:
    """The five residuals of a solution, each (*batch,) and zero at an exact one.

    With X = 1 + max |x| and C = the largest entry of p, grad phi(x), A'nu and J'lam (1 if p = 0 and all vanish):

        stationarity     max |grad phi(x) + p + A'nu + J'lam| / C
        primal           max |A x - b|_i / (|A_i| X),  max (J x - d)_i^+ / (|J_i| X),   |.| the largest entry
        sign             max lam_i^- |J_i| / C
        complementarity  max |lam_i s_i| / (C X)
        gap              |sum lam_i s_i| / max(C, |phi(x)|, |p'x|)

    For `EntropyBundle` stationarity in y is |y - sigmoid(-G'lam)|: the gradient of the entropy is too steep
    near the faces of the box to be compared.
    """
    detached = Program(*(t.detach() for t in problem.program))
    lam = torch.cat((solution.lam, solution.lam_lower, solution.lam_upper), -1).detach().double()
    x, nu = solution.x.detach().double(), solution.nu.detach().double()
    return residuals(problem.phi, detached, problem.bounds, x, nu, lam)


def residuals(phi: Phi, program: Program, bounds: Bounds, x: Tensor, nu: Tensor, lam: Tensor) -> Residuals:
    """The certificate of (x, nu, lam) for a canonical program; see `certificate`."""
    Q, p, A, b, G, d = program
    pull_A, pull_J = tmv(A, nu), rows_tmv(G, bounds, lam)
    dual = p + pull_A + pull_J
    gradient = phi.gradient(Q, x)
    terms = (p, gradient.nan_to_num(0.0, 0.0, 0.0), pull_A, pull_J)
    cost = torch.stack([largest(term) for term in terms]).amax(0)
    cost = torch.where(largest(p) > 0, cost, cost.clamp_min(1.0))
    size = 1 + largest(x)
    slack = d - rows_mv(G, bounds, x)
    row_A, row_J = _row_size(A), torch.cat((_row_size(G), torch.ones_like(d[..., G.shape[-2] :])), -1)
    violation = torch.cat(((mv(A, x) - b).abs() / row_A, slack.clamp_max(0.0) / row_J), -1)
    products = torch.where(lam == 0, torch.zeros_like(lam), lam * slack)
    value = phi.value(Q, x).abs().maximum(dot(p, x).abs()).maximum(cost)
    return Residuals(
        stationarity=largest(phi.stationarity(x, gradient, dual)) / cost,
        primal=largest(violation) / size,
        sign=largest(lam.clamp_max(0.0) * row_J) / cost,
        complementarity=largest(products) / (cost * size),
        gap=products.sum(-1).abs() / value,
    )


def _row_size(M: Tensor) -> Tensor:
    """The largest entry of each row, 1 for a zero row."""
    size = largest(M)
    return torch.where(size > 0, size, torch.ones_like(size))
