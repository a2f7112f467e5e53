"""Limited-memory BFGS for a batch: the minima, the same alone as in a batch, and an end in every case."""

from functools import partial

import pytest
import torch
from torch import Tensor

from icnn.inference.quasi_newton import minimise as minimise_to

M, N = 6, 12
minimise = partial(minimise_to, precision=torch.finfo(torch.float64).eps)


def quadratics(condition: float) -> tuple[Tensor, Tensor]:
    """Matrices with this condition number, and minimisers."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(M, N, N, dtype=torch.float64)).Q
    values = torch.logspace(0, torch.tensor(condition).log10().item(), N, dtype=torch.float64)
    return (basis * values) @ basis.mT, torch.randn(M, N, dtype=torch.float64)


def functions(Q: Tensor, centre: Tensor):
    def evaluate(y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        away = y - centre[index]
        slope = (Q[index] @ away.unsqueeze(-1)).squeeze(-1)
        return (slope * away).sum(-1) / 2, slope

    return evaluate


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_quadratics_of_any_condition(condition: float) -> None:
    Q, centre = quadratics(condition)
    found, iterations = minimise(functions(Q, centre), torch.zeros_like(centre), torch.full((M,), 1e-8), 500)
    torch.testing.assert_close(found.y, centre, rtol=0, atol=1e-7)  # the least curvature is one
    assert (found.slope.abs().amax(-1) <= 1e-8).all()
    assert (iterations > 0).all()


def test_rosenbrock() -> None:
    def evaluate(y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            value = (1 - leaf[:, 0]).square() + 100 * (leaf[:, 1] - leaf[:, 0].square()).square()
            return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [3.0, -2.0]], dtype=torch.float64)
    found, _ = minimise(evaluate, start, torch.full((3,), 1e-9), 300)
    torch.testing.assert_close(found.y, torch.ones_like(start), rtol=0, atol=1e-8)


def test_alone_as_in_a_batch_and_no_evaluation_after_the_end() -> None:
    Q, centre = quadratics(100.0)
    asked = []

    def watched(y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(index.tolist())
        return functions(Q, centre)(y, index)

    start, tol = torch.zeros_like(centre), torch.tensor([1e-1, 1e-9, 1e-3, 1e-6, 1e9, 1e-4])
    together, steps = minimise(watched, start, tol, 200)
    assert sum(4 in index for index in asked) == 1, "the fifth has ended where it starts"
    assert steps[4] == 0
    for i in range(M):
        alone, own = minimise(functions(Q[i : i + 1], centre[i : i + 1]), start[i : i + 1], tol[i : i + 1], 200)
        torch.testing.assert_close(alone.y[0], together.y[i], rtol=1e-9, atol=1e-12)
        assert own == steps[i]


def test_what_cannot_be_brought_down_is_left_with_its_best_point() -> None:
    def evaluate(y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        value = y.abs().sum(-1)
        slope = y.sign() + (y == 0)  # |y| at its kink, with a slope that is not the least one
        slope[index == 1] = torch.nan
        return value, slope

    start = torch.tensor([[1.0], [1.0], [0.0]], dtype=torch.float64)
    found, iterations = minimise(evaluate, start, torch.full((3,), 1e-6), 50)
    assert found.y.flatten().tolist() == [0.0, 1.0, 0.0]
    assert iterations.tolist()[1:] == [0, 1]


def test_a_budget_is_kept() -> None:
    Q, centre = quadratics(1e4)
    found, iterations = minimise(functions(Q, centre), torch.zeros_like(centre), torch.full((M,), 1e-12), 3)
    assert iterations.tolist() == [3] * M
    assert (functions(Q, centre)(found.y, torch.arange(M))[0] == found.value).all()
