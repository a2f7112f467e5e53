"""Instances without a solution: named one by one, each with a ray that proves it (checked by numpy alone)."""

import numpy as np
import pytest
import torch
from torch import Tensor

import icnn
from icnn import Status

from .examples import Data, random_qp, tensor

EYE = torch.eye(2, dtype=torch.float64)
P = tensor([1.0, -1.0])


def arrays(problem: icnn.QP) -> dict[str, np.ndarray]:
    """The data of one instance, absent groups with no rows, absent bounds infinite."""
    n = problem.p.shape[-1]
    default = dict(G=np.zeros((0, n)), h=np.zeros(0), A=np.zeros((0, n)), b=np.zeros(0))
    default |= dict(lower=np.full(n, -np.inf), upper=np.full(n, np.inf))
    given = {name: getattr(problem, name) for name in default}
    return {name: default[name] if value is None else value.numpy() for name, value in given.items()}


def assert_farkas(problem: icnn.QP, ray) -> None:
    """A'nu + G'lam - lam_lower + lam_upper = 0, multipliers >= 0, b'nu + h'lam - lower'l + upper'u < 0.

    What is left of the first is so little that no |x| below 1e4 makes up for the last.
    """
    data = arrays(problem)
    nu, lam, low, up = (getattr(ray, name).numpy() for name in ("nu", "lam", "lam_lower", "lam_upper"))
    low, up = (part if part.size else np.zeros_like(data["lower"]) for part in (low, up))
    assert min(part.min(initial=0.0) for part in (lam, low, up)) >= 0
    assert not low[np.isinf(data["lower"])].any()
    assert not up[np.isinf(data["upper"])].any()
    bounds = [part @ np.where(np.isfinite(at), at, 0.0) for part, at in ((low, data["lower"]), (up, data["upper"]))]
    row = (lam > 0) & np.isfinite(data["h"])
    assert not lam[~np.isfinite(data["h"])].any()
    value = data["b"] @ nu + data["h"][row] @ lam[row] - bounds[0] + bounds[1]
    assert -np.inf < value < 0
    assert 1e4 * abs(data["A"].T @ nu + data["G"].T @ lam - low + up).max() <= -value


def assert_recession(problem: icnn.QP, ray, tol: float = 1e-7) -> None:
    """Q x = 0, p'x < 0, A x = 0, G x <= 0, x >= 0 where lower and x <= 0 where upper is finite."""
    data = arrays(problem)
    Q, p, x = problem.Q.numpy(), problem.p.numpy(), ray.x.numpy()
    Q = np.diag(Q) if Q.ndim == 1 else Q
    size = abs(x).max()
    assert 0 < size < np.inf
    assert abs(Q @ x).max() <= tol * size
    assert abs(data["A"] @ x).max(initial=0.0) <= tol * size
    assert (data["G"] @ x).max(initial=0.0) <= tol * size
    assert x[np.isfinite(data["lower"])].min(initial=0.0) >= -tol * size
    assert x[np.isfinite(data["upper"])].max(initial=0.0) <= tol * size
    assert p @ x < -1e-3 * size * abs(p).max()


def failed(problem: icnn.QP, status: Status) -> icnn.Solution:
    solution = icnn.solve(problem, on_failure="zero")
    assert Status(int(solution.status)) is status
    with pytest.raises(icnn.SolverError, match=status.name):
        icnn.solve(problem)
    return solution


