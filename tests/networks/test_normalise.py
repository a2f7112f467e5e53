"""After normalisation every unit has mean 0 and standard deviation 1, whatever the data, and f is of the same kind."""

import copy

import pytest
import torch
from torch import Tensor

import icnn
from icnn.networks import (
    FICNN,
    PICNN,
    Affine,
    ConvexNetwork,
    ConvPICNN,
    DifferenceOfConvex,
    LogSumExp,
    MaxAffine,
    ResidualICNN,
    Signed,
    maxout,
    normalise_,
    report,
)
from icnn.networks.energy import LayeredEnergy
from icnn.networks.picnn import GatedLayer

from .test_network import ROUNDING, build, every_architecture, every_map, gaps, point, train

SCALES = {"small": (1e-3, 50.0), "large": (1e3, 50.0), "mixed": (torch.logspace(-3, 3, 8), -20.0)}
every_scale = pytest.mark.parametrize(("scale", "offset"), SCALES.values(), ids=list(SCALES))


def batch(f: ConvexNetwork, count: int = 60) -> tuple[Tensor, ...]:
    shapes = [f.y_shape] if f.x_shape is None else [f.x_shape, f.y_shape]
    return tuple(3 * point(shape, count) - 1 for shape in shapes)


@torch.no_grad()
def preactivations(f: ConvexNetwork, *inputs: Tensor) -> list[Tensor]:
    """v of each layer, the units, channels or pieces first."""
    *context, y = inputs
    energy, z, found = f.given(*context), None, []
    assert isinstance(energy, LayeredEnergy)
    for step in energy.steps:
        found.append(v := step(z, y))
        image = v if step is energy.steps[-1] else energy.activation(v)
        z = image if energy.residual is None or z is None else z + energy.residual * image
    return [v.flatten(1).T if v.ndim == 2 else v.movedim(1, 0).flatten(1) for v in found]


def are_standard(found: list[Tensor]) -> bool:
    return all(bool((v.mean(1).abs() < 1e-12).all() and ((v.std(1) - 1).abs() < 1e-10).all()) for v in found)


@every_architecture
@every_map
def test_every_unit_is_standard_and_f_stays_what_it_is(name: str, positivity: str) -> None:
    f = build(name, positivity=positivity)
    inputs, keys = batch(f), f.state_dict().keys()
    assert not are_standard(preactivations(f, *inputs))
    assert normalise_(f, *inputs) is f
    assert are_standard(preactivations(f, *inputs))
    assert f.is_convex()
    assert gaps(f).max() <= ROUNDING
    assert f.state_dict().keys() == keys
    value = f(*inputs).detach()
    other = build(name, positivity=positivity)
    other.load_state_dict(f.state_dict())
    assert torch.equal(other(*inputs), value), "nothing is left beside the parameters"
    assert abs(float(value.mean())) < 1e-12
    assert float(value.std()) == pytest.approx(1, abs=1e-10)
    f(*inputs).square().mean().backward()
    assert all(p.grad is not None for p in f.parameters())


@every_architecture
def test_convexity_is_certified_after_it(name: str) -> None:
    f = build(name)
    assert icnn.certify(normalise_(f, *batch(f))).convex


@every_architecture
def test_after_training_and_projection(name: str) -> None:
    f = build(name, positivity="project")
    train(f)
    normalise_(f, *(inputs := batch(f)))
    assert are_standard(preactivations(f, *inputs))
    assert f.is_convex()


@every_architecture
@pytest.mark.parametrize("options", [dict(monotone=1), dict(monotone=-1, positivity="softplus")])
def test_signs_are_kept(name: str, options: dict) -> None:
    f = build(name, **options)
    normalise_(f, *(inputs := batch(f)))
    assert are_standard(preactivations(f, *inputs))
    assert f.is_convex()
    y = inputs[-1].requires_grad_()
    (slope,) = torch.autograd.grad(f(*inputs).sum(), y)
    assert (options["monotone"] * slope >= -1e-14).all()
    assert slope.abs().max() > 1e-3


def test_free_weights_keep_their_signs_among_signed_ones() -> None:
    f = FICNN(3, (6,), monotone=(1, 0, -1)).double()
    before = [layer.skip.weight.sign() for layer in f.layers]  # pyright: ignore
    normalise_(f, 5 * point((3,), 40) + 2)
    assert all(torch.equal(layer.skip.weight.sign(), sign) for layer, sign in zip(f.layers, before, strict=True))  # pyright: ignore


