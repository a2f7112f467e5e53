"""One call for prediction: argmin over y of a convex energy, on a set, regularised or not, differentiable."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icnn.networks import ConvexNetwork
from icnn.solvers import SolverError, Status, failure_message

from .cuts import Cuts
from .descent import Descent
from .domains import Box, Domain
from .methods import Gradient, Method, differentiable, failures, planned, solved
from .problem import Problem, Regularizer, posed
from .regions import OnFailure

ROUNDING = 32


@dataclass(frozen=True, eq=False)
class ArgminSolution:
    """The minimisers of a batch of energies; y is differentiable as `gradient` says, value with "danskin" alone.

    y: (*batch, *y_shape). value = f(y) + linear'y + φ(y) there and gap = value minus a lower bound of the minimum,
    both (*batch,). status: OPTIMAL where the gap is within the tolerance, MAX_ITERATIONS where the budget came first
    (no error: the gap tells), else why the instance failed. iterations of the method; evaluations: of the energy,
    with its slope where the method needs it, Hessians not counted. method: what ran. points: where the bundle method
    took its last cuts, (*batch, k, *y_shape), nan for none: a warm start begins there.
    """

    y: Float[Tensor, "..."]
    value: Float[Tensor, "*batch"]
    gap: Float[Tensor, "*batch"]
    status: Int[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    evaluations: Int[Tensor, "*batch"]
    method: str
    points: Float[Tensor, "..."] | None = None

    def __repr__(self) -> str:
        codes = self.status.flatten().tolist()
        counts = ", ".join(f"{codes.count(code)} {Status(code).name}" for code in sorted(set(codes)))
        return f"ArgminSolution(y: {tuple(self.y.shape)}, status: {counts}, method: {self.method})"


def argmin(
    f: ConvexNetwork,
    x: Tensor | None = None,
    domain: Domain = Box(0.0, 1.0),  # noqa: B008 (immutable)
    *,
    regularizer: Regularizer = None,
    linear: Tensor | None = None,
    method: Method | Descent = "auto",
    gradient: Gradient = "implicit",
    start: Tensor | None = None,
    warm_start: ArgminSolution | None = None,
    max_iter: int | None = None,
    truncation: int = 5,
    tol: float = 1e-9,
    on_failure: OnFailure = "raise",
    callback: Callable[[int, Tensor], None] | None = None,
) -> ArgminSolution:
    """The minimiser of a network over a convex set, for a batch, with a certified gap and a gradient.

        minimise  f(x, y) + linearᵀy + φ(y)   over y in the domain

    The regulariser φ is part of the problem; methods differ in how they solve it, never in what they solve.

    Args:
        f: a network that is convex in y; one whose weights await `project_` is refused.
        x: (*batch, *f.x_shape), or None for a network without x.
        domain: `Box`, `Simplex`, `Ball` or `Polytope`; its data are shared or have the batch dimensions.
        regularizer: None, "entropy" (box, simplex), "quadratic" (½|y|²), or an `EntropyRegularizer` or
            `QuadraticRegularizer` with weight and centre.
        linear: y_shape or (*batch, *y_shape).
        method: what solves it, see below; "auto" takes the first that fits, and `solution.method` names it.
        gradient: what y carries, see below.
        start: the first point, y_shape or (*batch, *y_shape) in the domain; its middle by default.
        warm_start: a solution of a nearby problem, whose y is the start and whose cuts are taken anew.
        max_iter: iterations at most; by default 30 for bundle, 50 for newton, 200 for quasi_newton, 500 for the
            first-order methods, of which 30 when they are unrolled.
        truncation: steps that gradient="truncated" follows.
        tol: an instance is OPTIMAL once gap ≤ tol (1 + |value|); never below the rounding of f's dtype.
        on_failure: for instances that fail (MAX_ITERATIONS alone is no failure): "raise"; "nan" in their y and value;
            "zero" leaves their last point. No gradient comes from them.
        callback: called as callback(iteration, y) with every iterate.

    Methods, in the order in which "auto" tries them:
        "newton" (up to 300 variables), "quasi_newton": smooth f; on the whole domain, or in logits under an entropy.
        "exact": f piecewise linear (ReLU, leaky ReLU, maxout), also with a quadratic term, no entropy: an LP or QP in
            y and the units, solved by `icnn.solve`; the gap is the slack of its epigraph.
        "bundle": any f with a regulariser: tangents, the paper's method. First for an affine f under an entropy.
        "momentum", "gradient", "adam", or a `Descent` with their rates: projected first-order methods, under an
            entropy in logits. Exact in the limit for smooth f; slow at kinks, where the gap tells.

    Gradients:
        "implicit": exact, by the KKT operator at the solution: of the program for exact, of the cuts for bundle, of
            the optimality condition for smooth f, where Newton's method first completes what another one began.
            In the weights, x, linear, and in data of the domain that ask for it.
        "bundle": that of the cuts, formula (6) of `implicit`; for bundle and piecewise linear f.
        "unrolled", "truncated", "one_step": through all steps of a first-order method, the last `truncation`, or one,
            the lengths of steps held fixed. After convergence give the last two a fixed rate (`Descent(lr=...)`): a
            length that was searched is right along one direction only, and may amplify others.
        "danskin": none for y; the gradient of the minimum `value` in the weights, x and linear, y held fixed.
        "none".

    Returns:
        `ArgminSolution`; y in the dtype of f.

    Raises:
        TypeError: f is no `ConvexNetwork`.
        ValueError: an argument does not fit, f is not convex now, or the method or gradient does not fit f.
        SolverError: an instance failed (empty or unbounded problem, energy not finite, no convergence where the
            gradient needs it) and on_failure is "raise".

    Source: Amos, Xu, Kolter (2017), sections 3, 4 and 5; for one_step Bolte, Pauwels, Vaiter (2023), One-step
    differentiation of iterative algorithms.
    """
    if warm_start is not None and start is None:
        start = warm_start.y.detach()
    return answered(
        posed(f, x, domain, regularizer, linear, start),
        method=method,
        gradient=gradient,
        warm_start=warm_start,
        max_iter=max_iter,
        truncation=truncation,
        tol=tol,
        on_failure=on_failure,
        callback=callback,
    )


def answered(
    problem: Problem,
    *,
    method: Method | Descent = "auto",
    gradient: Gradient = "implicit",
    warm_start: ArgminSolution | None = None,
    max_iter: int | None = None,
    truncation: int = 5,
    tol: float = 1e-9,
    on_failure: OnFailure = "raise",
    callback: Callable[[int, Tensor], None] | None = None,
) -> ArgminSolution:
    """The solution of a problem that is posed already; arguments and errors are those of `argmin`."""
    _check(gradient=(gradient, get_args(Gradient)), on_failure=(on_failure, get_args(OnFailure)))
    for name, value in (("max_iter", max_iter), ("truncation", truncation), ("tol", tol)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")
    tol = max(tol, ROUNDING * torch.finfo(problem.dtype).eps)
    plan = planned(problem, method, gradient, max_iter, truncation, tol, _points(warm_start, problem))
    shown = None if callback is None else lambda number, y: callback(number, problem.shaped(y))
    outcome = solved(problem, plan, shown)
    failed = failures(plan, outcome)
    if on_failure == "raise" and failed.any():
        status = outcome.status.masked_fill(~failed, int(Status.OPTIMAL)).reshape(problem.batch)
        raise SolverError(failure_message(status))
    y, value = differentiable(problem, plan, outcome, failed, on_failure)
    if on_failure == "nan":
        y, value = y.masked_fill(failed.unsqueeze(-1), torch.nan), value.masked_fill(failed, torch.nan)
    return ArgminSolution(
        problem.shaped(y),
        *(
            t.reshape(problem.batch)
            for t in (value, outcome.gap, outcome.status, outcome.iterations, outcome.evaluations)
        ),
        method=plan.name,
        points=_shown_points(outcome.cuts, problem),
    )


def _points(warm_start: ArgminSolution | None, problem: Problem) -> Tensor | None:
    """Where the cuts of an earlier solution were taken, (m, k, n)."""
    if warm_start is None or warm_start.points is None:
        return None
    if warm_start.y.shape != problem.batch + problem.y_shape:
        came, expected = tuple(warm_start.y.shape), tuple(problem.batch + problem.y_shape)
        raise ValueError(f"warm_start has y of shape {came}, expected {expected}")
    return warm_start.points.double().reshape(problem.batch.numel(), -1, problem.y_shape.numel())


def _shown_points(cuts: Cuts | None, problem: Problem) -> Tensor | None:
    if cuts is None:
        return None
    points = cuts.points.masked_fill(torch.isneginf(cuts.o).unsqueeze(-1), torch.nan)
    return points.reshape(*problem.batch, -1, *problem.y_shape)


def _check(**options: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, allowed) in options.items():
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}; got {value!r}")
