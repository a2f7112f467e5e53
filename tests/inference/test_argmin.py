"""Values of the bundle-entropy inference: the optimum, its bounds, batches, failures and the door."""

from typing import Any

import pytest
import torch
from torch import Tensor

import icnn
from icnn import ConvexNetwork, Status

from .examples import NETWORKS, build, by_bfgs, by_bundle, by_cones, context, energy

every_network = pytest.mark.parametrize("name", NETWORKS)
some_of_both = pytest.mark.parametrize(
    ("name", "activation"), [("FICNN", "relu"), ("PICNN", "relu"), ("PICNN", "softplus"), ("ConvPICNN", "relu")]
)


def instance(x: Tensor | None, index: int) -> Tensor | None:
    return None if x is None else x[index]


def solve(f: ConvexNetwork, x: Tensor | None, **options) -> icnn.ArgminSolution:
    """Five instances, by x or by the starts of a network without x."""
    if x is None:
        options = {"start": torch.full((5, *f.y_shape), 0.5, dtype=torch.float64), **options}
    return by_bundle(f, x, **options)


@every_network
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "softplus"])
def test_optimum_of_an_independent_solver(name: str, activation: str) -> None:
    f = build(name, activation)
    x = context(f, 5)
    solution = solve(f, x, max_iter=15 if activation == "softplus" else 60)
    assert (solution.status == Status.OPTIMAL).all()
    assert solution.y.shape == (5, *f.y_shape)
    assert ((solution.y > 0) & (solution.y < 1)).all()
    torch.testing.assert_close(solution.value, energy(f, x, solution.y.detach()).detach(), rtol=1e-12, atol=1e-12)
    for index in range(2):
        expected = (by_bfgs if activation == "softplus" else by_cones)(f, instance(x, index))
        assert solution.value[index].item() == pytest.approx(expected, rel=1e-8, abs=1e-8)


@every_network
def test_bounds_hold_at_every_budget(name: str) -> None:
    f = build(name)
    x = context(f, 5)
    with torch.no_grad():
        best = solve(f, x, max_iter=60).value
        for budget in (1, 2, 4, 8):
            solution = solve(f, x, max_iter=budget)
            assert (solution.iterations <= budget).all()
            assert (solution.gap >= -1e-12).all()
            assert (solution.value - solution.gap <= best + 1e-9).all()
            assert (solution.value >= best - 1e-9).all()
            open_gap = solution.gap > 1e-9 * (1 + solution.value.abs())
            assert torch.equal(solution.status == Status.MAX_ITERATIONS, open_gap)


@some_of_both
def test_the_same_answer_alone_as_in_a_batch(name: str, activation: str) -> None:
    f = build(name, activation)
    x = context(f, 5)
    start = torch.rand(5, *f.y_shape, dtype=torch.float64)
    max_iter = 40 if activation == "relu" else 8
    together = solve(f, x, start=start, max_iter=max_iter)
    if activation == "relu":
        assert together.iterations.min() < together.iterations.max(), "the instances are equally hard: choose others"
    for index in (0, 3):
        alone = by_bundle(f, instance(x, index), start=start[index], max_iter=max_iter)
        torch.testing.assert_close(alone.y, together.y[index], rtol=1e-8, atol=1e-8)
        assert abs(alone.iterations - together.iterations[index]) <= 1  # rounding may decide the last one


@every_network
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
def test_batch_dimensions(name: str, batch: tuple[int, ...]) -> None:
    f = build(name)
    start = torch.rand(*batch, *f.y_shape, dtype=torch.float64)
    solution = by_bundle(f, context(f, *batch), start=start)
    assert solution.y.shape == (*batch, *f.y_shape)
    for field in (solution.value, solution.gap, solution.status, solution.iterations, solution.evaluations):
        assert field.shape == batch


def test_starts_are_broadcast_and_lead_to_the_same_optimum() -> None:
    f = build("PICNN")
    x = context(f, 2, 3)
    single = torch.rand(5, dtype=torch.float64)
    shared = by_bundle(f, x, start=single, max_iter=60)
    torch.testing.assert_close(
        shared.y, by_bundle(f, x, start=single.expand(2, 3, 5), max_iter=60).y, rtol=0, atol=1e-10
    )
    torch.testing.assert_close(shared.value, by_bundle(f, x, max_iter=60).value, rtol=1e-8, atol=1e-8)


def test_corners_of_the_box_are_allowed_starts() -> None:
    f = build("FICNN")
    expected = by_bundle(f, max_iter=60).value
    for corner in (torch.zeros(5), torch.ones(5)):
        assert by_bundle(f, start=corner.double(), max_iter=60).value == pytest.approx(expected.item(), abs=1e-8)


def test_affine_energies_are_sigmoids() -> None:
    f = icnn.PICNN(4, 5, (10,), coupling=False).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    zero = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f(x, zero).sum(), zero)
    solution = by_bundle(f, x)
    torch.testing.assert_close(solution.y, torch.sigmoid(-slope), rtol=0, atol=1e-12)
    assert (solution.iterations == 1).all()


