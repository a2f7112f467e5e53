"""What all architectures accept: skips, a quadratic term, strong convexity, inputs in which f is monotone."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import icnn
from icnn.networks import FICNN, PICNN, Affine, ConvexNetwork, ConvPICNN, Quadratic, ResidualICNN, Signed, convert
from icnn.networks.energy import LayeredEnergy

from .test_energy import by_autograd, given
from .test_network import (
    ARCHITECTURES,
    ROUNDING,
    build,
    curvature,
    energy,
    every_architecture,
    gaps,
    point,
    train,
    two_maps,
)

with_skips = pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "ResidualICNN"])
SETTINGS = {
    "quadratic": dict(quadratic=2),
    "mu": dict(strong_convexity=0.3),
    "both": dict(quadratic=1, strong_convexity=1.0),
}
every_setting = pytest.mark.parametrize("options", SETTINGS.values(), ids=list(SETTINGS))


def same_as_autograd(f: ConvexNetwork) -> None:
    found = given(f, 3)
    y = point(f.y_shape, 2, 3)
    tangent, (value, slope) = found.tangent(y), by_autograd(found, y)
    torch.testing.assert_close(tangent.value, value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent.slope, slope, rtol=1e-11, atol=1e-12)
    some = found.at(torch.tensor([2, 0]))
    torch.testing.assert_close(some(y[:, [2, 0]]), value[:, [2, 0]], rtol=1e-12, atol=1e-12)


def survives_copies(f: ConvexNetwork, **options) -> None:
    state = energy(f)
    y = point(f.y_shape)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert repr(other) == repr(f)
        assert other.state_dict().keys() == f.state_dict().keys()
    single = copy.deepcopy(f).to(torch.float32)
    tensors = (*single.parameters(), *single.buffers())
    assert all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point())
    assert state(y).dtype == torch.float64


@with_skips
@two_maps
def test_without_skips(name: str, positivity: str) -> None:
    f = build(name, skips=False, positivity=positivity)
    assert all(layer.skip is None for layer in list(f.layers)[1:])
    same_as_autograd(f)
    survives_copies(f)
    for _ in range(2):
        assert gaps(f).max() <= ROUNDING
        train(f)
    torch.manual_seed(0)
    assert curvature(build(name, skips=False, positivity=positivity)) > 1e-3


@every_architecture
@every_setting
@two_maps
def test_quadratic_terms(name: str, options: dict, positivity: str) -> None:
    f = build(name, positivity=positivity, activation="softplus", **options)
    same_as_autograd(f)
    survives_copies(f)
    for _ in range(2):
        assert gaps(f).max() <= ROUNDING
        assert curvature(f) > 1e-3
        train(f)
    assert f.smooth
    assert not f.piecewise_linear


@every_architecture
def test_the_quadratic_term_is_what_it_says(name: str) -> None:
    f = build(name, quadratic=2, strong_convexity=0.5)
    term = f.quadratic
    assert isinstance(term, Quadratic)
    assert term.factor is not None
    assert term.diagonal is not None
    value, y = given(f, 4), point(f.y_shape, 4)
    assert isinstance(value, LayeredEnergy)
    flat, L, d = y.flatten(1), term.factor.weight, term.diagonal.weight.flatten()
    Q = L.T @ L + torch.diag(d) + 0.5 * torch.eye(len(d), dtype=torch.float64)
    expected = value(y) - 0.5 * ((flat @ Q) * flat).sum(-1)
    with torch.no_grad():
        without = replace(value, curvature=None)(y)
    torch.testing.assert_close(without, expected.detach())
    assert torch.linalg.eigvalsh(Q).min() >= 0.5


@every_architecture
def test_strong_convexity_deepens_every_chord(name: str) -> None:
    f = build(name, strong_convexity=0.7)
    value, (a, b) = energy(f, 50), point(f.y_shape, 2, 50)
    with torch.no_grad():
        depth = (value(a) + value(b)) / 2 - value((a + b) / 2)
    assert (depth >= 0.7 / 8 * (a - b).flatten(1).square().sum(1) - 1e-10).all()


@every_architecture
@two_maps
@pytest.mark.parametrize("sign", [1, -1])
def test_monotone_in_all_inputs(name: str, positivity: str, sign: int) -> None:
    f = build(name, positivity=positivity, monotone=sign)
    same_as_autograd(f)
    survives_copies(f)
    for _ in range(2):
        _, slope = by_autograd(energy(f, 40), point(f.y_shape, 40))
        assert (sign * slope >= -1e-14).all()
        assert slope.abs().max() > 1e-2
        assert gaps(f).max() <= ROUNDING
        train(f)
    y = point(f.y_shape, 40)
    context = () if f.x_shape is None else (point(f.x_shape, 40),)
    torch.testing.assert_close(convert(f, "softplus")(*context, y), f(*context, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [lambda **o: FICNN(3, (20,), **o), lambda **o: PICNN(2, 3, (20,), **o), lambda **o: ResidualICNN(3, 20, **o)],
)
def test_monotone_in_some_inputs(make) -> None:
    f = make(monotone=(1, 0, -1)).double()
    _, slope = by_autograd(energy(f, 200), point(f.y_shape, 200))
    assert (slope[:, 0] >= 0).all()
    assert (slope[:, 2] <= 0).all()
    assert slope[:, 1].min() < 0 < slope[:, 1].max()


def test_signs_of_channels() -> None:
    f = ConvPICNN((1, 5), (2, 5), ((3, 3, 1),), (4,), monotone=(1, -1)).double()
    _, slope = by_autograd(energy(f, 30), point(f.y_shape, 30))
    assert (slope[:, 0] >= 0).all()
    assert (slope[:, 1] <= 0).all()


def test_a_broken_sign_is_reported_until_projection() -> None:
    f = FICNN(3, (4,), positivity="project", monotone=(1, 0, -1))
    skip = f.layers[0].skip
    assert isinstance(skip, Signed)
    with torch.no_grad():
        skip.raw[:, 1] = -1
        assert f.is_convex()
        skip.raw[0, 2] = -1
    assert not f.is_convex()
    assert icnn.project_(f).is_convex()
    assert (skip.weight[:, 1] == -1).all()


def test_no_option_no_trace() -> None:
    f = FICNN(3, (4,))
    assert f.quadratic is None
    assert isinstance(f.layers[0].skip, Affine)
    assert f.piecewise_linear


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"quadratic is -1", dict(quadratic=-1)),
        (r"strong_convexity -1.0, expected both >= 0", dict(strong_convexity=-1.0)),
        (r"monotone is 2, expected -1, 0 or 1, or 3 of them", dict(monotone=2)),
        (r"monotone is \(1, 1\), expected -1, 0 or 1, or 3", dict(monotone=(1, 1))),
        (r"monotone and a quadratic term exclude", dict(monotone=1, quadratic=1)),
    ],
)
def test_wrong_options_are_named(message: str, options: dict) -> None:
    with pytest.raises(ValueError, match=message):
        FICNN(3, (4,), **options)


def test_the_context_alone_is_no_network() -> None:
    with pytest.raises(ValueError, match="coupling=False needs skips=True"):
        PICNN(2, 3, coupling=False, skips=False)


def minimum(f: ConvexNetwork, y: Tensor) -> Tensor:
    return (f(y) + torch.special.xlogy(y, y).sum(-1) + torch.special.xlogy(1 - y, 1 - y).sum(-1)).min()


@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("softplus", dict(quadratic=2)),
        ("relu", dict(strong_convexity=1.0)),
        ("relu", dict(monotone=1)),
        ("relu", dict(skips=False)),
    ],
)
def test_argmin(activation: str, options: dict) -> None:
    f = FICNN(3, (8, 5), activation, **options).double()
    known = f.smooth or f.piecewise_linear
    solution = icnn.argmin(f, regularizer="entropy", max_iter=80, gradient="implicit" if known else "none")
    assert solution.gap < 1e-6
    with torch.no_grad():
        assert solution.value <= minimum(f, torch.rand(5000, 3, dtype=torch.float64)) + 1e-6
    assert solution.y.requires_grad == known
    if not known:
        with pytest.raises(ValueError, match="implicit"):
            icnn.argmin(f, regularizer="entropy")
