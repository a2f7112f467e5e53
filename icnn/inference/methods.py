"""Which method solves which problem, which gradients fit it, and how the two are run together."""

from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from icnn.certificates.ranges import replaced
from icnn.solvers import Status

from .bundle import by_bundle
from .descent import RULES, Descender, Descent, by_descent
from .implicit import first_order, through_cuts, through_newton, value_of_cuts
from .newton import by_newton, by_quasi_newton, polished
from .outcome import Callback, Outcome
from .polyhedral import by_epigraph
from .problem import Problem
from .regions import OnFailure, Polyhedron
from .regularized import Entropic, Euclidean

Method = Literal["auto", "exact", "bundle", "newton", "quasi_newton", "momentum", "gradient", "adam"]
Gradient = Literal["implicit", "bundle", "unrolled", "truncated", "one_step", "danskin", "none"]
FOLLOWED = ("unrolled", "truncated", "one_step")
NEWTON_VARIABLES = 300
POLISH = 50  # Newton steps at most that complete another method
BUDGETS = {"bundle": 30, "exact": 1, "newton": 50, "quasi_newton": 200, **dict.fromkeys(RULES, 500)}
UNROLLED = 30


class Plan(NamedTuple):
    """How to solve and differentiate. rule: of a first-order method. points: for the first cuts, (m, k, n)."""

    method: str
    gradient: Gradient
    max_iter: int
    recorded: int
    tol: float
    rule: Descent | None
    points: Tensor | None

    @property
    def polishes(self) -> bool:
        """Whether Newton's method completes this one."""
        return self.gradient == "implicit" and self.method not in ("exact", "newton") and not self.cuts

    @property
    def cuts(self) -> bool:
        """Whether the gradient goes through the cuts."""
        return self.gradient == "bundle"

    @property
    def marked(self) -> bool:
        """Whether the cuts must be known as functions of the weights."""
        return self.gradient in ("bundle", "danskin") and torch.is_grad_enabled()

    @property
    def name(self) -> str:
        return f"{self.method}, newton" if self.polishes else self.method


def planned(
    problem: Problem,
    method: Method | Descent,
    gradient: Gradient,
    max_iter: int | None,
    truncation: int,
    tol: float,
    points: Tensor | None,
) -> Plan:
    """The plan. Raises ValueError where the method does not fit the problem, or the gradient the method."""
    rule = method if isinstance(method, Descent) else None
    name = method.rule if isinstance(method, Descent) else method
    if name not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)} or a Descent; got {method!r}")
    if name == "auto":
        name = "gradient" if gradient in FOLLOWED else _fitting(problem)
    rule = rule or (Descent(name) if name in RULES else None)
    _check_method(problem, name)
    if gradient == "implicit" and name == "bundle" and problem.f.piecewise_linear:
        gradient = "bundle"
    _check_gradient(problem, name, gradient)
    budget = max_iter or (UNROLLED if gradient == "unrolled" else BUDGETS[name])
    recorded = {"unrolled": budget, "truncated": min(truncation, budget), "one_step": 1}.get(gradient, 0)
    return Plan(name, gradient, budget, recorded, tol, rule, points)


def solved(problem: Problem, plan: Plan, callback: Callback | None) -> Outcome:
    """Where the method ends; with a graph where the derivative is that of its steps or of its program."""
    if plan.method == "exact":
        with torch.set_grad_enabled(plan.gradient == "implicit" and torch.is_grad_enabled()):
            outcome = _by_epigraph(problem, plan)
        if callback is not None:
            callback(1, outcome.y.detach())
    else:
        marked = plan.marked
        with torch.set_grad_enabled(plan.recorded > 0 and torch.is_grad_enabled()):
            outcome = _iterated(problem, plan, callback, marked)
    if plan.method != "exact" and isinstance(problem.over, Euclidean):  # its program says so itself
        with torch.no_grad():
            empty = problem.over.region.empty()
        outcome = replace(outcome, status=outcome.status.masked_fill(empty, int(Status.PRIMAL_INFEASIBLE)))
    if plan.polishes:
        with torch.no_grad():
            outcome = polished(problem.energy, problem.over, outcome, POLISH, plan.tol)
    return replace(outcome, status=outcome.status.masked_fill(problem.bad, int(Status.NONFINITE_INPUT)))


def failures(plan: Plan, outcome: Outcome) -> Tensor:
    """Which instances failed; for want of iterations alone only where the derivative needs the minimiser."""
    exhausted = outcome.status == Status.MAX_ITERATIONS
    needed = plan.gradient == "implicit"
    return (outcome.status != Status.OPTIMAL) & (needed | ~exhausted)


