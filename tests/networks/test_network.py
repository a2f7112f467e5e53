"""What every architecture promises, whatever its positivity map and activation."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from icnn.networks import (
    CONVEX_ACTIVATIONS,
    FICNN,
    PICNN,
    POSITIVITY,
    Constrained,
    ConvexNetwork,
    ConvFICNN,
    ConvPICNN,
    ResidualICNN,
    project_,
)

CONVS, DENSE = ((3, 3, 1), (4, 2, 2)), (6,)
ARCHITECTURES = {
    "FICNN": lambda **options: FICNN(5, (12, 8), **options),
    "PICNN": lambda **options: PICNN(4, 5, (12, 8), **options),
    "ConvFICNN": lambda **options: ConvFICNN((1, 4, 3), CONVS, DENSE, **options),
    "ConvPICNN": lambda **options: ConvPICNN((2, 4, 3), (1, 4, 3), CONVS, DENSE, **options),
    "signal FICNN": lambda **options: ConvFICNN((2, 7), CONVS, DENSE, **options),
    "signal PICNN": lambda **options: ConvPICNN((1, 5), (2, 5), CONVS, DENSE, **options),
    "ResidualICNN": lambda **options: ResidualICNN(5, 8, 3, **options),
}
SEGMENTS, ROUNDING = 200, 1e-12

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
every_activation = pytest.mark.parametrize("activation", CONVEX_ACTIVATIONS)
torch_itself_warns = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
two_maps = pytest.mark.parametrize("positivity", ["project", "exp"])  # where the map cannot matter much
every_map = pytest.mark.parametrize("positivity", POSITIVITY)


def build(name: str, **options) -> ConvexNetwork:
    return ARCHITECTURES[name](**options).double()


def point(shape: tuple[int, ...] | None, *batch: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(*batch, *(shape or ()), dtype=torch.float64)


def energy(f: ConvexNetwork, *batch: int):
    return f.given(None if f.x_shape is None else point(f.x_shape, *batch))


@torch.no_grad()
def chords(f: ConvexNetwork) -> tuple[Tensor, Tensor]:
    """By how much f exceeds random chords, and f at their ends."""
    value = energy(f, SEGMENTS)
    y1, y2 = point(f.y_shape, 3, SEGMENTS), point(f.y_shape, 3, SEGMENTS)
    t = torch.rand(3, SEGMENTS, dtype=torch.float64)
    weight = t.reshape(*t.shape, *(1 for _ in f.y_shape))
    ends = torch.stack((value(y1), value(y2)))
    return value(weight * y1 + (1 - weight) * y2) - t * ends[0] - (1 - t) * ends[1], ends


def gaps(f: ConvexNetwork) -> Tensor:
    """By how much f exceeds its chords, relative to its size: none positive if convex."""
    gap, ends = chords(f)
    return gap / (1 + ends.abs().sum(0))


def curvature(f: ConvexNetwork) -> float:
    """The median depth of f below its chords, relative to the spread of f."""
    gap, ends = chords(f)
    return float(-gap.median() / ends.std())


def train(f: ConvexNetwork, steps: int = 3) -> None:
    """Towards a concave target, which pushes the weights towards the border of what is allowed."""
    optimiser = torch.optim.SGD(f.parameters(), lr=0.05)
    for _ in range(steps):
        y = point(f.y_shape, 32, spread=1.0)
        loss = (energy(f, 32)(y) + y.flatten(1).square().mean(1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(f.parameters(), 2.0)
        optimiser.step()
        project_(f)


@every_architecture
@every_map
@every_activation
def test_convex_and_curved_at_the_start_and_after_training(name: str, positivity: str, activation: str) -> None:
    f = build(name, positivity=positivity, activation=activation)
    before = copy.deepcopy(f.state_dict())
    assert curvature(f) > 1e-3, "an affine network would pass the next line"
    for _ in range(2):
        assert gaps(f).max() <= ROUNDING
        assert f.is_convex()
        train(f)
    assert any(not torch.equal(value, before[key]) for key, value in f.state_dict().items())


@every_architecture
def test_negative_weights_break_convexity_so_the_check_can_fail(name: str) -> None:
    f = build(name, positivity="project")
    with torch.no_grad():
        f.layers[-1].path.raw.neg_()  # pyright: ignore
    assert gaps(f).max() > 1e-3
    assert not f.is_convex()
    assert gaps(project_(f)).max() <= ROUNDING


@every_architecture
@pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 3)])
def test_batches_and_extra_leading_dimensions(name: str, batch: tuple[int, ...]) -> None:
    f = build(name)
    x, y = (None if f.x_shape is None else point(f.x_shape, *batch)), point(f.y_shape, 4, 2, *batch)
    values = f.given(x)(y)
    assert values.shape == (4, 2, *batch)
    direct = f(y[1, 0]) if x is None else f(x, y[1, 0])
    torch.testing.assert_close(values[1, 0], direct, rtol=1e-12, atol=1e-12)
    for index in torch.ones(batch).nonzero().tolist():
        alone = f.given(None if x is None else x[tuple(index)])(y[(1, 0, *index)])
        torch.testing.assert_close(values[(1, 0, *index)], alone, rtol=1e-11, atol=1e-12)


@torch_itself_warns
@every_architecture
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_second_derivatives_agree_between_autograd_and_torch_func(name: str, activation: str) -> None:
    f = build(name, activation=activation)
    value, y = energy(f), point(f.y_shape)
    hessian = torch.func.hessian(value)(y)
    reverse = torch.func.jacrev(torch.func.jacrev(value))(y)
    twice = torch.autograd.functional.hessian(value, y)
    torch.testing.assert_close(hessian, twice)
    torch.testing.assert_close(reverse, twice)
    size = y.numel()
    eigenvalues = torch.linalg.eigvalsh(hessian.reshape(size, size))
    assert eigenvalues.min() > -1e-10
    assert (eigenvalues.max() > 1e-3) == f.smooth
    assert f.piecewise_linear == (not f.smooth)


@every_architecture
def test_vmap_and_functional_parameters(name: str) -> None:
    f = build(name)
    value, y = energy(f), point(f.y_shape, 6)
    torch.testing.assert_close(torch.vmap(value)(y), value(y))
    torch.testing.assert_close(
        torch.vmap(torch.func.grad(value))(y), torch.func.grad(lambda points: value(points).sum())(y)
    )
    parameters = {key: 1.5 * tensor for key, tensor in f.named_parameters()}
    inputs = (y,) if f.x_shape is None else (point(f.x_shape, 6), y)
    assert not torch.equal(torch.func.functional_call(f, parameters, inputs), f(*inputs))


@torch_itself_warns
@every_architecture
@every_map
def test_gradient_of_weights_through_a_directional_derivative(name: str, positivity: str) -> None:
    f = build(name, activation="softplus", positivity=positivity)
    value, y, direction = energy(f), point(f.y_shape), point(f.y_shape)
    leaf = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(leaf), leaf, create_graph=True)
    backward = torch.autograd.grad(
        (slope * direction).sum(), list(f.parameters()), retain_graph=True, materialize_grads=True
    )
    tangent = torch.func.jvp(value, (y,), (direction,))[1]
    forward = torch.autograd.grad(tangent, list(f.parameters()), materialize_grads=True)
    torch.testing.assert_close(forward, backward)


@every_architecture
@every_map
def test_copies_pickles_and_states_are_the_same_function(name: str, positivity: str) -> None:
    f = build(name, positivity=positivity, activation="elu")
    x = () if f.x_shape is None else (point(f.x_shape, 3),)
    y = point(f.y_shape, 3)
    loaded = build(name, positivity=positivity, activation="elu")
    buffer = io.BytesIO()
    torch.save(f.state_dict(), buffer)
    buffer.seek(0)
    loaded.load_state_dict(torch.load(buffer), strict=True)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f)), loaded):
        assert torch.equal(other(*x, y), f(*x, y))
        assert repr(other) == repr(f)


@every_architecture
def test_moves_between_dtypes(name: str) -> None:
    f = build(name)
    x = () if f.x_shape is None else (point(f.x_shape, 3),)
    y = point(f.y_shape, 3)
    single = copy.deepcopy(f).to(torch.float32)(*(part.float() for part in x), y.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), f(*x, y), rtol=1e-4, atol=1e-4)


@pytest.mark.cuda
@every_architecture
def test_moves_between_devices(name: str) -> None:
    f = build(name)
    x = () if f.x_shape is None else (point(f.x_shape, 3),)
    y = point(f.y_shape, 3)
    expected = f(*x, y)
    torch.testing.assert_close(f.to("cuda")(*(part.cuda() for part in x), y.cuda()).cpu(), expected)


@every_architecture
def test_every_parameter_matters(name: str) -> None:
    f = build(name, activation="softplus", positivity="softplus")
    energy(f, 50)(point(f.y_shape, 50)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in f.parameters())


@every_architecture
def test_wrong_inputs_are_named(name: str) -> None:
    f = build(name)
    value = energy(f, 3)
    size = ", ".join(map(str, f.y_shape))
    with pytest.raises(ValueError, match=rf"y has shape \(3, .*\), expected \(\*batch, {size}\)"):
        value(torch.rand(3, *(n + 1 for n in f.y_shape)).double())
    with pytest.raises(ValueError, match=r"y has dtype torch.float32, expected .* torch.float64"):
        value(torch.rand(3, *f.y_shape))
    with pytest.raises(ValueError, match="y has device meta, expected that of the network, cpu"):
        value(torch.rand(3, *f.y_shape, dtype=torch.float64, device="meta"))


def test_wrong_x_is_named() -> None:
    f = PICNN(4, 5, (6,))
    with pytest.raises(ValueError, match=r"x has shape \(3, 5\), expected \(\*batch, 4\)"):
        f(torch.rand(3, 5), torch.rand(3, 5))
    with pytest.raises(ValueError, match="PICNN needs x, got None"):
        f.given(None)
    with pytest.raises(ValueError, match="FICNN has no x, expected None"):
        FICNN(5).given(torch.rand(3, 5))
    with pytest.raises(ValueError, match=r"y has batch dimensions \(2,\), expected ones .* with x's \(3,\)"):
        f(torch.rand(3, 4), torch.rand(2, 5))


@pytest.mark.parametrize(
    ("message", "make"),
    [
        (r"y_dim is \(0,\), expected 1 positive integers", lambda: FICNN(0)),
        (r"hidden is \(3, -1\), expected positive integers", lambda: FICNN(2, (3, -1))),
        (r"x_dim is \(0,\)", lambda: PICNN(0, 2)),
        (r"y_shape is \(4,\), expected \(channels, length\) or", lambda: ConvFICNN((4,))),
        (r"convs: .* is \(3, 3, 0\), expected 3", lambda: ConvFICNN((1, 4, 4), ((3, 3, 0),))),
        (r"x_shape is \(1, 4, 4\) and y_shape \(1, 4, 3\)", lambda: ConvPICNN((1, 4, 4), (1, 4, 3))),
    ],
)
def test_wrong_sizes_are_named(message: str, make) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("activation", CONVEX_ACTIVATIONS)
def test_no_hidden_layer_leaves_an_affine_function(activation: str) -> None:
    f = FICNN(3, (), activation)
    assert f.smooth
    assert f.piecewise_linear
    torch.testing.assert_close(f(torch.eye(3)) - f(torch.zeros(3)), f.layers[0].skip.weight[0])  # pyright: ignore


@every_architecture
def test_each_weight_is_mapped_once_for_values_their_slopes_and_the_gradients_of_both(name: str) -> None:
    f, mapped = build(name, positivity="softplus"), []
    parts = [part for part in f.modules() if isinstance(part, Constrained)]
    for part in parts:

        def counted(raw: Tensor, scale: float, forward=part.positivity.forward) -> Tensor:
            mapped.append(raw)
            return forward(raw, scale)

        part.positivity = replace(part.positivity, forward=counted)
    value, y = energy(f, 3), point(f.y_shape, 3).requires_grad_()
    first, second = value(y), value(2 * y.detach())
    (slope,) = torch.autograd.grad(first.sum(), y, create_graph=True)
    (slope.square().sum() + second.sum()).backward()
    assert len(mapped) == len(parts) > 0
