"""The compiled kernels against the torch code they stand in for, threads, processes and warm starts."""

import multiprocessing
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import icnn
from icnn import Status
from icnn.solvers.certificate import residuals
from icnn.solvers.forward import factorised, flatten
from icnn.solvers.kernels import calls
from icnn.solvers.program import Bounds, Quadratic

from .examples import VALUES, Data, leaves, random_qp

SIZES = [(1, 0, 0), (4, 3, 1), (12, 20, 5), (40, 60, 10)]
every_size = pytest.mark.parametrize(("n", "m", "q"), SIZES, ids=str)
whether_diagonal = pytest.mark.parametrize("diagonal", [False, True], ids=["matrix", "diagonal"])


def qp(
    batch: tuple[int, ...], n: int, m: int, q: int, diagonal: bool = False, seed: int = 0, scale: float = 1.0
) -> Data:
    """A feasible QP: right-hand sides around a point inside the box; groups without rows are left out."""
    data = random_qp(batch, n, m, q, diagonal=diagonal, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    inside = 0.3 * torch.rand(*batch, n, dtype=torch.float64, generator=generator)
    data["b"] = (data["A"] * inside.unsqueeze(-2)).sum(-1)
    data["h"] = scale * data["h"] + (data["G"] * inside.unsqueeze(-2)).sum(-1)
    absent = {name for name, rows in (("G", m), ("h", m), ("A", q), ("b", q)) if not rows}
    return {name: value for name, value in data.items() if name not in absent}


@every_size
@whether_diagonal
def test_the_loop_agrees(n: int, m: int, q: int, diagonal: bool) -> None:
    problem = icnn.QP(**qp((30,), n, m, q, diagonal))
    direct, loop = icnn.solve(problem, method="active_set"), icnn.solve(problem, method="primal", tol=1e-11)
    assert direct.method == "active_set"
    assert direct.residuals.max.max() <= 1e-10
    assert torch.equal(direct.degenerate, loop.degenerate)
    for name in VALUES:
        torch.testing.assert_close(getattr(direct, name), getattr(loop, name), rtol=1e-8, atol=1e-8)


@every_size
@whether_diagonal
def test_the_certificate_is_the_same(n: int, m: int, q: int, diagonal: bool) -> None:
    problem = icnn.QP(**qp((5,), n, m, q, diagonal))
    program = flatten(problem.program)
    x, nu, lam = torch.randn_like(program.p), torch.randn_like(program.b), torch.randn_like(program.d)
    lam[0, 0] = 0.0
    expected = torch.stack(residuals(Quadratic(), program, problem.bounds, x, nu, lam), -1)
    found = calls.certify(calls.arrays_of(program), problem.bounds, x.numpy(), nu.numpy(), lam.numpy())
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("where", range(6))
def test_the_certificate_keeps_nan(where: int) -> None:
    problem = icnn.QP(**qp((3,), 4, 3, 1))
    data = [t.clone() for t in flatten(problem.program)]
    data[where][1] = torch.nan
    point = [torch.ones_like(data[i]).numpy() for i in (1, 3, 5)]
    found = calls.certify(calls.arrays_of(type(problem.program)(*data)), problem.bounds, *point)
    assert np.isnan(found).any(-1).tolist() == [False, True, False]


@every_size
@whether_diagonal
def test_the_adjoint_system_is_that_of_the_operator(n: int, m: int, q: int, diagonal: bool) -> None:
    problem = icnn.QP(**qp((9,), n, m, q, diagonal))
    program, bounds = flatten(problem.program), problem.bounds
    found = calls.solve_active_set(program, bounds, None)
    assert found["done"].all()
    program = program._replace(
        p=torch.randn_like(program.p), b=torch.randn_like(program.b), d=torch.randn_like(program.d)
    )
    c, error = calls.solve_active_kkt(program, bounds, found["U"], found["w"])
    assert error.max() <= 1e-12
    kkt = factorised("primal", program.Q, program, bounds, found["w"])
    expected, _ = kkt.solve(torch.cat((-program.p, program.b, program.d), -1))
    torch.testing.assert_close(c, expected, rtol=1e-7, atol=1e-7)


def test_dependent_active_rows_are_admitted() -> None:
    data = qp((2,), 3, 2, 0)
    bounds = Bounds(False, False)
    data["G"][1, 1] = 2 * data["G"][1, 0]
    program = flatten(icnn.QP(data["Q"], data["p"], data["G"], data["h"]).program)
    U = torch.linalg.cholesky(program.Q).mT.contiguous()
    _, error = calls.solve_active_kkt(program, bounds, U, torch.zeros_like(program.d))
    assert torch.isfinite(error).tolist() == [True, False]


@pytest.mark.parametrize("shared", ["Q", "G", "A"])
def test_shared_matrices_get_the_sum(shared: str) -> None:
    data = qp((6,), 5, 4, 1, seed=1)
    one = data[shared][0].clone()
    data["h"] += 1.0  # feasible for any of the matrices

    def losses(matrix: torch.Tensor) -> torch.Tensor:
        matrix = 0.5 * (matrix + matrix.mT) if shared == "Q" else matrix
        b = (matrix if shared == "A" else data["A"]).detach().sum(-1) * 0.1
        solution = icnn.solve(icnn.QP(**{**data, shared: matrix, "b": b.expand(6, 1)}), tol=1e-12)
        assert solution.method == "active_set"
        return solution.x.square().sum() + solution.lam.sum()

    leaf = one.clone().requires_grad_()
    losses(leaf).backward()
    assert leaf.grad is not None
    direction = torch.randn_like(one)
    step = 1e-6
    slope = (losses(one + step * direction) - losses(one - step * direction)) / (2 * step)
    if shared != "A":  # b moves with A in the differences, and is held in the gradient
        torch.testing.assert_close((leaf.grad * direction).sum(), slope, rtol=1e-6, atol=1e-7)
    repeated = one.expand(6, *one.shape).clone().requires_grad_()
    losses(repeated).backward()
    assert repeated.grad is not None
    torch.testing.assert_close(leaf.grad, repeated.grad.sum(0), rtol=1e-10, atol=1e-10)


def test_threads_do_not_change_the_answer() -> None:
    problem = icnn.QP(**qp((64,), 30, 30, 5))
    threads = torch.get_num_threads()
    answers = []
    for count in (1, 3):
        torch.set_num_threads(count)
        answers.append(icnn.solve(problem).x)
    torch.set_num_threads(threads)
    assert torch.equal(*answers)


class Solutions(Dataset):
    """Item i is the answer of one solve."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        return icnn.solve(icnn.QP(**qp((3,), 6, 4, 1, seed=i))).x


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform")
def test_workers_of_a_loader_solve_after_a_fork() -> None:
    problem = icnn.QP(**qp((64,), 30, 30, 5))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    icnn.solve(problem)  # the parent has started its threads
    torch.set_num_threads(threads)
    loaded = list(DataLoader(Solutions(), batch_size=None, num_workers=2, multiprocessing_context="fork"))
    for i, x in enumerate(loaded):
        assert torch.equal(x, Solutions()[i])


@pytest.mark.parametrize("method", ["active_set", "primal"])
def test_a_warm_start_saves_iterations(method) -> None:
    data = qp((16,), 30, 40, 4)
    solve = partial(icnn.solve, method=method)
    before = solve(icnn.QP(**data))
    data["p"] = data["p"] + 1e-4 * torch.randn_like(data["p"])
    cold, warm = solve(icnn.QP(**data)), solve(icnn.QP(**data), warm_start=before)
    torch.testing.assert_close(warm.x, cold.x, rtol=1e-9, atol=1e-9)
    assert warm.iterations.double().mean() < 0.8 * cold.iterations.double().mean()


@pytest.mark.parametrize("method", ["auto", "primal"])
def test_a_misleading_warm_start_does_no_harm(method) -> None:
    data = qp((8,), 12, 20, 3)
    problem, other = icnn.QP(**data), icnn.QP(**qp((8,), 12, 20, 3, seed=7))
    warm = icnn.solve(problem, method=method, warm_start=icnn.solve(other))
    torch.testing.assert_close(warm.x, icnn.solve(problem).x, rtol=1e-8, atol=1e-8)


def test_a_warm_start_of_other_sizes_is_refused() -> None:
    problem = icnn.QP(**qp((2,), 4, 3, 1))
    with pytest.raises(ValueError, match=r"warm_start must solve a problem of these sizes.*\(2, 4\).*got.*\(2, 12\)"):
        icnn.solve(problem, warm_start=icnn.solve(icnn.QP(**qp((2,), 12, 20, 5))))


def test_a_singular_instance_goes_to_the_loop() -> None:
    data = qp((4,), 5, 4, 1)
    data["Q"][2] = 0.0
    solution = icnn.solve(icnn.QP(**data))
    assert solution.method == "active_set, primal"
    assert (solution.status == Status.OPTIMAL).all()
    together = leaves(data)
    x = icnn.solve(icnn.QP(**dict(zip(data, together, strict=True)))).x
    x.square().sum().backward()
    for i in range(4):
        alone = leaves({name: value[i] for name, value in data.items()})
        icnn.solve(icnn.QP(**dict(zip(data, alone, strict=True)))).x.square().sum().backward()
        for whole, part in zip(together, alone, strict=True):
            assert whole.grad is not None
            assert part.grad is not None
            torch.testing.assert_close(whole.grad[i], part.grad, rtol=1e-8, atol=1e-8)


def test_a_degenerate_instance_is_flagged_beside_regular_ones() -> None:
    """At the second instance the third bound is reached with a multiplier of zero."""
    data = qp((3,), 3, 0, 0)
    data["p"][1] = -(data["Q"][1] @ data["upper"][1])
    solution = icnn.solve(icnn.QP(**data), method="active_set")
    assert solution.method == "active_set"
    assert solution.degenerate.tolist() == [False, True, False]
    expected = icnn.solve(icnn.QP(**data), method="primal")
    assert torch.equal(solution.degenerate, expected.degenerate)


def test_finite_differences_through_a_fixed_variable() -> None:
    data = qp((), 4, 3, 1)
    data["lower"][2] = data["upper"][2] = 0.05

    def losses(bound: torch.Tensor) -> torch.Tensor:
        lower = data["lower"].index_copy(0, torch.tensor([2]), bound)
        upper = data["upper"].index_copy(0, torch.tensor([2]), bound)
        return icnn.solve(icnn.QP(**{**data, "lower": lower, "upper": upper}), method="active_set").x.square().sum()

    at = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses(at), at)
    step = 1e-6
    difference = (losses(at.detach() + step) - losses(at.detach() - step)) / (2 * step)
    torch.testing.assert_close(slope[0], difference, rtol=1e-6, atol=1e-8)


def test_a_large_cost_elsewhere_does_not_make_a_slack_weak() -> None:
    """Only x_0 sees the cost of 1e8; the second bound is missed by 1e-3, which is no rounding."""
    p = torch.tensor([-1e8, -0.999], dtype=torch.float64)
    solution = icnn.solve(icnn.QP(torch.eye(2, dtype=torch.float64), p, upper=1.0), method="active_set")
    assert not solution.degenerate
    torch.testing.assert_close(solution.x, torch.tensor([1.0, 0.999], dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_cotangent_that_is_no_number_spoils_its_own_instance_only() -> None:
    data = qp((3,), 5, 4, 1)
    p = data["p"].clone().requires_grad_()
    cotangent = torch.ones_like(p)
    cotangent[1, 0] = torch.nan
    (slope,) = torch.autograd.grad(icnn.solve(icnn.QP(**{**data, "p": p})).x, p, cotangent)
    assert slope.isnan().any(-1).tolist() == [False, True, False]
