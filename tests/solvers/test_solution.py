"""What a solve returns, and how it speaks of failures."""

from dataclasses import FrozenInstanceError

import pytest
import torch

import icnn
from icnn.solvers import Residuals, failure_message

from .examples import VALUES, random_bundle, random_lp, random_qp

SHAPES = dict(x=4, nu=1, lam=3, lam_lower=4, lam_upper=4, s=3)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,)], ids=str)
def test_every_field_has_the_batch_dimensions(batch: tuple[int, ...]) -> None:
    solution = icnn.solve(icnn.QP(**random_qp(batch)))
    for name, size in SHAPES.items():
        assert getattr(solution, name).shape == (*batch, size), name
    for name in ("objective", "status", "iterations", "degenerate"):
        assert getattr(solution, name).shape == batch, name
    assert all(residual.shape == batch for residual in (*solution.residuals, solution.residuals.max))
    for name in ("x", "nu", "lam", "lam_lower", "lam_upper"):
        assert getattr(solution.ray, name).shape == (*batch, SHAPES[name]), name
    assert solution.status.dtype == torch.int64
    assert solution.degenerate.dtype == torch.bool


def test_multipliers_of_absent_groups_have_zero_length() -> None:
    data = random_qp((2,))
    solution = icnn.solve(icnn.QP(data["Q"], data["p"], upper=data["upper"]))
    for name in ("nu", "lam", "lam_lower", "s"):
        assert getattr(solution, name).shape == (2, 0), name
    assert solution.lam_upper.shape == (2, 4)


def test_values_satisfy_their_definitions() -> None:
    data = random_qp((3,))
    solution = icnn.solve(icnn.QP(**data))
    torch.testing.assert_close(solution.s, data["h"] - (data["G"] @ solution.x.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(solution.objective, icnn.QP(**data).objective(solution.x))
    for name in ("lam", "lam_lower", "lam_upper"):
        assert (getattr(solution, name) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "make"), [(icnn.QP, random_qp), (icnn.LP, random_lp), (icnn.EntropyBundle, random_bundle)]
)
def test_dtype_in_is_dtype_out(dtype: torch.dtype, kind, make) -> None:
    solution = icnn.solve(kind(**{name: value.to(dtype) for name, value in make((2,)).items()}))
    assert {getattr(solution, name).dtype for name in VALUES} == {dtype}
    assert {part.dtype for part in solution.ray} == {dtype}


def test_a_solution_is_immutable_and_tells_its_statuses() -> None:
    data = random_qp((3,), shared=("A", "b", "lower", "upper"))
    data["h"][1] = -100.0
    solution = icnn.solve(icnn.QP(**data), on_failure="zero")
    assert repr(solution) == "Solution(x: (3, 4), status: 2 OPTIMAL, 1 PRIMAL_INFEASIBLE, method: active_set, primal)"
    with pytest.raises(FrozenInstanceError):
        solution.x = solution.nu  # pyright: ignore[reportAttributeAccessIssue]


def test_every_status_explains_itself() -> None:
    assert len({status.explanation for status in icnn.Status}) == len(icnn.Status) == 7


def test_the_message_names_kinds_and_indices() -> None:
    status = torch.zeros(2, 3, dtype=torch.int64)
    status[0, 1], status[1, 2] = icnn.Status.PRIMAL_INFEASIBLE, icnn.Status.MAX_ITERATIONS
    message = failure_message(status)
    assert f"PRIMAL_INFEASIBLE at batch indices [(0, 1)]: {icnn.Status.PRIMAL_INFEASIBLE.explanation}" in message
    assert "MAX_ITERATIONS at batch indices [(1, 2)]" in message
    assert "OPTIMAL at" not in message.replace("SUBOPTIMAL", "")
    assert "batch" not in failure_message(torch.tensor(int(icnn.Status.NONCONVEX)))


def test_a_long_list_of_indices_is_cut() -> None:
    message = failure_message(torch.full((100,), int(icnn.Status.NUMERICAL)))
    assert "(7,)" in message
    assert "(8,)" not in message


def test_residuals_max_is_the_largest_and_keeps_nan() -> None:
    parts = torch.tensor([[1.0, 5.0, 2.0, 0.0, 3.0], [0.0, 0.0, torch.nan, 0.0, 1.0]]).unbind(-1)
    assert Residuals(*parts).max[0] == 5
    assert Residuals(*parts).max[1].isnan()
