"""The certificate vanishes at exact solutions, and each residual can fail."""

import ast
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import icnn
from icnn.solvers import Solution, Status

from .examples import random_bundle, random_lp, random_qp, tensor


def solved(**changes) -> tuple[icnn.QP, Solution]:
    """min x1^2/2 - x1 + x2^2/2 - 3 x2 + x3^2/2  s.t.  x1 + x2 + x3 = 1.5,  x2 <= 1,  x3 >= 0;  x = (1/2, 1, 0)."""
    problem = icnn.QP(
        torch.eye(3, dtype=torch.float64),
        tensor([-1.0, -3.0, 0.0]),
        G=tensor([[0.0, 1.0, 0.0]]),
        h=tensor([1.0]),
        A=tensor([[1.0, 1.0, 1.0]]),
        b=tensor([1.5]),
        lower=tensor([-9.0, -9.0, 0.0]),
    )
    exact = dict(x=tensor([0.5, 1.0, 0.0]), nu=tensor([0.5]), lam=tensor([1.5]), lam_lower=tensor([0.0, 0.0, 0.5]))
    return problem, replace(icnn.solve(problem), **{**exact, **changes})


def moved(value: torch.Tensor, index: int, by: float) -> torch.Tensor:
    value = value.clone()
    value[..., index] += by
    return value


def test_zero_at_an_exact_solution() -> None:
    problem, solution = solved()
    assert icnn.certificate(problem, solution).max == 0


def test_the_solver_finds_that_solution() -> None:
    problem, exact = solved()
    solution = icnn.solve(problem)
    for name in ("x", "nu", "lam", "lam_lower"):
        torch.testing.assert_close(getattr(solution, name), getattr(exact, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "reacting", "silent"),
    [
        (dict(nu=tensor([0.6])), {"stationarity"}, {"primal", "sign", "complementarity", "gap"}),
        (dict(x=tensor([0.6, 1.0, 0.0])), {"stationarity", "primal"}, {"sign"}),
        (dict(x=tensor([0.4, 1.1, 0.0])), {"primal", "complementarity", "gap"}, {"sign"}),
        (dict(x=tensor([0.6, 1.0, -0.1])), {"primal", "complementarity", "gap"}, {"sign"}),
        (dict(lam=tensor([-1.5])), {"sign", "stationarity"}, {"primal"}),
        (dict(lam_lower=tensor([0.0, 0.0, -0.5])), {"sign", "stationarity"}, {"primal"}),
        (dict(lam_lower=tensor([0.1, 0.0, 0.5])), {"complementarity", "gap", "stationarity"}, {"primal", "sign"}),
    ],
)
def test_each_residual_reacts(changes: dict, reacting: set[str], silent: set[str]) -> None:
    found = icnn.certificate(*solved(**changes))._asdict()
    assert {name for name, residual in found.items() if residual > 5e-3} >= reacting
    assert all(found[name] == 0 for name in silent)


def test_a_negative_multiplier_is_no_solution() -> None:
    problem = icnn.QP(tensor([[1.0]]), tensor([1.0]), upper=0.0)  # x = 0, lam_upper = -1 is stationary, x = -1 right
    false = replace(icnn.solve(problem), x=tensor([0.0]), lam_upper=tensor([-1.0]))
    residuals = icnn.certificate(problem, false)
    assert residuals.stationarity == residuals.primal == residuals.complementarity == 0
    assert residuals.sign > 0.1
    assert icnn.solve(problem).x == -1


def test_a_multiplier_of_an_absent_row_is_seen() -> None:
    problem = icnn.QP(tensor([[1.0]]), tensor([0.0]), G=tensor([[0.0]]), h=tensor([torch.inf]))
    solution = icnn.solve(problem)
    assert icnn.certificate(problem, solution).max == 0
    assert not icnn.certificate(problem, replace(solution, lam=tensor([1.0]))).max < 1e-2


def test_nan_is_never_certified() -> None:
    problem, solution = solved(x=tensor([torch.nan, 1.0, 0.0]))
    assert not icnn.certificate(problem, solution).max <= 1.0


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (icnn.QP, random_qp),
        (icnn.LP, random_lp),
        (icnn.EntropyBundle, random_bundle),
        (partial(icnn.EntropyBundle, simplex=True), random_bundle),
    ],
)
def test_solutions_carry_the_certificate_of_their_problem(kind, make) -> None:
    problem = kind(**make((2, 3)))
    solution = icnn.solve(problem)
    assert solution.residuals.max.max() <= 1e-12
    for carried, again in zip(solution.residuals, icnn.certificate(problem, solution), strict=True):
        torch.testing.assert_close(carried, again, rtol=0, atol=1e-14)


@pytest.mark.parametrize("simplex", [False, True])
def test_the_certificate_of_a_bundle_reacts(simplex: bool) -> None:
    data = random_bundle()
    problem = icnn.EntropyBundle(data["G"], data["o"], simplex=simplex)
    solution = icnn.solve(problem)
    for change in (
        dict(x=moved(solution.x, 0, 0.05)),
        dict(x=moved(solution.x, -1, 0.05)),
        dict(x=moved(solution.x, -1, -0.05)),
        dict(lam=moved(solution.lam, 0, 0.1)),
        dict(lam=-solution.lam),
    ):
        assert icnn.certificate(problem, replace(solution, **change)).max > 1e-3
    if simplex:
        assert icnn.certificate(problem, replace(solution, nu=solution.nu + 0.01)).max > 1e-3


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_residuals_do_not_depend_on_the_unit_of_the_cost(factor: float) -> None:
    data = random_qp()
    solution = icnn.solve(icnn.QP(**data))
    wrong = {name: getattr(solution, name) + 0.1 for name in ("nu", "lam", "lam_lower", "lam_upper")}
    plain = icnn.certificate(icnn.QP(**data), replace(solution, **wrong))
    other = icnn.certificate(
        icnn.QP(**{**data, "Q": factor * data["Q"], "p": factor * data["p"]}),
        replace(solution, **{name: factor * value for name, value in wrong.items()}),
    )
    torch.testing.assert_close(torch.stack(list(other)), torch.stack(list(plain)))


def test_the_certificate_shares_no_code_with_the_loop() -> None:
    source = (Path(str(icnn.solvers.__file__)).parent / "certificate.py").read_text(encoding="utf-8")
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported.isdisjoint({"interior_point", "kkt", "active_set", "forward", "adjoint", "diagnosis"})


def test_optimal_means_certified() -> None:
    data = random_qp((4,))
    solution = icnn.solve(icnn.QP(**data), tol=1e-3, on_failure="zero")
    assert torch.equal(solution.status == Status.OPTIMAL, solution.residuals.max <= 1e-3)