def differentiable(
    problem: Problem, plan: Plan, outcome: Outcome, failed: Tensor, on_failure: OnFailure
) -> tuple[Tensor, Tensor]:
    """y (m, n) and the value (m,), with the derivative that was asked for, none for failed instances."""
    y, value = outcome.y, outcome.upper.detach()
    if plan.gradient == "none" or not torch.is_grad_enabled():
        return y.detach(), value
    if failed.any():
        problem = problem.without(failed)
    if plan.gradient == "danskin":
        y = y.detach()
        minimum = _supported(problem, outcome, torch.where(failed.unsqueeze(-1), problem.start, y))
        return y, first_order(torch.where(failed, value, value + (minimum - minimum.detach())))
    if plan.cuts:
        assert outcome.cuts is not None
        y = through_cuts(problem.energy, problem.over, outcome.cuts, on_failure)
    elif plan.gradient == "implicit" and plan.method != "exact":
        y = through_newton(problem.energy, problem.over, y, on_failure)
    elif failed.any() and not outcome.upper[failed].isfinite().all():
        y = solved(problem, plan, None).y
    return torch.where(failed.unsqueeze(-1), outcome.y.detach(), y), value


def _supported(problem: Problem, outcome: Outcome, y: Tensor) -> Tensor:
    """f(y) + linear'y for its derivative at fixed y; at a kink by the pieces that make y the minimiser."""
    if outcome.lines is not None:
        layered = problem.layered
        assert layered is not None
        value = replaced(layered, y.reshape(-1, *problem.y_shape), outcome.lines).value
        return value if problem.linear is None else value + (problem.linear * y).sum(-1)
    if outcome.cuts is not None and problem.f.piecewise_linear:
        return value_of_cuts(problem.energy, problem.over, outcome.cuts, y)
    return problem.energy(y)


def _fitting(problem: Problem) -> str:
    n, over = problem.start.shape[-1], problem.over
    affine = problem.f.smooth and problem.f.piecewise_linear
    if affine and isinstance(over, Entropic):
        return "bundle"  # its first cut is f
    if problem.f.smooth:
        return "newton" if n <= NEWTON_VARIABLES else "quasi_newton" if isinstance(over, Entropic) else "momentum"
    if isinstance(over, Euclidean) and problem.has_layers:
        return "exact"
    return "momentum" if isinstance(over, Euclidean) and over.weight == 0 else "bundle"


def _check_method(problem: Problem, name: str) -> None:
    f, over = problem.f, problem.over
    needs = {
        "newton": (f.smooth, "an f that is twice differentiable in y"),
        "quasi_newton": (f.smooth, "an f that is twice differentiable in y"),
        "exact": (
            problem.has_layers and isinstance(over, Euclidean),
            "a network of layers that are maxima of lines (ReLU, leaky ReLU, maxout), and no entropy",
        ),
        "bundle": (isinstance(over, Entropic) or over.weight > 0, "a regularizer; got None"),  # pyright: ignore[reportAttributeAccessIssue]
    }
    box = isinstance(over, Entropic) or (isinstance(over.region, Polyhedron) and over.region.is_box)  # pyright: ignore[reportAttributeAccessIssue]
    needs["adam"] = (box, "a Box, or an entropy: its steps are not those of a projection onto other sets")
    fits, what = needs.get(name, (True, ""))
    if not fits:
        raise ValueError(f"method={name!r} needs {what}")


def _check_gradient(problem: Problem, name: str, gradient: Gradient) -> None:
    f = problem.f
    needs = {
        "bundle": (name == "bundle" and f.piecewise_linear, "method='bundle' and a piecewise linear f"),
        "implicit": (
            name == "exact" or f.smooth,
            "a smooth f, or a piecewise linear one with method 'exact' or 'bundle'; "
            f"got {type(f).__name__} with activation {f.activation.name!r}"
            f"{'' if f.quadratic is None else ' and a quadratic term'}, and method {name!r}",
        ),
        **dict.fromkeys(FOLLOWED, (name in RULES, f"a first-order method, one of {RULES}; got {name!r}")),
    }
    fits, what = needs.get(gradient, (True, ""))
    if not fits:
        raise ValueError(f"gradient={gradient!r} needs {what}. Choose another, or gradient='none'")


def _by_epigraph(problem: Problem, plan: Plan) -> Outcome:
    over, layered = problem.over, problem.layered
    assert isinstance(over, Euclidean)
    assert layered is not None
    linear = torch.zeros_like(problem.start) if problem.linear is None else problem.linear
    return by_epigraph(problem.energy, layered, linear, over, problem.y_shape, plan.tol)


def _iterated(problem: Problem, plan: Plan, callback: Callback | None, marked: bool) -> Outcome:
    at = problem.energy, problem.over
    if plan.rule is not None:
        descender = Descender(*at, plan.rule, problem.f.smooth)
        return by_descent(descender, problem.start, plan.max_iter, plan.tol, callback, plan.recorded)
    if plan.method == "bundle":
        return by_bundle(*at, problem.start, plan.max_iter, plan.tol, callback, marked, plan.points)
    method = by_newton if plan.method == "newton" else by_quasi_newton
    return method(*at, problem.start, plan.max_iter, plan.tol, callback)
