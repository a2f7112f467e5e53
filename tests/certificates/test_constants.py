"""Constants of curvature and steepness hold at every point, and are sharp where they are known in closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor

import icnn
from icnn.certificates import CurvatureBounds, curvature_bounds
from icnn.networks import (
    FICNN,
    PICNN,
    Activation,
    ConvexNetwork,
    ConvFICNN,
    LogSumExp,
    MaxAffine,
    ResidualICNN,
    centred,
    leaky_relu,
    log_sum_exp,
    maxout,
    norm,
)
from icnn.networks.activations import ACTIVATIONS

from ..networks.test_network import build, every_architecture, point, torch_itself_warns

SMOOTH = ["softplus", "squareplus", "elu", "squared_relu", centred("softplus"), log_sum_exp(2, 0.5)]
every_smooth = pytest.mark.parametrize("activation", SMOOTH, ids=lambda a: getattr(a, "name", a))
BOX = 0.3
ROUNDING = 1e-10


@pytest.fixture(params=["matrices", "vectors"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the largest eigenvalue is bounded: as for few variables, or as for many."""
    if request.param == "vectors":
        monkeypatch.setattr("icnn.certificates.constants.EXPLICIT", 0)
    return request.param


def context(f: ConvexNetwork, *batch: int) -> Tensor | None:
    return None if f.x_shape is None else point(f.x_shape, *batch)