INFEASIBLE = {
    "equalities": dict(A=tensor([[1.0, 1.0], [2.0, 2.0]]), b=tensor([1.0, 3.0])),
    "inequalities": dict(G=tensor([[1.0, 1.0], [-1.0, -1.0]]), h=tensor([1.0, -2.0])),
    "three inequalities": dict(G=tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]), h=tensor([1.0, 1.0, -3.0])),
    "inequality and equality": dict(G=tensor([[1.0, 1.0]]), h=tensor([0.0]), A=tensor([[1.0, 1.0]]), b=tensor([1.0])),
    "bounds and equality": dict(
        A=tensor([[1.0, 1.0]]), b=tensor([5.0]), lower=tensor([0.0, 0.0]), upper=tensor([1.0, 2.0])
    ),
    "lower bounds and inequality": dict(G=tensor([[1.0, 1.0]]), h=tensor([-1.0]), lower=tensor([0.0, 0.0])),
    "upper bounds and inequality": dict(G=tensor([[-1.0, 0.0]]), h=tensor([-2.0]), upper=tensor([1.0, 9.0])),
    "crossed bounds": dict(lower=tensor([0.0, 1.0]), upper=tensor([1.0, 0.0])),
    "hardly crossed bounds": dict(lower=tensor([0.0, 1e-9]), upper=tensor([1.0, 0.0])),
    "zero row": dict(G=tensor([[0.0, 0.0]]), h=tensor([-1.0])),
    "zero equality": dict(A=tensor([[0.0, 0.0]]), b=tensor([1.0])),
    "fixed variables and equality": dict(
        A=tensor([[1.0, 1.0]]), b=tensor([1.0]), lower=tensor([0.0, 0.0]), upper=tensor([0.0, 0.0])
    ),
    "an infinite row beside": dict(
        G=tensor([[3.0, 1.0], [1.0, 0.0]]), h=tensor([torch.inf, -1.0]), lower=tensor([0.0, -torch.inf])
    ),
}


@pytest.mark.parametrize("name", INFEASIBLE)
def test_infeasible(name: str) -> None:
    problem = icnn.QP(EYE, P, **INFEASIBLE[name])
    assert_farkas(problem, failed(problem, Status.PRIMAL_INFEASIBLE).ray)


@pytest.mark.parametrize("cost", [torch.zeros_like(EYE), EYE[1]], ids=["no curvature", "some"])
@pytest.mark.parametrize("name", ["equalities", "lower bounds and inequality", "an infinite row beside"])
def test_infeasible_with_a_singular_cost(name: str, cost: Tensor) -> None:
    problem = icnn.QP(cost, P, **INFEASIBLE[name])
    assert_farkas(problem, failed(problem, Status.PRIMAL_INFEASIBLE).ray)


UNBOUNDED = {
    "free": icnn.LP(P),
    "ray in a cone": icnn.LP(P, G=tensor([[1.0, -1.0]]), h=tensor([0.0])),
    "lower bounds": icnn.LP(P, lower=tensor([0.0, 0.0])),
    "upper bounds": icnn.LP(P, upper=tensor([5.0, torch.inf])),
    "along an equality": icnn.LP(P, A=tensor([[1.0, 1.0]]), b=tensor([1.0])),
    "flat direction of Q": icnn.QP(tensor([[1.0, 1.0], [1.0, 1.0]]), P),
    "flat direction of a diagonal": icnn.QP(tensor([1.0, 0.0]), P, lower=tensor([0.0, 0.0])),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_unbounded(name: str) -> None:
    problem = UNBOUNDED[name]
    assert_recession(problem, failed(problem, Status.DUAL_INFEASIBLE).ray)


@pytest.mark.parametrize(
    "Q", [tensor([1.0, -1e-3]), tensor([[1.0, 0.0], [0.0, -1.0]]), tensor([[0.0, 1.0], [1.0, 0.0]]), -EYE]
)
def test_nonconvex(Q: Tensor) -> None:
    problem = icnn.QP(Q, torch.zeros_like(P), lower=-1.0, upper=1.0)
    x = failed(problem, Status.NONCONVEX).ray.x
    Q = Q if Q.dim() > 1 else Q.diag()
    assert x @ Q @ x < 0


def test_rounding_is_no_negative_curvature() -> None:
    root = torch.randn(20, 3, dtype=torch.float64)
    problem = icnn.QP(root @ root.mT, torch.zeros(20, dtype=torch.float64), lower=-1.0, upper=1.0)
    assert icnn.solve(problem).status == Status.OPTIMAL


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["Q", "p", "G", "A", "b"])
def test_nonfinite_data(name: str, value: float) -> None:
    data = random_qp((3,))
    data[name][1].flatten()[0] = value
    if name == "Q":
        data[name][1].fill_(value)
    solution = icnn.solve(icnn.QP(**data), on_failure="zero")
    assert solution.status.tolist() == [Status.OPTIMAL, Status.NONFINITE_INPUT, Status.OPTIMAL]


@pytest.mark.parametrize(
    ("name", "value"), [("h", torch.nan), ("h", -torch.inf), ("lower", torch.nan), ("upper", torch.nan)]
)
def test_nonfinite_right_sides(name: str, value: float) -> None:
    data = random_qp((3,))
    data[name][2, 0] = value
    solution = icnn.solve(icnn.QP(**data), on_failure="zero")
    assert solution.status.tolist() == [Status.OPTIMAL, Status.OPTIMAL, Status.NONFINITE_INPUT]


