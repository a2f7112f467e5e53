"""Separable programs on a box with one equality: exact values, gradients, and when the form does not apply."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, autograd

import icnn
from icnn import Status

from .examples import VALUES, Data, leaves, project_by_sorting, projection, simplex, solver, tensor

gradcheck = partial(autograd.gradcheck, atol=1e-6, rtol=1e-6, fast_mode=True)
gradgradcheck = partial(autograd.gradgradcheck, atol=1e-6, rtol=1e-6, fast_mode=True)


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def _compiled_or_not(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr("icnn.solvers.kernels._calls", lambda: None)


def knapsack(batch: tuple[int, ...] = (), n: int = 6, seed: int = 0, **without: None) -> Data:
    """A feasible separable program; groups named in `without` are left out."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, dtype=torch.float64, generator=generator)

    lower, A = -0.5 * randn(n).abs(), randn(1, n)
    upper = lower + 0.2 + randn(n).abs()
    inside = lower + torch.rand(*batch, n, dtype=torch.float64, generator=generator) * (upper - lower)
    data = {"Q": 0.2 + randn(n).abs(), "p": 2 * randn(n), "A": A, "b": (A * inside.unsqueeze(-2)).sum(-1)}
    data |= {"lower": lower, "upper": upper}
    return {name: value for name, value in data.items() if name not in without}


GROUPS: list[dict[str, Any]] = [
    {},
    {"A": None, "b": None},
    {"lower": None},
    {"upper": None},
    {"lower": None, "upper": None},
    {"A": None, "b": None, "lower": None},
]


@pytest.mark.parametrize("without", GROUPS, ids=lambda groups: "without " + "".join(groups))
@pytest.mark.parametrize("batch", [(), (40,), (2, 3)], ids=str)
def test_the_loop_agrees(batch: tuple[int, ...], without: dict[str, Any]) -> None:
    problem = icnn.QP(**knapsack(batch, **without))
    direct, loop = icnn.solve(problem), icnn.solve(problem, method="dual", tol=1e-12)
    assert direct.method == "closed_form"
    assert direct.residuals.max.max() <= 1e-12
    for name in VALUES:
        torch.testing.assert_close(getattr(direct, name), getattr(loop, name), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 500, 20_000])
def test_projections_are_exact(n: int) -> None:
    point = torch.randn(3, n, dtype=torch.float64) * 2
    torch.testing.assert_close(icnn.solve(simplex(point)).x, project_by_sorting(point), rtol=0, atol=1e-12)
    box = icnn.solve(projection(point, lower=-1.0, upper=0.5))
    assert torch.equal(box.x, point.clamp(-1, 0.5))
    assert box.method == "closed_form"


@pytest.mark.parametrize("without", GROUPS, ids=lambda groups: "without " + "".join(groups))
def test_gradients_of_every_datum(without: dict[str, Any]) -> None:
    data = knapsack((2,), seed=3, **without)
    of = ("x", "objective") if "A" not in data else ("x", "nu", "objective")
    assert gradcheck(solver(icnn.QP, data, of=(*of, "lam_lower", "lam_upper")), leaves(data))
    assert gradgradcheck(solver(icnn.QP, data, of=("x",)), leaves(data))


def test_a_shared_datum_gets_the_sum() -> None:
    data = knapsack((5,))
    shared = data["A"][0].clone().requires_grad_()
    b = (shared * data["upper"].unsqueeze(-2)).sum(-1).detach() * 0.5
    loss = icnn.solve(icnn.QP(**{**data, "A": shared, "b": b})).x.square().sum()
    repeated = shared.detach().expand(5, 1, -1).clone().requires_grad_()
    again = icnn.solve(icnn.QP(**{**data, "A": repeated, "b": b})).x.square().sum()
    loss.backward()
    again.backward()
    assert shared.grad is not None
    assert repeated.grad is not None
    torch.testing.assert_close(shared.grad, repeated.grad.sum(0), rtol=1e-12, atol=1e-12)


def test_what_has_no_closed_form_is_left_to_the_loop() -> None:
    data = knapsack((5,))
    data["Q"][1, 0] = 0.0  # no curvature
    data["b"][2] = 1e3  # out of reach
    data["lower"][3, 0] = data["upper"][3, 0] + 1  # crossed
    data["p"][4, 0] = torch.nan
    solution = icnn.solve(icnn.QP(**data), on_failure="zero")
    infeasible = Status.PRIMAL_INFEASIBLE
    assert solution.status.tolist() == [0, 0, infeasible, infeasible, Status.NONFINITE_INPUT]
    assert solution.method == "closed_form, primal"
    alone = icnn.solve(icnn.QP(**{name: value[0] for name, value in data.items()}))
    assert torch.equal(alone.x, solution.x[0])


def test_a_weakly_active_bound_is_flagged_and_held() -> None:
    p = tensor([0.0, 1.0]).requires_grad_()
    solution = icnn.solve(icnn.QP(torch.ones(2, dtype=torch.float64), p, lower=0.0))
    assert solution.degenerate
    (slope,) = autograd.grad(solution.x.sum(), p)
    torch.testing.assert_close(slope, tensor([0.0, 0.0]), rtol=0, atol=1e-12)


def test_fixed_variables_keep_their_multipliers() -> None:
    bound = tensor([0.3, -0.2]).requires_grad_()
    data = dict(Q=torch.ones(2, dtype=torch.float64), p=tensor([1.0, -2.0]), upper=tensor([0.3, -0.2]))
    solution = icnn.solve(icnn.QP(**data, lower=bound))
    assert torch.equal(solution.x, bound)
    torch.testing.assert_close(solution.lam_lower - solution.lam_upper, tensor([1.3, -2.2]), rtol=0, atol=1e-14)