def measured(f: ConvexNetwork, x: Tensor | None, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The extreme eigenvalues of the Hessian, and the norm of the slope, over points (samples, *batch, *y_shape)."""
    batch = () if x is None or f.x_shape is None else x.shape[: x.ndim - len(f.x_shape)]
    least, most, steepest = [], [], []
    for index in np.ndindex(*batch):
        value = f.given(None if x is None else x[index])
        hessian = torch.vmap(torch.func.hessian(value))(points[(slice(None), *index)]).detach()
        size = points[0][index].numel()
        eigenvalues = torch.linalg.eigvalsh(hessian.reshape(-1, size, size))
        slopes = torch.vmap(torch.func.grad(value))(points[(slice(None), *index)]).detach().flatten(1)
        least.append(eigenvalues.min())
        most.append(eigenvalues.max())
        steepest.append(slopes.norm(dim=1).max())
    return tuple(torch.stack(part).reshape(batch) for part in (least, most, steepest))  # pyright: ignore


def holds(found: CurvatureBounds, least: Tensor, most: Tensor, steepest: Tensor) -> bool:
    strong, smooth, steep = found
    fits = (strong <= least + ROUNDING) & (smooth >= most - ROUNDING) & (steep >= steepest - ROUNDING)
    return bool(fits.all())


@torch_itself_warns
@every_architecture
@every_smooth
@pytest.mark.parametrize("options", [{}, dict(quadratic=2, strong_convexity=0.1)], ids=["", "quadratic"])
def test_hold_at_points_everywhere_and_in_a_box(name: str, activation, options: dict, way: str) -> None:
    f = build(name, activation=activation, **options)
    x = context(f, 2)
    batch = () if x is None else (2,)
    everywhere = measured(f, x, torch.cat([point(f.y_shape, 10, *batch, spread=s) for s in (0.1, 1.0, 5.0)]))
    inside = measured(f, x, torch.empty(20, *batch, *f.y_shape, dtype=torch.float64).uniform_(-BOX, BOX))
    of_all, of_box = curvature_bounds(f, x), curvature_bounds(f, x, bounds=(-BOX, BOX))
    assert of_all.smoothness.shape == batch
    assert holds(of_all, *everywhere)
    assert holds(of_box, *inside)
    assert bool((of_box.smoothness <= of_all.smoothness).all())
    assert bool((of_box.lipschitz <= of_all.lipschitz).all())
    assert not holds(CurvatureBounds(of_all[0], 0.9 * everywhere[1], of_all[2]), *everywhere), "the check can fail"


@every_architecture
@pytest.mark.parametrize("activation", ["softplus", "squareplus", "elu"])
def test_useful(name: str, activation: str) -> None:
    """Within an order of magnitude of what is met; in a box within a factor."""
    f = build(name, activation=activation)
    x = context(f)
    _, most, steepest = measured(f, x, point(f.y_shape, 200))
    _, most_inside, _ = measured(f, x, torch.empty(100, *f.y_shape, dtype=torch.float64).uniform_(-BOX, BOX))
    of_all, of_box = curvature_bounds(f, x), curvature_bounds(f, x, bounds=(-BOX, BOX))
    assert of_all.smoothness < 12 * most
    assert of_all.lipschitz < 4 * steepest
    assert of_box.smoothness < 5 * most_inside
    assert of_box.smoothness < of_all.smoothness


def test_a_quadratic_is_known_exactly() -> None:
    f = FICNN(6, (), quadratic=3, strong_convexity=0.2).double()
    eigenvalues = torch.linalg.eigvalsh(torch.func.hessian(f)(torch.zeros(6, dtype=torch.float64)).detach())
    strong, smooth, steep = curvature_bounds(f)
    torch.testing.assert_close(strong, eigenvalues[0], rtol=1e-11, atol=0)
    torch.testing.assert_close(smooth, eigenvalues[-1], rtol=1e-11, atol=0)
    assert steep == torch.inf
    y = torch.where(torch.rand(500, 6) < 0.5, -1.0, 1.0).double()
    slopes = f.given().tangent(y).slope
    assert curvature_bounds(f, bounds=(-1, 1)).lipschitz >= slopes.norm(dim=1).max()


@torch.no_grad()
def one_unit(activation: str, width: float) -> tuple[FICNN, Tensor]:
    """a g(w'y + b) with a = 0.7, and w."""
    f = FICNN(4, (1,), activation, skips=False).double()
    first, last = f.layers
    first.skip.bias.fill_(width)  # pyright: ignore
    last.path.raw.fill_(0.7)  # pyright: ignore
    return f, first.skip.weight[0]  # pyright: ignore


@pytest.mark.parametrize(("activation", "peak"), [("softplus", 0.25), ("squareplus", 0.25), ("elu", 1.0)])
def test_one_unit_is_known_exactly(activation: str, peak: float, way: str) -> None:
    f, w = one_unit(activation, 0.0)
    strong, smooth, steep = curvature_bounds(f)
    assert strong == 0
    torch.testing.assert_close(smooth, 0.7 * peak * w.square().sum(), rtol=1e-4 if way == "vectors" else 1e-11, atol=0)
    torch.testing.assert_close(steep, 0.7 * w.norm())


def test_one_unit_in_a_box_that_its_bend_is_outside_of() -> None:
    f, w = one_unit("softplus", 4.0)
    v = 4 - 0.1 * w.abs().sum()  # where the box comes closest to the bend
    smooth = curvature_bounds(f, bounds=(-0.1, 0.1)).smoothness
    torch.testing.assert_close(
        smooth, 0.7 * torch.sigmoid(v) * torch.sigmoid(-v) * w.square().sum(), rtol=1e-11, atol=0
    )


def test_squared_relu_is_smooth_in_one_layer_and_not_in_two() -> None:
    f, w = one_unit("squared_relu", 0.0)
    _, smooth, steep = curvature_bounds(f)
    torch.testing.assert_close(smooth, 1.4 * w.square().sum(), rtol=1e-11, atol=0)
    assert steep == torch.inf
    two = curvature_bounds(FICNN(4, (3, 3), "squared_relu"))
    assert two.smoothness == torch.inf
    assert curvature_bounds(FICNN(4, (3, 3), "squared_relu"), bounds=(-1, 1)).smoothness.isfinite()


@every_architecture
@pytest.mark.parametrize(
    "activation", ["relu", leaky_relu(0.2), maxout(2), norm(2)], ids=lambda a: getattr(a, "name", a)
)
def test_kinks_are_infinitely_curved_and_of_finite_slope(name: str, activation, way: str) -> None:
    f = build(name, activation=activation)
    x = context(f)
    strong, smooth, steep = curvature_bounds(f, x)
    assert strong == 0
    assert smooth == torch.inf
    assert steep >= measured_slope(f, x, point(f.y_shape, 200))
    assert steep < 40 * measured_slope(f, x, point(f.y_shape, 200))


def measured_slope(f: ConvexNetwork, x: Tensor | None, y: Tensor) -> Tensor:
    energy = f.given(x)
    return energy.tangent(y).slope.flatten(1).norm(dim=1).max()  # pyright: ignore


@pytest.mark.parametrize("activation", ["relu", maxout(2)], ids=lambda a: getattr(a, "name", a))
def test_a_box_without_a_kink_has_no_curvature(activation) -> None:
    f, y = FICNN(3, (5, 4), activation, strong_convexity=0.5).double(), torch.randn(3).double()
    strong, smooth, _ = curvature_bounds(f, bounds=(y - 1e-6, y + 1e-6))
    torch.testing.assert_close(torch.stack((strong, smooth)), torch.full((2,), 0.5, dtype=torch.float64))


def test_norm_away_from_the_origin_is_smooth() -> None:
    """|v| with v = y in the positive quadrant has the eigenvalue 1 / |y|."""
    f = FICNN(2, (1,), norm(2), skips=False).double()
    with torch.no_grad():
        f.layers[0].skip.weight.copy_(torch.eye(2))  # pyright: ignore
        f.layers[0].skip.bias.zero_()  # pyright: ignore
        f.layers[1].path.raw.fill_(1.0)  # pyright: ignore
    smooth = curvature_bounds(f, bounds=(torch.tensor([3.0, 4.0]), 6.0)).smoothness
    torch.testing.assert_close(smooth, torch.tensor(1 / 5, dtype=torch.float64))


def test_one_layer_models() -> None:
    f = MaxAffine(5, 20).double()
    slopes = f.layers[0].skip.weight  # pyright: ignore
    assert curvature_bounds(f).smoothness == torch.inf
    assert slopes.norm(dim=1).max() <= curvature_bounds(f).lipschitz  # pyright: ignore
    assert curvature_bounds(f).lipschitz <= slopes.abs().amax(0).norm() * (1 + 1e-12)  # pyright: ignore
    pair = LogSumExp(3, 2, temperature=0.5).double()
    a, b = pair.layers[0].skip.weight  # pyright: ignore
    exact = (a - b).square().sum() / 4 / 0.5
    assert exact <= curvature_bounds(pair).smoothness <= 0.5 / 0.5 * (a.square().sum() + b.square().sum())


def test_gates_of_the_context_count() -> None:
    f = PICNN(3, 4, (6, 5), "softplus").double()
    x = torch.stack((torch.zeros(3), torch.ones(3), 10 * torch.ones(3))).double()
    found = curvature_bounds(f, x)
    assert len(set(found.smoothness.tolist())) == 3
    assert found.smoothness[2] > 5 * found.smoothness[0], "gates grow with x"
    for i in range(3):
        for ours, alone in zip(found, curvature_bounds(f, x[i]), strict=True):
            torch.testing.assert_close(ours[i], alone, rtol=1e-11, atol=0)
    torch.testing.assert_close(curvature_bounds(f, x.reshape(3, 1, 3)).smoothness, found.smoothness[:, None])
    assert curvature_bounds(f, x[:0]).smoothness.shape == (0,)


def test_closed_gates_leave_what_goes_around_them() -> None:
    f = PICNN(3, 4, (6, 5), "relu").double()
    with torch.no_grad():
        for layer in list(f.layers)[1:]:
            layer.path_gate.weight.zero_()  # pyright: ignore
            layer.path_gate.bias.fill_(-1.0)  # pyright: ignore
    x = torch.randn(3).double()
    _, smooth, steep = curvature_bounds(f, x)
    assert smooth == 0
    torch.testing.assert_close(steep, f.given(x).tangent(torch.zeros(4).double()).slope.norm())


def test_boxes_of_each_instance_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = PICNN(3, 4, (6,), "softplus").double(), torch.randn(5, 3).double()
    lower = torch.randn(5, 4).double()
    upper = lower + torch.linspace(0.1, 5, 5).double()[:, None]
    together = curvature_bounds(f, x, bounds=(lower, upper))
    monkeypatch.setattr("icnn.certificates.constants.ENTRIES", 50)
    parts = curvature_bounds(f, x, bounds=(lower, upper))
    for one, other in zip(together, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    free = FICNN(4, (6,), "softplus").double()
    found = curvature_bounds(free, bounds=(lower, upper))
    assert found.lipschitz.shape == (5,)
    torch.testing.assert_close(found.lipschitz[3], curvature_bounds(free, bounds=(lower[3], upper[3])).lipschitz)


def test_pictures_with_more_variables_than_matrices_are_made_for() -> None:
    f = ConvFICNN((1, 17, 17), ((4, 3, 2),), (6,), "softplus", strong_convexity=0.25, quadratic=2)
    strong, smooth, steep = curvature_bounds(f, bounds=(0, 1))
    assert 0.25 <= float(strong) < float(smooth) < torch.inf
    energy, y = f.given(), torch.rand(20, 1, 17, 17)
    tangent = energy.tangent(y)
    assert steep >= tangent.slope.flatten(1).norm(dim=1).max()
    difference = (tangent.slope[:10] - tangent.slope[10:]).flatten(1)
    distance = (y[:10] - y[10:]).flatten(1)
    assert bool((difference.norm(dim=1) <= float(smooth) * distance.norm(dim=1)).all())
    assert bool(((difference * distance).sum(1) >= float(strong) * distance.square().sum(1) * (1 - 1e-5)).all())


@pytest.mark.parametrize("depth", [1, 4])
def test_residual_networks_with_an_activation_at_the_end(depth: int, way: str) -> None:
    f = ResidualICNN(3, 5, depth, activation="softplus", output="softplus").double()
    points = point((3,), 200)
    found, inside = curvature_bounds(f), curvature_bounds(f, bounds=(points.amin(0), points.amax(0)))
    assert 0 < float(inside.smoothness) <= float(found.smoothness) < torch.inf
    for bounds in (found, inside):
        assert holds(bounds, *measured(f, None, points))


@pytest.mark.parametrize("name", [name for name, g in ACTIVATIONS.items() if g.curvature is not None])
def test_curvature_of_activations_is_that_of_autograd(name: str) -> None:
    """The largest second derivative over an interval, and attained."""
    g = ACTIVATIONS[name]
    assert g.curvature is not None
    lower = torch.tensor([-5.0, -2.0, -0.5, 0.5, 1.0, -1.0]).double()
    upper = torch.tensor([-4.0, 1.0, -0.2, 0.7, 6.0, 0.0]).double()
    v = lower + (upper - lower) * torch.linspace(1e-9, 1 - 1e-9, 20001).double()[:, None]
    second = torch.func.vmap(torch.func.vmap(torch.func.grad(torch.func.grad(g.function))))(v)
    torch.testing.assert_close(g.curvature(lower, upper), second.amax(0), rtol=1e-4, atol=1e-9)
    inf = torch.tensor([torch.inf]).double()
    assert g.curvature(-inf, inf) >= second.max()


@pytest.mark.parametrize("unit", [log_sum_exp(3, 0.5), maxout(3), norm(3)], ids=lambda unit: unit.name)
def test_curvature_of_units_is_an_upper_bound(unit: Activation) -> None:
    assert unit.curvature is not None
    lower = torch.randn(200, 3).double() + 1
    upper = lower + torch.rand(200, 3).double()
    bound = unit.curvature(lower, upper)
    assert bool(bound.isfinite().all(-1).any())
    for _ in range(20):
        v = lower + (upper - lower) * torch.rand(200, 3).double()
        hessian = torch.func.vmap(torch.func.hessian(unit.function))(v)
        gap = torch.diag_embed(bound.masked_fill(bound.isinf(), 1e6)) - hessian
        assert torch.linalg.eigvalsh(gap).min() > -1e-9


@pytest.mark.parametrize("name", [name for name, g in ACTIVATIONS.items() if g.recession is not None])
def test_recession_is_the_limit(name: str) -> None:
    g, t = ACTIVATIONS[name], torch.tensor([-3.0, -0.5, 0.0, 0.5, 2.0]).double()
    assert g.recession is not None
    far = (g(1e6 * t) - g(torch.zeros_like(t))) / 1e6
    torch.testing.assert_close(g.recession(t).clamp_max(1e5), far.clamp_max(1e5), rtol=1e-5, atol=1e-5)


def test_an_activation_that_does_not_tell() -> None:
    own = Activation("own", torch.nn.functional.softplus, convex=True, nondecreasing=True, smooth=True)
    f = FICNN(3, (4, 4), own)
    assert curvature_bounds(f)[1:] == (torch.inf, torch.inf)
    _, smooth, steep = curvature_bounds(f, bounds=(-1, 1))
    known = curvature_bounds(FICNN(3, (4, 4), "softplus"), bounds=(-1, 1))
    assert smooth == torch.inf
    assert 0 < float(steep) < 10 * float(known.lipschitz), (
        "between the ends of an interval the slopes of a convex g lie"
    )


def test_what_is_refused() -> None:
    f = FICNN(3, (4,), positivity="project")
    for bounds, message in (
        ((1.0, 0.0), "bounds are contradictory, expected lower <= upper"),
        ((0.0, torch.nan), "bounds are contradictory"),
        ((0.0, torch.inf), "bounds are infinite, expected finite"),
        ((torch.zeros(2), 1.0), r"bounds have shapes \(2,\) and \(\), expected numbers, \(3,\) or \(\*batch, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            curvature_bounds(f, bounds=bounds)
    with pytest.raises(ValueError, match="PICNN needs x, got None"):
        curvature_bounds(PICNN(2, 3, (4,)))
    with pytest.raises(ValueError, match=r"bounds have shapes \(4, 3\) and \(\), expected numbers, \(3,\) or \(5, 3\)"):
        curvature_bounds(PICNN(2, 3, (4,)), torch.zeros(5, 2), bounds=(torch.zeros(4, 3), 1.0))
    with torch.no_grad():
        f.layers[1].path.raw.neg_()  # pyright: ignore
    with pytest.raises(ValueError, match="f is not convex in y"):
        curvature_bounds(f)


def test_an_energy_without_layers_is_refused() -> None:
    class Square(FICNN):
        def given(self, x=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            return lambda y: y.square().sum(-1)

    with pytest.raises(TypeError, match="Square has an energy of its own"):
        curvature_bounds(Square(3, (4,)))


def test_weights_that_are_not_finite_promise_nothing() -> None:
    f = FICNN(3, (4,), "softplus", quadratic=1).double()
    with torch.no_grad():
        f.layers[0].skip.weight[0, 0] = torch.nan  # pyright: ignore
    _, smooth, steep = icnn.curvature_bounds(f, bounds=(0, 1))
    assert smooth == steep == torch.inf