@pytest.mark.parametrize("gradient", ["implicit", "none"])
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_grad_mode_does_not_change_the_value(activation: str, gradient: Any) -> None:
    f = build("PICNN", activation)
    x = context(f, 4)
    with torch.no_grad():
        expected = by_bundle(f, x, gradient=gradient)
    solution = by_bundle(f, x, gradient=gradient)
    torch.testing.assert_close(solution.y.detach(), expected.y, rtol=0, atol=1e-8)
    assert torch.equal(solution.value, expected.value)
    assert solution.y.requires_grad == (gradient == "implicit")
    assert not expected.y.requires_grad


@pytest.mark.parametrize("seed", [0, 6, 8, 9])
def test_y_is_the_minimiser_that_value_and_gap_speak_of(seed: int) -> None:
    """A model's minimiser may lie where a unit switches; its tangent must stay the one that was taken there."""
    torch.manual_seed(seed)
    f = icnn.PICNN(4, 5, (10, 8)).double()
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.mul_(1.5)
    for batch in (5, 40):
        x = torch.randn(batch, 4, dtype=torch.float64)
        with torch.no_grad():
            expected = by_bundle(f, x, max_iter=60)
        solution = by_bundle(f, x, max_iter=60)
        assert (solution.status == Status.OPTIMAL).all()
        torch.testing.assert_close(solution.y.detach(), expected.y, rtol=0, atol=1e-8)
        torch.testing.assert_close(solution.value, energy(f, x, solution.y.detach()).detach(), rtol=0, atol=1e-8)


def test_the_callback_sees_every_minimiser() -> None:
    f = build("ConvPICNN")
    x = context(f, 3)
    seen: list[tuple[int, Tensor]] = []
    solution = by_bundle(f, x, callback=lambda iteration, y: seen.append((iteration, y.clone())), max_iter=7)
    assert [iteration for iteration, _ in seen] == list(range(1, int(solution.iterations.max()) + 1))
    assert all(y.shape == (3, 1, 3, 3) for _, y in seen)
    torch.testing.assert_close(seen[-1][1], solution.y.detach(), rtol=0, atol=1e-9)
    for budget in (1, 3):
        stopped = by_bundle(f, x, max_iter=budget)
        torch.testing.assert_close(stopped.y.detach(), seen[budget - 1][1], rtol=0, atol=1e-9)


def test_evaluations_are_counted() -> None:
    f = build("PICNN")
    solution = by_bundle(f, context(f, 3), max_iter=2)
    assert torch.equal(solution.evaluations, solution.iterations + 1)


@pytest.mark.parametrize(("name", "activation"), [("PICNN", "relu"), ("PICNN", "softplus"), ("ConvPICNN", "relu")])
@pytest.mark.parametrize("policy", ["nan", "zero"])
def test_nan_in_one_x_hits_that_instance_alone(name: str, activation: str, policy: Any) -> None:
    f = build(name, activation)
    x = torch.randn(4, *(f.x_shape or ()), dtype=torch.float64)
    good = by_bundle(f, x[[0, 1, 3]])
    expected = torch.autograd.grad(good.y.square().sum(), list(f.parameters()), materialize_grads=True)
    x[2].flatten()[0] = torch.nan
    solution = by_bundle(f, x, on_failure=policy)
    assert solution.status[2] not in (Status.OPTIMAL, Status.MAX_ITERATIONS)
    torch.testing.assert_close(solution.y[[0, 1, 3]], good.y, rtol=0, atol=1e-9)
    assert solution.y[2].isnan().all() == (policy == "nan")
    if policy == "zero":
        found = torch.autograd.grad(solution.y.square().sum(), list(f.parameters()), materialize_grads=True)
        for slope, right in zip(found, expected, strict=True):
            torch.testing.assert_close(slope, right, rtol=1e-7, atol=1e-9)


def test_failures_are_raised_with_their_indices() -> None:
    f = build("PICNN")
    x = context(f, 2, 3)
    assert x is not None
    x[1, 2] = torch.nan
    with pytest.raises(icnn.SolverError, match=r"NONFINITE_INPUT at batch indices \[\(1, 2\)\]"):
        by_bundle(f, x)