@pytest.mark.parametrize("name", ["FICNN", "PICNN", "ConvFICNN", "ConvPICNN", "ResidualICNN"])
@pytest.mark.parametrize("options", [dict(activation=maxout(3)), dict(skips=False)], ids=["pieces", "no skips"])
def test_pieces_of_units_and_stacks_without_skips(name: str, options: dict) -> None:
    if name == "ResidualICNN":
        options = {key: value for key, value in options.items() if key != "skips"}
    f = build(name, **options)
    normalise_(f, *(inputs := batch(f)))
    found = preactivations(f, *inputs)
    if f.activation.pieces > 1:  # the pieces are the last dimension: from (units, m · space · pieces)
        found = [v.unflatten(1, (-1, 3)).movedim(2, 1).flatten(0, 1) for v in found[:-1]] + found[-1:]
    assert are_standard(found)
    assert gaps(f).max() <= ROUNDING


@pytest.mark.parametrize("f", [MaxAffine(3, 5), LogSumExp(3, 5)], ids=["MaxAffine", "LogSumExp"])
def test_networks_of_one_layer_get_standard_pieces(f: MaxAffine | LogSumExp) -> None:
    normalise_(f.double(), y := 100 * point((3,), 50) + 7)
    v = f.layers[0].skip(y).detach().flatten(1)  # pyright: ignore
    assert v.shape == (50, 5)
    assert are_standard([v.T])


def test_an_ordinary_residual_network_and_an_output_activation() -> None:
    free, y = ResidualICNN(4, 8, 3, convex=False, activation="tanh").double(), 20 * point((4,), 50)
    assert are_standard(preactivations(normalise_(free, y), y))
    bent = normalise_(ResidualICNN(4, 8, 3, output="softplus").double(), y)
    assert are_standard(preactivations(bent, y)), "the argument of the output activation"


@pytest.mark.parametrize("make", [lambda **o: FICNN(3, (8,), **o), lambda **o: PICNN(2, 3, (8,), **o)])
def test_the_quadratic_term_is_left_alone(make) -> None:
    f = make(quadratic=2, strong_convexity=0.5).double()
    before = copy.deepcopy(f.quadratic.state_dict())
    inputs = batch(f)
    normalise_(f, *inputs, output=(-3.0, 0.5))
    assert all(torch.equal(value, before[key]) for key, value in f.quadratic.state_dict().items())
    without = (f(*inputs) - f.quadratic(inputs[-1])(inputs[-1])).detach()
    assert float(without.mean()) == pytest.approx(-3)
    assert float(without.std()) == pytest.approx(0.5)


