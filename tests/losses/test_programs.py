"""Stand-ins for the minimiser of a linear program, losses and regret: closed forms, HiGHS, finite differences."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import icnn
from icnn.losses import LinearDecision, PerturbedDecision, SPOPlus, log_barrier, perturbed, regret, ridge
from icnn.solvers import central_point

ROOT = Path(__file__).parents[2]
BOX = LinearDecision(lower=0.0, upper=1.0)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def simplex(n: int, **options) -> LinearDecision:
    return LinearDecision(A=torch.ones(1, n).double(), b=torch.ones(1).double(), lower=0.0, **options)


def shortest_path(side: int = 5) -> LinearDecision:
    """Right and down over a grid from corner to corner: flows with one redundant equality."""
    node = torch.arange(side * side).reshape(side, side)
    arcs = torch.cat(
        (
            torch.stack((node[:, :-1], node[:, 1:]), -1).reshape(-1, 2),
            torch.stack((node[:-1], node[1:]), -1).reshape(-1, 2),
        )
    )
    nodes = torch.arange(side * side).unsqueeze(-1)
    A = (arcs[:, 0] == nodes).double() - (arcs[:, 1] == nodes).double()
    b = torch.zeros(side * side).double()
    b[0], b[-1] = 1.0, -1.0
    return LinearDecision(A=A, b=b, lower=0.0)


def polytope(**options) -> LinearDecision:
    """Rows of every kind, one equality repeated."""
    G, A = randn(5, 4), randn(1, 4)
    h, b = torch.rand(5).double() + 0.5, torch.zeros(2).double()
    return LinearDecision(G, h, torch.cat((A, 2 * A)), b, -torch.ones(4).double(), 1.0, **options)


def minimum(decision: LinearDecision, c: Tensor) -> float:
    """The optimal value by HiGHS."""
    data = {name: v.numpy() if isinstance(v, Tensor) else v for name, v in decision.constraints.items()}
    low, up = (
        np.broadcast_to(np.nan if data[name] is None else data[name], c.shape).astype(float)
        for name in ("lower", "upper")
    )
    bounds = np.stack((np.nan_to_num(low, nan=-np.inf), np.nan_to_num(up, nan=np.inf)), -1)
    return linprog(c.numpy(), data["G"], data["h"], data["A"], data["b"], bounds).fun


@pytest.mark.parametrize("method", ["auto", "dual"])
def test_shortest_paths_are_those_of_highs_and_whole(method) -> None:
    decision = LinearDecision(**shortest_path().constraints, method=method)
    c = torch.rand(32, 40).double() + 0.5
    x = decision(c)
    assert (x * c).sum(-1).tolist() == pytest.approx([minimum(decision, cost) for cost in c], abs=1e-12)
    torch.testing.assert_close(x, x.round(), rtol=0, atol=1e-12)


def test_knapsacks_are_those_of_greed() -> None:
    value, weight = torch.rand(32, 10).double(), torch.rand(10).double() + 0.5
    decision = LinearDecision(weight.unsqueeze(0), weight.sum(-1, keepdim=True) / 3, lower=0.0, upper=1.0)
    order = (value / weight).argsort(-1, descending=True)
    room = weight.sum() / 3 - weight[order].cumsum(-1) + weight[order]
    greedy = torch.zeros_like(value).scatter(-1, order, (room / weight[order]).clamp(0, 1))
    torch.testing.assert_close(decision(-value), greedy, rtol=0, atol=1e-9)


def test_a_tie_gives_a_point_of_the_face_which_is_certified_and_known_as_degenerate() -> None:
    decision, c = simplex(3), double(1.0, 1.0, 2.0)
    solution = decision.solve(c)
    assert solution.status == icnn.Status.OPTIMAL
    assert solution.degenerate
    torch.testing.assert_close(solution.x.sum(), double(1.0)[0])
    assert solution.x[2].abs() < 1e-9
    assert regret(decision, c, double(1.0, 1.0, 0.0)) == pytest.approx(1.0)
    torch.testing.assert_close(ridge(decision, c, 1e-3), double(0.5, 0.5, 0.0), rtol=0, atol=1e-9)  # the shortest
    torch.testing.assert_close(log_barrier(decision, c, 1e-5), double(0.5, 0.5, 0.0), rtol=0, atol=1e-4)
    assert regret(decision, torch.zeros(3).double(), torch.zeros(3).double()) == 0


@pytest.mark.parametrize("tol", [1e-9, 1e-7])
def test_a_near_tie_may_give_a_mixture_which_is_as_good_as_the_vertex(tol: float) -> None:
    gap = torch.logspace(-9, -4, 11, dtype=torch.float64).unsqueeze(-1)
    c = torch.cat((torch.ones_like(gap), 1 + gap, 1 + torch.ones_like(gap)), -1)
    decision = simplex(3, tol=tol)
    torch.testing.assert_close((decision(c) * c).sum(-1), torch.ones(11).double(), rtol=0, atol=tol)
    assert regret(decision, c, c, torch.eye(3).double()[0].expand_as(c)).abs().max() <= tol


@pytest.mark.parametrize(("method", "tol"), [("dual", 1e-9), ("primal", 1e-9), ("dual", 1e-7)])
def test_two_paths_that_nearly_tie_are_solved(method, tol: float) -> None:
    decision = LinearDecision(**shortest_path().constraints, method=method, tol=tol)
    c = torch.rand(100, 40).double() + 0.5
    first = decision(c)
    arc = first.argmax(-1, keepdim=True)
    second = decision(c.scatter_add(-1, arc, torch.full_like(c, 100.0)))
    gap = torch.logspace(-7.5, -5, 100, dtype=torch.float64).unsqueeze(-1)
    c = c.scatter_add(-1, arc, (c * (second - first)).sum(-1, keepdim=True) - gap)
    torch.testing.assert_close((decision(c) * c).sum(-1), (first * c).sum(-1), rtol=0, atol=10 * tol)


@pytest.mark.parametrize("method", ["primal", "dual"])
def test_knapsacks_with_two_items_that_nearly_tie_are_solved(method) -> None:
    weight = torch.rand(20).double() + 0.5
    value = torch.rand(100, 20).double()
    ratio = torch.where(torch.arange(20) < 10, 1.5, 0.5)  # ten fit for sure, then the two that tie
    value = weight * (ratio + 0.4 * value)
    gap = torch.logspace(-11, -5, 100, dtype=torch.float64)
    value[:, 10], value[:, 11] = weight[10], weight[11] * (1 - gap)
    room = weight[:11].sum(-1, keepdim=True) + 0.4 * weight[11]
    decision = LinearDecision(weight.unsqueeze(0), room, lower=0.0, upper=1.0, method=method)
    best = value[:, :11].sum(-1) + 0.4 * value[:, 11]
    torch.testing.assert_close((decision(-value) * value).sum(-1), best, rtol=0, atol=1e-8)


def test_ridge_is_a_projection_and_ends_in_the_vertex() -> None:
    c = randn(6, 4)
    torch.testing.assert_close(ridge(BOX, c, 2.0), (-c / 2).clamp(0, 1), rtol=0, atol=1e-12)
    paths = shortest_path()
    cost = torch.rand(8, 40).double() + 0.5
    torch.testing.assert_close(ridge(paths, cost, 1e-4), paths(cost), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mu", [1e-3, 0.1, 10.0])
def test_barrier_on_box_and_simplex_in_closed_form(mu: float) -> None:
    c = randn(6, 4)
    x = log_barrier(BOX, c, mu)
    torch.testing.assert_close(mu / x - mu / (1 - x), c, rtol=1e-7, atol=1e-7)
    x = log_barrier(simplex(4), c, mu)  # c + nu = mu / x for one nu
    torch.testing.assert_close((mu / x - c).std(-1), torch.zeros(6).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(x.sum(-1), torch.ones(6).double())


def test_barrier_is_within_its_gap_of_the_optimal_value() -> None:
    decision, c = shortest_path(), torch.rand(8, 40).double() + 0.5
    for mu in (1.0, 1e-2, 1e-6):
        excess = (log_barrier(decision, c, mu) * c).sum(-1) - double(*[minimum(decision, cost) for cost in c])
        assert (excess > 0).all()
        assert (excess <= 40 * mu).all()


@pytest.mark.parametrize("mu", [1.0, 1e-2])
def test_barrier_and_ridge_gradients_are_those_of_differences_in_every_datum(mu: float) -> None:
    decision, c = polytope(tol=1e-10), randn(2, 4)
    A, b = decision.A[:1], decision.b[:1]  # pyright: ignore[reportOptionalSubscript]
    data = (c, decision.G, decision.h, A, b, decision.lower, torch.ones(4).double())
    inputs = [t.clone().requires_grad_() for t in data]  # pyright: ignore

    def check(function) -> bool:
        def of_data(c: Tensor, *rows: Tensor) -> Tensor:
            return function(LinearDecision(*rows, tol=1e-10), c, mu)

        return torch.autograd.gradcheck(of_data, inputs, eps=1e-5, atol=1e-6, rtol=1e-5, fast_mode=True)

    assert check(log_barrier)
    assert check(ridge)
    cost = c.clone().requires_grad_()  # with the redundant equality
    assert torch.autograd.gradcheck(lambda c: log_barrier(decision, c, mu), cost, eps=1e-5, atol=1e-6, rtol=1e-5)


def test_barrier_of_a_quadratic_program_and_its_gradient() -> None:
    Q, p = torch.eye(3).double() + 0.3, randn(2, 3).requires_grad_()

    def point(p: Tensor) -> Tensor:
        return central_point(icnn.QP(Q, p, lower=0.0), 0.5, tol=1e-10).x

    x = point(p)
    torch.testing.assert_close(x @ Q + p - 0.5 / x, torch.zeros(2, 3).double(), rtol=0, atol=1e-8)
    assert torch.autograd.gradcheck(point, p, eps=1e-5, atol=1e-6, rtol=1e-5)
    assert torch.autograd.gradcheck(
        lambda q: central_point(icnn.QP(q, p[0].detach(), lower=0.0), 0.5, tol=1e-10).x,
        double(1.0, 2.0, 3.0).requires_grad_(),
        eps=1e-5,
        atol=1e-6,
    )


def test_barrier_without_an_inside_or_a_minimum() -> None:
    c = randn(3)
    flat = LinearDecision(A=torch.ones(1, 3).double(), b=torch.zeros(1).double(), lower=0.0)
    with pytest.raises(icnn.SolverError):
        log_barrier(flat, c)
    with pytest.raises(icnn.SolverError, match="DUAL_INFEASIBLE"):
        log_barrier(LinearDecision(lower=0.0), -c.abs())
    fixed = LinearDecision(lower=double(0.0, 0.5, 0.0), upper=double(1.0, 0.5, 1.0))
    assert log_barrier(fixed, c)[1] == pytest.approx(0.5)


def test_perturbed_on_a_box_has_the_normal_cdf_and_its_density() -> None:
    c, sigma = double(-1.0, -0.2, 0.3, 2.0).requires_grad_(), 0.7
    x = perturbed(BOX, c, sigma, samples=8_000, generator=torch.Generator().manual_seed(1))
    normal = torch.distributions.Normal(0.0, 1.0)
    ratio = -c.detach() / sigma
    torch.testing.assert_close(x.detach(), normal.cdf(ratio), rtol=0, atol=0.025)
    jacobian = torch.stack([torch.autograd.grad(xi, c, retain_graph=True)[0] for xi in x])
    torch.testing.assert_close(jacobian, torch.diag(-normal.log_prob(ratio).exp() / sigma), rtol=0, atol=0.06)


def test_perturbed_draws_by_its_generator_and_for_each_instance_of_the_constraints() -> None:
    decision, c = simplex(4), randn(3, 4)
    first, again = (perturbed(decision, c, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    own = LinearDecision(lower=0.0, upper=torch.rand(5, 4).double())
    assert perturbed(own, c[0]).shape == (5, 4)


@pytest.mark.parametrize("kind", ["path", "polytope"])
def test_regret_is_that_of_highs_and_never_negative(kind: str) -> None:
    decision = shortest_path(3) if kind == "path" else polytope()
    n = 12 if decision.G is None else 4
    predicted, true = torch.rand(10, n).double() + 0.1, torch.rand(10, n).double() + 0.1
    least = double(*[minimum(decision, c) for c in true])
    found = regret(decision, predicted, true)
    torch.testing.assert_close(found, (true * decision(predicted)).sum(-1) - least, rtol=0, atol=1e-9)
    assert (found > -1e-9).all()
    assert found.max() > 1e-3
    relative = regret(decision, predicted, true, relative=True)
    torch.testing.assert_close(relative, found / least.abs(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(regret(decision, true, true), torch.zeros(10).double(), rtol=0, atol=1e-9)


def test_spo_plus_is_above_the_regret_and_zero_at_the_truth() -> None:
    decision = polytope()
    loss = SPOPlus(decision)
    predicted, true = randn(200, 4), randn(200, 4)
    assert (loss(predicted, true) >= regret(decision, predicted, true) - 1e-9).all()
    torch.testing.assert_close(loss(true, true), torch.zeros(200).double(), rtol=0, atol=1e-9)
    given = loss(predicted, true, decision(true))
    torch.testing.assert_close(given, loss(predicted, true))


def test_spo_plus_value_by_highs_and_gradient_by_differences() -> None:
    decision, true = polytope(), randn(2, 4)
    predicted = randn(2, 4).requires_grad_()
    tilted = (2 * predicted - true).detach()
    value = [-minimum(decision, t) - minimum(decision, c) for t, c in zip(tilted, true, strict=True)]
    expected = double(*value) + 2 * (predicted.detach() * decision(true)).sum(-1)
    torch.testing.assert_close(SPOPlus(decision)(predicted, true).detach(), expected, rtol=0, atol=1e-9)
    assert torch.autograd.gradcheck(lambda c: SPOPlus(decision)(c, true), predicted, fast_mode=True)


def test_perturbed_fenchel_young_is_convex_not_negative_and_its_gradient_that_of_differences() -> None:
    decision = polytope()
    best = decision(randn(4))

    def loss(c: Tensor) -> Tensor:
        return PerturbedDecision(decision, 0.5, 6, torch.Generator().manual_seed(3))(c, best)

    left, right = randn(4), randn(4)
    assert loss((left + right) / 2) <= (loss(left) + loss(right)) / 2 + 1e-12
    assert min(loss(left), loss(right)) >= 0
    c = left.requires_grad_()
    assert torch.autograd.gradcheck(loss, c)
    mean = perturbed(decision, left, 0.5, samples=6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(torch.autograd.grad(loss(c), c)[0], (best - mean).detach())


LEARNABLE = {
    "barrier": lambda decision, c: log_barrier(decision, c),
    "perturbed": lambda decision, c: perturbed(decision, c),
    "spo": lambda decision, c: SPOPlus(decision)(c, torch.ones_like(c)),
    "fenchel-young": lambda decision, c: PerturbedDecision(decision)(c, torch.ones_like(c) / c.shape[-1]),
}
every = pytest.mark.parametrize("name", LEARNABLE)


@every
def test_a_second_derivative_is_refused(name: str) -> None:
    c = randn(4).requires_grad_()
    with pytest.raises(RuntimeError, match="second order"):
        torch.autograd.grad(LEARNABLE[name](simplex(4), c).square().sum(), c, create_graph=True)


def test_the_second_derivative_of_the_ridge_is_right() -> None:
    c = randn(2, 4).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda c: ridge(simplex(4), c, 3.0).pow(2), c)


@pytest.mark.parametrize("name", [*LEARNABLE, "ridge"])
def test_one_bad_instance_and_the_policies(name: str) -> None:
    function = {**LEARNABLE, "ridge": ridge}[name]
    c = randn(3, 4)
    c[1, 2] = torch.nan
    with pytest.raises(icnn.SolverError, match=r"NONFINITE_INPUT at batch indices \[\(1,\)\]"):
        function(simplex(4), c)
    for policy in ("nan", "zero"):
        leaf = c.clone().requires_grad_()
        value = function(simplex(4, on_failure=policy), leaf)
        (slope,) = torch.autograd.grad(value[::2].sum() if name == "ridge" else value.sum(), leaf)
        assert torch.isfinite(value[::2]).all()
        assert torch.isfinite(slope[::2]).all()
        if policy == "nan":
            assert value[1].isnan().all()
        else:
            assert torch.isfinite(value[1]).all()
            assert not slope[1].any()
    found = regret(simplex(4, on_failure="zero"), c, torch.ones_like(c))
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", [*LEARNABLE, "ridge"])
def test_dtype_of_the_costs(name: str) -> None:
    decision = LinearDecision(A=torch.ones(1, 4), b=torch.ones(1), lower=0.0)
    assert {**LEARNABLE, "ridge": ridge}[name](decision, torch.randn(2, 4)).dtype == torch.float32


def test_what_the_door_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    c = randn(4)
    for call in (lambda: ridge(BOX, c, 0.0), lambda: log_barrier(BOX, c, -1.0), lambda: perturbed(BOX, c, 0.0)):
        with pytest.raises(ValueError, match="must be positive"):
            call()
    with pytest.raises(ValueError, match="samples must be at least 2"):
        perturbed(BOX, c, samples=1)
    learned = LinearDecision(lower=0.0, upper=torch.ones(4).double().requires_grad_())
    with pytest.raises(ValueError, match="constraints are constants here; upper"):
        perturbed(learned, c)
    with pytest.raises(ValueError, match="true is a constant"):
        SPOPlus(BOX)(c, c.clone().requires_grad_())
    with pytest.raises(ValueError, match=r"A must be \(\*batch, rows, 4\)"):
        simplex(5)(c)
    assert repr(SPOPlus(simplex(4))) == "SPOPlus(LinearDecision(A: (1, 4), b: (1,), lower: 0.0))"


def test_the_plain_gradient_of_a_cost_warns_and_names_what_has_one() -> None:
    c = randn(4).requires_grad_()
    one = torch.ones(1, 4).double()
    calls = {
        "solve": lambda: icnn.solve(icnn.LP(c, lower=0.0, upper=1.0)),
        "layer": lambda: icnn.LPLayer()(c, lower=0.0, upper=1.0),
        "decision": lambda: BOX(c),
        "sparse": lambda: icnn.solve(icnn.SparseQP(None, c, one.to_sparse(), one[0, :1], lower=0.0, upper=1.0)),
    }
    for call in calls.values():
        with pytest.warns(icnn.ZeroGradientWarning, match="zero almost everywhere") as caught:
            call()
        named = [name for name in icnn.losses.__all__ if f"icnn.losses.{name}" in str(caught[0].message)]
        assert named == ["PerturbedDecision", "SPOPlus", "log_barrier", "perturbed", "ridge"]


def test_what_does_not_warn() -> None:
    c, one = randn(4).requires_grad_(), torch.ones(1, 4).double()
    icnn.solve(icnn.QP(torch.ones(4).double(), c, lower=0.0))
    icnn.solve(icnn.LP(c.detach(), one.clone().requires_grad_(), one[0, :1], lower=0.0))
    with torch.no_grad():
        icnn.solve(icnn.LP(c, lower=0.0, upper=1.0))
    for function in (*LEARNABLE.values(), ridge):
        function(simplex(4), c)
    regret(BOX, c, c)


def test_the_warning_points_at_the_line_of_the_caller(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # without the hooks of the tests, which stand between caller and callee
    script.write_text(
        "import icnn, torch\n"
        "c = torch.ones(2, requires_grad=True)\n"
        "icnn.solve(icnn.LP(c, lower=0.0, upper=1.0))\n"
        "icnn.LPLayer()(c, lower=0.0, upper=1.0)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    lines = [line for line in done.stderr.decode().splitlines() if "ZeroGradientWarning" in line]
    assert [line.split(": ZeroGradient")[0] for line in lines] == [f"{script}:3", f"{script}:4"]
