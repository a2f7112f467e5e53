"""Which rows are active, and what is said and returned where that cannot be told."""

import pytest
import torch

import icnn

from .examples import projection, random_qp, tensor


def test_active_rows_are_met_exactly() -> None:
    data = random_qp(n=10, m=8, seed=1)
    solution = icnn.solve(icnn.QP(**data))
    for slack, lam in (
        (solution.s, solution.lam),
        (solution.x - data["lower"], solution.lam_lower),
        (data["upper"] - solution.x, solution.lam_upper),
    ):
        assert ((slack.abs() < 1e-13) | (lam == 0)).all()
        assert (slack > -1e-13).all()
    assert not solution.degenerate


def test_weakly_active_bound_has_the_least_derivative_and_a_flag() -> None:
    """x = max(p, 0) at p = 0: the one-sided derivatives are 0 and 1, the one of least norm is returned."""
    point = tensor([[0.0], [1.0], [-1.0]]).requires_grad_()
    solution = icnn.solve(projection(point, lower=0.0))
    assert solution.degenerate.tolist() == [True, False, False]
    (slope,) = torch.autograd.grad(solution.x.sum(), point)
    torch.testing.assert_close(slope, tensor([[0.0], [1.0], [0.0]]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("distance", [1e-3, 1e-5])
def test_close_to_a_weakly_active_bound_the_side_decides(distance: float) -> None:
    point = tensor([[distance], [-distance]]).requires_grad_()
    solution = icnn.solve(projection(point, lower=0.0))
    assert not solution.degenerate.any()
    (slope,) = torch.autograd.grad(solution.x.sum(), point)
    torch.testing.assert_close(slope, tensor([[1.0], [0.0]]), rtol=0, atol=1e-9)


def test_weakly_active_row_of_g() -> None:
    """min |x - a|^2/2 s.t. x1 + x2 <= 1 with a on the line: the tangential derivative is returned."""
    a = tensor([0.7, 0.3]).requires_grad_()
    solution = icnn.solve(projection(a, G=tensor([[1.0, 1.0]]), h=tensor([1.0])))
    assert solution.degenerate
    (slope,) = torch.autograd.grad(solution.x[0], a)
    torch.testing.assert_close(slope, tensor([0.5, -0.5]), rtol=0, atol=1e-7)


def test_dependent_active_rows_are_flagged_and_share_their_multiplier() -> None:
    """x <= 0 twice: the multiplier 1 may be split at will; the derivative of x with respect to h as well."""
    h = tensor([0.0, 0.0]).requires_grad_()
    solution = icnn.solve(icnn.QP(tensor([[1.0]]), tensor([-1.0]), tensor([[1.0], [1.0]]), h))
    assert solution.degenerate
    assert solution.lam.sum().item() == pytest.approx(1.0, abs=1e-9)
    (slope,) = torch.autograd.grad(solution.x.sum(), h)
    torch.testing.assert_close(slope, tensor([0.5, 0.5]), rtol=0, atol=1e-6)


def test_redundant_equalities_are_flagged_and_x_has_its_derivative() -> None:
    p = tensor([1.0, 2.0]).requires_grad_()
    A, b = tensor([[1.0, 1.0], [2.0, 2.0]]), tensor([1.0, 2.0])
    solution = icnn.solve(icnn.QP(torch.eye(2, dtype=torch.float64), p, A=A, b=b))
    assert solution.degenerate
    (slope,) = torch.autograd.grad(solution.x[0], p)
    torch.testing.assert_close(slope, tensor([-0.5, 0.5]), rtol=0, atol=1e-8)


def test_a_minimiser_that_is_not_unique_is_flagged() -> None:
    """min 0 over the unit box, and a cost along one axis only."""
    for c in ([0.0, 0.0], [1.0, 0.0]):
        solution = icnn.solve(icnn.LP(tensor(c), lower=0.0, upper=1.0))
        assert solution.degenerate
        assert solution.residuals.max <= 1e-9


def test_flags_are_per_instance() -> None:
    data = random_qp((3,), seed=1)
    A, b = data["A"].repeat(1, 2, 1), data["b"].repeat(1, 2)
    A[[0, 2], 1], b[[0, 2], 1] = torch.randn(2, 4, dtype=torch.float64), 0.0
    solution = icnn.solve(icnn.QP(data["Q"], data["p"], A=A, b=b))
    assert solution.degenerate.tolist() == [False, True, False]
