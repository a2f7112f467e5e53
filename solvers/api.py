"""solve(problem) -> Solution: the door to the solvers."""

import inspect
import warnings

import torch
from torch import Tensor

from .adjoint import Implicit, SolveRule
from .dispatch import Choice, check_method, fitting_method, fitting_operator
from .forward import OPERATORS, OnFailure, Options, Values
from .problem import LP, QP, ConvexProblem
from .program import Program
from .solution import METHODS, Solution
from .sparse import SparseQP, solve_sparse
from .unpack import unpack


class ZeroGradientWarning(UserWarning):
    """The gradient that was asked for is zero almost everywhere."""


def solve(
    problem: ConvexProblem | SparseQP,
    *,
    tol: float = 1e-9,
    max_iter: int = 100,
    method: Choice = "auto",
    on_failure: OnFailure = "raise",
    warm_start: Solution | None = None,
) -> Solution:
    """Solve a batch of convex programs; the solution is differentiable in all data of the problem.

        minimise_x  phi(x) + p'x   subject to   A x = b (nu),  G x <= h (lam >= 0),  lower <= x <= upper

    Computed in float64 whatever the dtype of the data. What a direct method (closed form, compiled active set) does
    not solve to `tol`, a predictor-corrector interior-point method takes over, followed by a Newton step on the active
    set, for the whole batch at once. Gradients by (3), (4) of `adjoint`.

    Args:
        problem: `QP`, `LP`, `EntropyBundle` or `SparseQP` with any batch dimensions.
        tol: an instance is OPTIMAL if its `certificate` is at most this.
        max_iter: iterations of the interior-point loop.
        method: "auto" (by structure, size and device, see `dispatch`); "closed_form" (diagonal Q, bounds, at most
            one equality); "active_set" (compiled, CPU, positive definite Q); "bundle" (compiled, CPU, box of an
            `EntropyBundle`); or the interior-point loop with its KKT operator: "primal" (Cholesky n x n), "dual"
            (diagonal Hessian, Cholesky of one row and column per constraint), "full" (LU of everything, the reference,
            which takes over small instances that rounding stops short in the other two).
            For a `SparseQP` "auto", "piqp", "clarabel" or "highs", the native solver to begin with.
            `Solution.method` says what ran.
        on_failure: what instances that are not OPTIMAL do. "raise": `SolverError`, which carries the solution;
            "nan": nan in values and gradients; "zero": the best iterate, with zero gradient. Others are untouched.
        warm_start: the solution of a nearby problem of the same sizes, of the same batch or of none; not for a
            `SparseQP`.

    Returns:
        `Solution` in the dtype and on the device of the data. Where `degenerate` is set the gradient is the
        minimum-norm one, and second derivatives raise.

    Raises:
        SolverError: an instance failed and on_failure is "raise"; or, in a backward pass, its linear system did.
        ImportError: the problem is sparse and no native solver is installed.
        ValueError: Q is not symmetric, or an option is unknown.

    Warns:
        ZeroGradientWarning: the cost of a linear program asks for a gradient; that of x is zero almost everywhere.

    Source: Mehrotra (1992), On the implementation of a primal-dual interior point method; for the adjoint Amos
    and Kolter (2017), OptNet, and the paper's section on bundle entropy.
    """
    _check(tol, max_iter, method, on_failure)
    check_method(problem, method)
    if torch.is_grad_enabled() and _learns_linear_cost(problem):
        _warn_of_zero_gradient()
    if isinstance(problem, SparseQP):
        if warm_start is not None:
            raise ValueError("warm_start is not possible for a SparseQP; expected None")
        return solve_sparse(problem, tol=tol, max_iter=max_iter, on_failure=on_failure, solver=method)
    program = problem.program
    operator = fitting_operator(problem) if method not in OPERATORS else method
    first = fitting_method(problem, operator) if method == "auto" else method
    return _solution(problem, Options(tol, max_iter, first, operator, on_failure), _known(warm_start, program))