@pytest.mark.parametrize(("name", "value"), [("lower", torch.inf), ("upper", -torch.inf)])
def test_bounds_beyond_every_number(name: str, value: float) -> None:
    data = random_qp((2,))
    data[name][1, 0] = value
    status = icnn.solve(icnn.QP(**data), on_failure="zero").status
    assert status[0] == Status.OPTIMAL
    assert status[1] in (Status.NONFINITE_INPUT, Status.PRIMAL_INFEASIBLE)


def mixed() -> Data:
    """One instance of every kind: good, infeasible, unbounded, non-convex, nan."""
    Q = torch.zeros(5, 2, 2, dtype=torch.float64)
    Q[0], Q[1], Q[3] = EYE, EYE, -EYE
    p = P.repeat(5, 1)
    p[4, 0] = torch.nan
    G, h = torch.zeros(5, 2, 2, dtype=torch.float64), torch.ones(5, 2, dtype=torch.float64)
    G[:2] = tensor([[1.0, 1.0], [-1.0, -1.0]])
    h[1] = tensor([0.0, -1.0])
    return {"Q": Q, "p": p, "G": G, "h": h}


KINDS = [Status.OPTIMAL, Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE, Status.NONCONVEX, Status.NONFINITE_INPUT]


def test_every_kind_in_one_batch() -> None:
    data = mixed()
    solution = icnn.solve(icnn.QP(**data), on_failure="zero")
    assert solution.status.tolist() == KINDS
    alone = icnn.solve(icnn.QP(**{name: value[0] for name, value in data.items()}))
    torch.testing.assert_close(solution.x[0], alone.x, rtol=0, atol=1e-14)
    assert not solution.ray.x[[0, 1, 4]].any()
    assert not solution.ray.lam[[0, 2, 3, 4]].any()
    for index, check in ((1, assert_farkas), (2, assert_recession)):
        one = icnn.QP(**{name: value[index] for name, value in data.items()})
        check(one, type(solution.ray)(*(part[index] for part in solution.ray)))


def test_the_error_names_all_indices_and_carries_the_solution() -> None:
    with pytest.raises(icnn.SolverError) as caught:
        icnn.solve(icnn.QP(**mixed()))
    message, solution = str(caught.value), caught.value.solution
    for index, status in enumerate(KINDS[1:], start=1):
        assert f"{status.name} at batch indices [({index},)]" in message
    assert solution is not None
    assert solution.status.tolist() == KINDS


def test_indices_of_a_batch_with_two_dimensions() -> None:
    data = random_qp((2, 3), shared=("A", "b", "lower", "upper"))
    data["h"][1, 2] = -100.0
    with pytest.raises(icnn.SolverError, match=r"PRIMAL_INFEASIBLE at batch indices \[\(1, 2\)\]"):
        icnn.solve(icnn.QP(**data))


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_failures_are_recognised_in_other_units(scale: float) -> None:
    infeasible = icnn.QP(EYE, P, G=scale * tensor([[1.0, 1.0], [-1.0, -1.0]]), h=scale * tensor([1.0, -2.0]))
    assert_farkas(infeasible, failed(infeasible, Status.PRIMAL_INFEASIBLE).ray)
    unbounded = icnn.LP(scale * P, lower=tensor([0.0, 0.0]))
    assert_recession(unbounded, failed(unbounded, Status.DUAL_INFEASIBLE).ray)


def test_both_infeasible_and_unbounded_is_called_infeasible_or_unbounded() -> None:
    problem = icnn.LP(P, A=tensor([[1.0, 0.0], [1.0, 0.0]]), b=tensor([0.0, 1.0]))
    assert icnn.solve(problem, on_failure="zero").status in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE)


def test_a_feasible_program_is_not_called_infeasible() -> None:
    """A sliver of width 1e-6 is feasible, one of width -1e-6 is not."""
    for width, status in ((1e-6, Status.OPTIMAL), (-1e-6, Status.PRIMAL_INFEASIBLE)):
        problem = icnn.QP(EYE, P, G=tensor([[1.0, 1.0], [-1.0, -1.0]]), h=tensor([1.0, -1.0 + width]))
        assert icnn.solve(problem, on_failure="zero").status == status