def test_a_smooth_energy_must_converge_for_its_gradient() -> None:
    f = build("PICNN", "softplus")
    solution = by_bundle(f, context(f, 2), max_iter=1)
    assert (solution.status == Status.OPTIMAL).all()  # Newton's method finishes what the bundle began
    torch.testing.assert_close(solution.gap, torch.zeros_like(solution.gap), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(regularizer="ridge"), "regularizer must be .*'entropy'.*; got 'ridge'"),
        (dict(regularizer=None), "method='bundle' needs a regularizer; got None"),
        (dict(regularizer=None, method="newton"), "method='newton' needs an f that is twice differentiable"),
        (dict(method="exact"), "method='exact' needs .* no entropy"),
        (dict(method="simplex"), "method must be one of .*; got 'simplex'"),
        (dict(gradient="exact"), "gradient must be one of .*; got 'exact'"),
        (dict(gradient="unrolled"), "gradient='unrolled' needs a first-order method"),
        (dict(method="gradient"), "gradient='implicit' needs .* method 'gradient'"),
        (dict(domain=icnn.Ball()), "entropy, expected a Box or a Simplex; got a Ball"),
        (dict(domain=icnn.Box(0.0, torch.inf)), "needs a box with finite lower < upper"),
        (dict(domain=icnn.Box(torch.zeros(4), 1.0)), r"lower has shape \(4,\), expected a number, \(5,\)"),
        (dict(domain=icnn.Box(torch.zeros(7, 5), 1.0)), r"domain has batch dimensions \(7,\), expected none or \(3,\)"),
        (dict(linear=torch.zeros(2, 5).double()), r"linear has batch dimensions \(2,\), expected none or \(3,\)"),
        (dict(on_failure="ignore"), "on_failure must be one of .*; got 'ignore'"),
        (dict(start=torch.full((5,), 1.5).double()), r"start must lie in the domain"),
        (dict(start=torch.full((5,), -0.1).double()), r"start must lie in the domain"),
        (dict(start=torch.full((5,), torch.nan).double()), r"start must lie in the domain"),
        (dict(start=torch.full((4,), 0.5).double()), r"start has shape \(4,\), expected a number, \(5,\)"),
        (dict(start=torch.full((7, 5), 0.5).double()), r"start .*\(7,\)|start .*\(7, 5\)"),
        (dict(max_iter=0), "max_iter must be .*; got 0"),
        (dict(tol=-1.0), "tol must be .*; got -1.0"),
    ],
)
def test_arguments_that_do_not_fit(options: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the door itself, not the annotation, refuses
    f = build("PICNN")
    with pytest.raises(ValueError, match=message):
        by_bundle(f, context(f, 3), **options)


def test_x_that_does_not_fit() -> None:
    f = build("PICNN")
    with pytest.raises(ValueError, match=r"x has shape \(3, 7\), expected \(\*batch, 4\)"):
        by_bundle(f, torch.zeros(3, 7, dtype=torch.float64))
    with pytest.raises(ValueError, match="PICNN needs x, got None"):
        by_bundle(f)
    with pytest.raises(ValueError, match="FICNN has no x"):
        by_bundle(build("FICNN"), torch.zeros(3, 4, dtype=torch.float64))


def test_a_network_that_awaits_projection_is_refused() -> None:
    f = icnn.PICNN(4, 5, (6,), positivity="project").double()
    with torch.no_grad():
        f.layers[-1].path.raw.sub_(1.0)  # pyright: ignore
    with pytest.raises(ValueError, match=r"not convex in y.*project_"):
        by_bundle(f, context(f, 2))
    assert (by_bundle(icnn.project_(f), context(f, 2), max_iter=60).gap < 1e-6).all()


@pytest.mark.parametrize("activation", ["elu", "squared_relu"])
def test_neither_smooth_nor_piecewise_linear_has_no_implicit_gradient(activation: str) -> None:
    f = build("PICNN", activation)
    x = context(f, 2)
    with pytest.raises(ValueError, match=f"needs a smooth f, .*activation '{activation}'"):
        by_bundle(f, x)
    solution = by_bundle(f, x, gradient="none", max_iter=80)
    assert (solution.gap < 1e-3).all()
    assert not solution.y.requires_grad


@some_of_both
def test_float32_networks(name: str, activation: str) -> None:
    f = build(name, activation)
    x = context(f, 3)
    single = build(name, activation).float()
    solution = by_bundle(single, None if x is None else x.float(), max_iter=15)
    assert solution.y.dtype == torch.float32
    same = single.double()
    exact = by_bundle(same, None if x is None else x.float().double(), max_iter=15)
    torch.testing.assert_close(solution.y.double(), exact.y, rtol=0, atol=1e-3)
    torch.testing.assert_close(solution.value.double(), exact.value.double(), rtol=1e-5, atol=1e-5)


def test_repr_counts_statuses() -> None:
    f = build("PICNN")
    x = context(f, 3)
    assert repr(by_bundle(f, x, max_iter=60)) == "ArgminSolution(y: (3, 5), status: 3 OPTIMAL, method: bundle)"
    assert "3 MAX_ITERATIONS" in repr(by_bundle(f, x, max_iter=1))


def test_an_affine_energy_of_many_variables_is_its_own_cut() -> None:
    f = icnn.PICNN(3, 400, (8,), coupling=False).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    solution = icnn.argmin(f, x, regularizer="entropy")
    assert solution.method == "bundle"
    assert (solution.evaluations <= 2).all()
    slope = torch.func.vmap(torch.func.grad(f, 1))(x, torch.zeros(2, 400, dtype=torch.float64))
    torch.testing.assert_close(solution.y, (-slope).sigmoid())


@pytest.mark.cuda
@every_network
def test_the_same_answer_on_cuda(name: str) -> None:
    f = build(name)
    x = context(f, 3)
    here = by_bundle(f, x)
    there = by_bundle(f.cuda(), None if x is None else x.cuda())
    assert there.y.device.type == "cuda"
    torch.testing.assert_close(there.y.cpu(), here.y, rtol=1e-8, atol=1e-8)
