"""Planted failures, and what the door promises of every method: statuses, policies, batches, callbacks, warm starts."""

from typing import Any

import pytest
import torch
from torch import Tensor

import icnn
from icnn import Status

METHODS: dict[str, tuple[str, Any]] = {
    "exact": ("relu", None),
    "bundle": ("relu", "quadratic"),
    "newton": ("softplus", None),
    "quasi_newton": ("softplus", "quadratic"),
    "momentum": ("softplus", "quadratic"),
    "gradient": ("softplus", "quadratic"),
    "adam": ("softplus", "quadratic"),
}
every_method = pytest.mark.parametrize("method", METHODS)
fewer = pytest.mark.parametrize("method", ["exact", "bundle", "newton", "gradient"])


def build(activation: Any = "relu", **options: Any) -> icnn.PICNN:
    torch.manual_seed(0)
    f = icnn.PICNN(3, 4, (5, 4), activation, **options).double()
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.mul_(1.5)
    return f


def context(*batch: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(*batch, 3, dtype=torch.float64)


def solve(method: str, x: Tensor, domain: Any = icnn.Box(-1.0, 1.0), **options: Any) -> icnn.ArgminSolution:  # noqa: B008
    activation, regularizer = METHODS[method]
    f = options.pop("f", None) or build(activation)
    options = dict(gradient="none", max_iter=60 if method != "adam" else 20) | options
    return icnn.argmin(f, x, domain, regularizer=regularizer, method=method, **options)  # pyright: ignore


def names(solution: icnn.ArgminSolution) -> list[str]:
    return [Status(code).name for code in solution.status.tolist()]


@every_method
def test_an_empty_box_is_named_beside_others(method: str) -> None:
    upper = torch.ones(3, 4, dtype=torch.float64)
    upper[1, 2] = -0.5
    solution = solve(method, context(3), icnn.Box(0.0, upper), on_failure="zero")
    assert names(solution)[1] == "PRIMAL_INFEASIBLE"
    assert set(names(solution)[::2]) <= {"OPTIMAL", "MAX_ITERATIONS"}
    with pytest.raises(icnn.SolverError, match=r"PRIMAL_INFEASIBLE at batch indices \[\(1,\)\]"):
        solve(method, context(3), icnn.Box(0.0, upper))


@fewer
def test_an_empty_polytope_is_named(method: str) -> None:
    row = torch.eye(4, dtype=torch.float64)[:1]
    h = torch.tensor([[1.0, 1.0], [-1.0, -0.5 + 2.0], [-1.0, -0.5]], dtype=torch.float64)
    domain = icnn.Polytope(torch.cat((row, -row)), h, lower=-2.0, upper=2.0)
    solution = solve(method, context(3), domain, on_failure="nan", max_iter=10)
    assert names(solution)[2] == "PRIMAL_INFEASIBLE"
    assert "PRIMAL_INFEASIBLE" not in names(solution)[:2]
    assert solution.y[2].isnan().all()
    assert solution.y[:2].isfinite().all()


@pytest.mark.parametrize("method", ["exact", "newton", "quasi_newton", "gradient"])
def test_what_is_unbounded_below_is_not_optimal(method: str) -> None:
    domain = icnn.Polytope(torch.ones(1, 4).double(), torch.zeros(1).double())
    f = build("relu" if method == "exact" else "softplus")
    steep = 5 * torch.ones(4, dtype=torch.float64)
    options: dict[str, Any] = dict(linear=steep, method=method, gradient="none", on_failure="zero", max_iter=20)
    solution = icnn.argmin(f, context(2), domain, **options)
    assert "OPTIMAL" not in names(solution)
    assert solution.gap.isinf().all() or method == "exact"
    if method == "exact":
        assert names(solution) == ["DUAL_INFEASIBLE"] * 2


@pytest.mark.parametrize("method", ["exact", "newton"])
def test_a_bad_x_spoils_its_own_instance_alone(method: str) -> None:
    x, f = context(3), build(METHODS[method][0])
    parameters = list(f.parameters())
    good = solve(method, x[::2], f=f, gradient="implicit")
    expected = torch.autograd.grad(good.y.square().sum(), parameters, materialize_grads=True)
    x[1, 0] = torch.inf
    solution = solve(method, x, f=f, gradient="implicit", on_failure="zero")
    assert names(solution) == ["OPTIMAL", "NONFINITE_INPUT", "OPTIMAL"]
    torch.testing.assert_close(solution.y[::2], good.y, rtol=0, atol=1e-8)
    found = torch.autograd.grad(
        solution.y[::2].square().sum() + solution.y[1].sum(), parameters, materialize_grads=True
    )
    for slope, right in zip(found, expected, strict=True):
        torch.testing.assert_close(slope, right, rtol=1e-6, atol=1e-8)


def test_what_is_not_convex_is_refused() -> None:
    with pytest.raises(ValueError, match="not convex in y"):
        icnn.argmin(icnn.ResidualICNN(3, 4, 2, convex=False), regularizer=None)
    f = icnn.PICNN(3, 4, (5,), positivity="project")
    with torch.no_grad():
        f.layers[-1].path.raw.fill_(-1.0)  # pyright: ignore
    with pytest.raises(ValueError, match=r"not convex in y.*project_"):
        icnn.argmin(f, torch.zeros(3))


@pytest.mark.parametrize("module", [torch.nn.Sequential(torch.nn.Linear(3, 1)), "difference"], ids=str)
def test_what_is_no_convex_network_is_refused(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    if module == "difference":
        module = icnn.DifferenceOfConvex(icnn.FICNN(3, (4,)), icnn.FICNN(3, (4,)))
    with pytest.raises(TypeError, match="expected a ConvexNetwork"):
        icnn.argmin(module)


@every_method
def test_the_same_answer_alone_as_in_a_batch(method: str) -> None:
    x = context(3)
    together = solve(method, x)
    alone = solve(method, x[1])
    torch.testing.assert_close(alone.y, together.y[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(alone.value, together.value[1], rtol=1e-8, atol=1e-8)


@every_method
def test_the_callback_sees_every_iterate(method: str) -> None:
    seen: list[tuple[int, Tensor]] = []
    solution = solve(method, context(2), callback=lambda number, y: seen.append((number, y.clone())))
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) == int(solution.iterations.max())
    assert all(y.shape == (2, 4) for _, y in seen)
    torch.testing.assert_close(seen[-1][1], solution.y, rtol=0, atol=1e-9)


LONG = pytest.mark.xfail(reason="the last steps may be longer than 2 / curvature in other directions", strict=True)


@pytest.mark.parametrize("method", METHODS)
def test_float32_networks(method: str) -> None:
    f = build(METHODS[method][0]).float()
    solution = solve(method, context(2).float(), f=f)
    exact = solve(method, context(2).float().double(), f=f.double())
    assert solution.y.dtype == torch.float32
    torch.testing.assert_close(solution.value.double(), exact.value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("regularizer", ["entropy", "quadratic"])
def test_a_warm_start_saves_models(regularizer: Any) -> None:
    f, x = build(), context(5)
    options: dict[str, Any] = dict(regularizer=regularizer, method="bundle", gradient="none", max_iter=80)
    before = icnn.argmin(f, x, **options)
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.add_(1e-4 * torch.randn_like(parameter))
    cold, warm = icnn.argmin(f, x, **options), icnn.argmin(f, x, warm_start=before, **options)
    assert warm.iterations.sum() < 0.5 * cold.iterations.sum()
    torch.testing.assert_close(warm.value, cold.value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("gradient", "error"), [("unrolled", 1e-4), pytest.param("truncated", 0.1, marks=LONG), ("one_step", 1.0)]
)
def test_derivatives_of_steps_approach_the_implicit_one(gradient: Any, error: float) -> None:
    """After convergence; the fewer steps are followed, the more of the geometric series is left out."""
    f, x = build("softplus"), context(3)
    options: dict[str, Any] = dict(regularizer="quadratic")

    def slopes(**more: Any) -> Tensor:
        y = icnn.argmin(f, x, icnn.Box(-1.0, 1.0), **options, **more).y
        found = torch.autograd.grad(y.square().sum(), list(f.parameters()), materialize_grads=True)
        return torch.cat([slope.flatten() for slope in found])

    exact, followed = slopes(method="newton"), slopes(method="gradient", gradient=gradient, max_iter=60)
    assert (followed - exact).norm() <= error * exact.norm()