def of_channels(value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the batch and, where they share a bias, the pixels."""
    value = value.detach()
    flat = value.flatten(2) if bias.ndim > 1 and bias.shape[1:].numel() == 1 else value.flatten(1).unsqueeze(-1)
    return flat.mean((0, 2)), flat.std((0, 2))


@pytest.mark.parametrize("name", ["PICNN", "ConvPICNN", "signal PICNN"])
def test_context_layers_and_gates(name: str) -> None:
    f = build(name)
    assert isinstance(f, PICNN | ConvPICNN)
    x, y = 1e3 * point(f.x_shape, 80) + 50, 1e-2 * point(f.y_shape, 80) + 0.03
    normalise_(f, x, y)
    contexts = [x]
    for layer in f.context:
        assert isinstance(layer, Affine)
        assert layer.bias is not None
        mean, sd = of_channels(v := layer(contexts[-1]), layer.bias)
        assert mean.abs().max() < 1e-12
        assert (sd - 1).abs().max() < 1e-10
        contexts.append(torch.relu(v))
    mean_y, sd_y = y.transpose(0, 1).flatten(1).mean(1), y.transpose(0, 1).flatten(1).std(1)
    damped = 0.5 * sd_y / torch.hypot(mean_y, sd_y)
    assert (damped < 0.45).any()
    for layer, u in zip(f.layers, contexts, strict=True):
        assert isinstance(layer, GatedLayer)
        for gate in (layer.path_gate, layer.skip_gate):
            if gate is not None:
                assert gate.bias is not None
                mean, sd = of_channels(gate(u), gate.bias)
                assert (mean - (0.0 if gate is f.layers[-1].skip_gate else 1.0)).abs().max() < 1e-12
                expected = damped.repeat_interleave(len(sd) // len(damped)) if gate is layer.skip_gate else 0.5
                assert (sd - expected).abs().max() < 1e-10


def test_y_is_not_drowned_by_its_gates() -> None:
    """y ∘ c(x) with y of mean 50 and standard deviation 1/1000 would be a function of x alone."""
    f = PICNN(4, 5, (16, 16)).double()
    x, y = point((4,), 200), 1e-3 * point((5,), 200) + 50
    normalise_(f, x, y)
    with torch.no_grad():
        values = f(x[:, None], y)
    assert values.std(1).mean() > 0.1
    assert values.std(0).mean() > 0.1


@every_scale
def test_eight_layers_keep_the_spread_of_inputs_of_any_scale(scale: float | Tensor, offset: float) -> None:
    f, y = FICNN(8, (64,) * 8).double(), (torch.randn(400, 8) * scale + offset).double()
    found = report(normalise_(f, y), y)
    sds = [layer.sd for layer in found.layers]
    assert max(sds) < 2 * min(sds)
    assert all(layer.dead == 0 for layer in found.layers)
    assert found.layers[-1].cosine < 0.5
    assert found.layers[-1].centred_cosine < 0.9
    fresh = report(FICNN(8, (64,) * 8).double(), y)
    assert not 0.1 < fresh.sd < 10, "without it, f has the scale of its inputs"


def test_every_entry_counts_after_normalisation() -> None:
    scale, names = torch.logspace(-3, 3, 8).double(), ("fresh", "normalised")
    f = FICNN(8, (32, 32)).double()
    y = point((8,), 300, spread=1.0) * scale
    effects = {}
    for name in names:
        if name == "normalised":
            normalise_(f, y)
        leaf = y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(leaf).sum(), leaf)
        effects[name] = slope.abs().mean(0) * scale
    assert effects["fresh"].max() / effects["fresh"].min() > 1e4
    assert effects["normalised"].max() / effects["normalised"].min() < 20


def test_every_entry_of_the_context_counts() -> None:
    scale, f = torch.logspace(-3, 3, 6).double(), PICNN(6, 3, (32, 32)).double()
    x, y = point((6,), 300, spread=1.0) * scale, point((3,), 300)
    normalise_(f, x, y)
    (slope,) = torch.autograd.grad(f(x.requires_grad_(), y).sum(), x)
    effects = slope.abs().mean(0) * scale
    assert effects.max() / effects.min() < 20


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_path_and_skip_keep_the_balance_of_standard_inputs(scale: float) -> None:
    f = PICNN(16, 16, (64,) * 4).double()

    def balance() -> list[float]:
        return [float((layer.skip.weight.norm() / layer.path.weight.norm()).detach()) for layer in list(f.layers)[1:]]  # pyright: ignore

    before = balance()
    normalise_(f, point((16,), 500, spread=1.0), point((16,), 500, spread=scale))
    assert [scale * now for now in balance()] == pytest.approx(before, rel=0.2)


def test_a_second_call_changes_little() -> None:
    f, y = FICNN(8, (32,) * 4).double(), 1e3 * point((8,), 300) + 50
    once = normalise_(f, y)(y).detach()
    twice = normalise_(f, y)(y).detach()
    assert (once - twice).square().mean().sqrt() < 0.1
    x = 1e-3 * point((4,), 300)
    g = PICNN(4, 8, (32,) * 3).double()
    once = normalise_(g, x, y)(x, y).detach()
    twice = normalise_(g, x, y)(x, y).detach()
    assert (once - twice).square().mean().sqrt() < 0.3


def fit(normalise: bool, scale: float | Tensor, offset: float) -> float:
    """RMSE / sd on fresh data of a convex function of badly scaled inputs, after 200 steps."""
    torch.manual_seed(0)
    standard, a = torch.randn(1500, 8), torch.randn(8, 6)
    target = torch.logsumexp(standard @ a, -1)
    y, target = standard * scale + offset, (target - target.mean()) / target.std()
    f = FICNN(8, (32,) * 3)
    if normalise:
        normalise_(f, y[:400])
    optimiser = torch.optim.Adam(f.parameters(), 1e-3)
    for _ in range(200):
        some = torch.randint(1000, (128,))
        loss = (f(y[some]) - target[some]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return float((f(y[1000:]) - target[1000:]).square().mean().sqrt() / target[1000:].std())


@every_scale
def test_training_on_badly_scaled_inputs(scale: float | Tensor, offset: float) -> None:
    fitted, without = fit(True, scale, offset), fit(False, scale, offset)
    assert fitted < 0.85
    assert without > 1.5 * fitted


def test_what_does_not_vary_keeps_its_scale() -> None:
    f, y = FICNN(3, (6, 5)).double(), point((3,), 40)
    y[:, 1] = 50 + 1e-14 * torch.randn(40, dtype=torch.float64)  # rounding, not data
    first = f.layers[0].skip
    assert isinstance(first, Affine)
    with torch.no_grad():
        first.weight[2] = 0
    normalise_(f, y)
    assert bool((first.weight[2] == 0).all())
    assert first.weight[:, 1].abs().max() < 1e3
    assert are_standard([torch.cat(preactivations(f, y))[[0, 1, 3, 4, 5]]])


def test_an_entry_that_the_first_layer_ignores() -> None:
    f, y = FICNN(3, (6, 5), positivity="project", monotone=1).double(), point((3,), 40)
    skip = f.layers[0].skip
    assert isinstance(skip, Signed)
    with torch.no_grad():
        skip.raw[:, 1] = -1.0
    assert are_standard(preactivations(normalise_(icnn.project_(f), y), y))


def test_one_context_for_all() -> None:
    f, x, y = PICNN(2, 3, (6, 5)).double(), point((2,)), 10 * point((3,), 40) + 3
    normalise_(f, x, y)
    assert are_standard(preactivations(f, x, y))


def test_single_precision() -> None:
    f, y = FICNN(5, (16, 16)), 1e3 * torch.randn(200, 5) + 50
    normalise_(f, y)
    assert all(p.dtype == torch.float32 for p in f.parameters())
    for v in preactivations(f, y):
        assert v.mean(1).abs().max() < 1e-5
        assert (v.std(1) - 1).abs().max() < 1e-4


def test_negative_weights_are_refused_and_nothing_is_changed() -> None:
    f = FICNN(3, (6,), positivity="project")
    with torch.no_grad():
        f.layers[1].path.raw[0, 1] = -1.0  # pyright: ignore
    before = copy.deepcopy(f.state_dict())
    with pytest.raises(ValueError, match=r"negative weights where none may be; call icnn.project_\(net\) before"):
        normalise_(f, torch.randn(20, 3))
    assert all(torch.equal(value, before[key]) for key, value in f.state_dict().items())


@pytest.mark.parametrize(
    ("message", "inputs", "output"),
    [
        (r"y has shape \(1, 3\), expected two or more inputs", (torch.rand(1, 3),), (0.0, 1.0)),
        (r"y has shape \(3,\), expected two or more inputs", (torch.rand(3),), (0.0, 1.0)),
        (r"y has shape \(4, 2, 3\), expected two or more inputs", (torch.rand(4, 2, 3),), (0.0, 1.0)),
        (r"y has shape \(4, 2\), expected \(\*batch, 3\)", (torch.rand(4, 2),), (0.0, 1.0)),
        (r"y is not finite", (torch.full((4, 3), torch.nan),), (0.0, 1.0)),
        (r"output is \(0.0, 0.0\), expected", (torch.rand(4, 3),), (0.0, 0.0)),
    ],
)
def test_wrong_inputs_are_named(message: str, inputs: tuple[Tensor, ...], output: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=message):
        normalise_(FICNN(3, (4,)), *inputs, output=output)


def test_wrong_contexts_and_modules_are_named() -> None:
    with pytest.raises(ValueError, match=r"x has shape \(3, 4, 2\), expected two or more inputs"):
        normalise_(PICNN(2, 3, (4,)), torch.rand(3, 4, 2), torch.rand(4, 3))
    with pytest.raises(TypeError, match="net is a DifferenceOfConvex, expected one of FICNN"):
        normalise_(DifferenceOfConvex(FICNN(3), FICNN(3)), torch.rand(4, 3))


@every_map
def test_weights_far_below_their_scale(positivity: str) -> None:
    f, y = FICNN(3, (6, 5), positivity=positivity, monotone=1).double(), 1e5 * point((3,), 40)
    assert are_standard(preactivations(normalise_(f, y), y))