def central_point(
    problem: QP, mu: float, *, tol: float = 1e-9, max_iter: int = 100, on_failure: OnFailure = "raise"
) -> Solution:
    """The minimiser of a quadratic or linear program with a logarithmic barrier, the point of the central path at mu.

        minimise_x  x'Qx/2 + p'x - mu sum log s   subject to   A x = b,   s > 0

    s are the slacks h - G x, x - lower and upper - x of all finite rows and bounds; fixed variables (lower = upper)
    count as equalities. The multipliers are mu / s. Differentiable, once, in all data; unlike the minimiser of a
    linear program it moves with the cost.

    Args:
        problem: `QP` or `LP` with any batch dimensions.
        mu: the weight of the barrier, in the unit of the objective.
        tol, max_iter, on_failure: as for `solve`; the certificate measures |lam s - mu| against mu.

    Returns:
        `Solution` with the objective x'Qx/2 + p'x. An instance fails where no point is strictly inside the
        constraints, or the barrier function has no minimum because the set of minimisers is unbounded.

    Raises: as `solve`; RuntimeError for a second derivative.

    Source: Boyd, Vandenberghe (2004), Convex Optimization, section 11.2.
    """
    _check(tol, max_iter, "auto", on_failure)
    if not mu > 0:
        raise ValueError(f"mu must be positive; got {mu}")
    operator = fitting_operator(problem)
    return _solution(problem, Options(tol, max_iter, operator, operator, on_failure, mu), ())


def _solution(problem: ConvexProblem, options: Options, warm: tuple[Tensor, ...]) -> Solution:
    symmetry = 1e-9 if problem.dtype == torch.float64 else 1e-4
    program = problem.program
    rule = SolveRule(problem.phi, problem.bounds, options, symmetry)
    values = Values(*Implicit.apply(rule, *program, *warm))
    return unpack(problem.phi, problem.bounds, program, values, problem.dtype, options.on_failure != "raise")


def _learns_linear_cost(problem: ConvexProblem | SparseQP) -> bool:
    if isinstance(problem, SparseQP):
        return problem.Q is None and problem.p.requires_grad
    return isinstance(problem, LP) and problem.c.requires_grad


def _warn_of_zero_gradient() -> None:
    """Warn at the caller's line, the first that is not in this package or in torch."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("icnn", "torch"):
        frame, level = frame.f_back, level + 1
    message = (
        "the minimiser of a linear program is piecewise constant in its cost: the gradient of x with respect to the "
        "cost is zero almost everywhere (those of the multipliers and of the objective are not). Learn costs through "
        "icnn.losses.ridge, icnn.losses.log_barrier, icnn.losses.perturbed, icnn.losses.SPOPlus or "
        "icnn.losses.PerturbedDecision; c.detach() says that none is wanted"
    )
    warnings.warn(message, ZeroGradientWarning, stacklevel=level)


def _known(warm_start: Solution | None, program: Program) -> tuple[Tensor, ...]:
    """(x, nu, lam) to start from, in float64 and the batch of the program; nothing without a warm start."""
    if warm_start is None:
        return ()
    parts = (warm_start.x, warm_start.nu, torch.cat((warm_start.lam, warm_start.lam_lower, warm_start.lam_upper), -1))
    known = tuple(t.detach().double().nan_to_num() for t in parts)
    for t, like in zip(known, (program.p, program.b, program.d), strict=True):
        if t.shape[-1] != like.shape[-1] or t.shape[:-1] not in (torch.Size(), like.shape[:-1]):
            sizes = [tuple(t.shape) for t in known]
            expected = [tuple(t.shape) for t in (program.p, program.b, program.d)]
            raise ValueError(f"warm_start must solve a problem of these sizes: x, nu, lam {expected}; got {sizes}")
    return tuple(t.expand(like.shape) for t, like in zip(known, (program.p, program.b, program.d), strict=True))


def _check(tol: float, max_iter: int, method: str, on_failure: str) -> None:
    for name, value, allowed in (
        ("method", method, ("auto", *METHODS)),
        ("on_failure", on_failure, ("raise", "nan", "zero")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}; got {value!r}")
    if not tol > 0 or max_iter < 0:
        raise ValueError(f"tol must be positive and max_iter non-negative; got tol={tol}, max_iter={max_iter}")
