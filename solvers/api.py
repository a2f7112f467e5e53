"""solve(problem) -> Solution: the door to the solvers."""

from typing import Literal

import torch

from .adjoint import Implicit, SolveRule
from .forward import OnFailure, Operator, Options, Values
from .problem import ConvexProblem
from .program import Program, is_diagonal
from .solution import Solution
from .unpack import unpack, without_gradient


def solve(
    problem: ConvexProblem,
    *,
    tol: float = 1e-9,
    max_iter: int = 100,
    method: Literal["auto"] | Operator = "auto",
    on_failure: OnFailure = "raise",
) -> Solution:
    """Solve a batch of convex programs; the solution is differentiable in all data of the problem.

        minimise_x  phi(x) + p'x   subject to   A x = b (nu),  G x <= h (lam >= 0),  lower <= x <= upper

    Computed in float64 whatever the dtype of the data, by one predictor-corrector interior-point method followed
    by a Newton step on the active set, for the whole batch at once; gradients by (3), (4) of `adjoint`.

    Args:
        problem: `QP`, `LP` or `EntropyBundle` with any batch dimensions.
        tol: an instance is OPTIMAL if its `certificate` is at most this.
        max_iter: iterations of the interior-point loop.
        method: the KKT operator, "primal" (Cholesky n x n), "dual" (diagonal Hessian, Cholesky of one row and
            column per constraint), "full" (LU of everything, the reference) or "auto".
        on_failure: what instances that are not OPTIMAL do. "raise": `SolverError`, which carries the solution;
            "nan": nan in values and gradients; "zero": the best iterate, with zero gradient. Others are untouched.

    Returns:
        `Solution` in the dtype and on the device of the data. Where `degenerate` is set the gradient is the
        minimum-norm one, and second derivatives raise.

    Raises:
        SolverError: an instance failed and on_failure is "raise"; or, in a backward pass, its linear system did.
        ValueError: Q is not symmetric, or an option is unknown.

    Source: Mehrotra (1992), On the implementation of a primal-dual interior point method; for the adjoint Amos
    and Kolter (2017), OptNet, and the paper's section on bundle entropy.
    """
    _check(tol, max_iter, method, on_failure)
    program = problem.program
    operator = _fitting_operator(problem, program) if method == "auto" else method
    if operator == "dual" and not is_diagonal(program.Q, program.p):
        raise ValueError("method='dual' needs a diagonal Q, given as a vector; got a matrix")
    symmetry = 1e-9 if problem.dtype == torch.float64 else 1e-4
    rule = SolveRule(problem.phi, problem.bounds, Options(tol, max_iter, operator, on_failure), symmetry)
    values = Values(*Implicit.apply(rule, *program))
    if on_failure != "raise":
        program = without_gradient(program, values.status)
    return unpack(problem.phi, problem.bounds, program, values, operator, problem.dtype)


def _fitting_operator(problem: ConvexProblem, program: Program) -> Operator:
    """Dual where the Hessian is diagonal with few rows beside it, else primal."""
    rows, n = program.A.shape[-2] + program.G.shape[-2], program.p.shape[-1]
    return "dual" if problem.diagonal_curvature and 2 * rows <= n else "primal"


def _check(tol: float, max_iter: int, method: str, on_failure: str) -> None:
    for name, value, allowed in (
        ("method", method, ("auto", "full", "primal", "dual")),
        ("on_failure", on_failure, ("raise", "nan", "zero")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}; got {value!r}")
    if not tol > 0 or max_iter < 0:
        raise ValueError(f"tol must be positive and max_iter non-negative; got tol={tol}, max_iter={max_iter}")
