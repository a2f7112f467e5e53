"""ResidualICNN against its formula, its start, and the ordinary residual network."""

import pytest
import torch
import torch.nn.functional as F

import icnn
from icnn.certificates import falsify
from icnn.networks import CONVEX_ACTIVATIONS, POSITIVITY, ResidualICNN, report


@pytest.mark.parametrize(("activation", "g"), [("relu", F.relu), ("softplus", F.softplus)])
@pytest.mark.parametrize(("output", "eta"), [(None, lambda v: v), ("softplus", F.softplus)])
@pytest.mark.parametrize("convex", [True, False])
def test_formula(activation: str, g, output, eta, convex: bool) -> None:
    f = ResidualICNN(3, 5, 4, 0.3, activation, output=output, convex=convex).double()
    y = torch.randn(7, 3, dtype=torch.float64)
    lift, *steps, last = f.layers
    z = g(y @ lift.skip.weight.T + lift.skip.bias)  # pyright: ignore
    for layer in steps:
        z = z + 0.3 * g(z @ layer.path.weight.T + layer.bias)  # pyright: ignore
    value = eta(z @ last.path.weight.T + last.bias)  # pyright: ignore
    assert len(steps) == 3
    torch.testing.assert_close(f(y), value.squeeze(-1), rtol=1e-12, atol=1e-12)
    leaf = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(leaf).sum(), leaf)
    tangent = f.given().tangent(y)
    torch.testing.assert_close(tangent.slope, slope, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(tangent.value, f(y).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", CONVEX_ACTIVATIONS)
@pytest.mark.parametrize("positivity", POSITIVITY)
def test_eight_layers_keep_the_spread(activation: str, positivity: str) -> None:
    f = ResidualICNN(16, 64, 8, activation=activation, positivity=positivity)
    found = report(f, torch.randn(500, 16))
    first, *others = found.layers
    assert 0.5 < found.sd < 2
    for layer in others:
        assert 0.5 < layer.sd / first.sd < 5
        assert 1 - layer.cosine > 0.3 * (1 - first.cosine)


def test_the_ordinary_one_is_not_convex_and_says_so() -> None:
    f = ResidualICNN(4, 8, 4, activation="tanh", convex=False).double()
    assert not f.is_convex()
    assert falsify(f, bounds=(-2, 2)) is not None
    assert falsify(ResidualICNN(4, 8, 4, convex=False).double(), bounds=(-2, 2)) is not None
    with pytest.raises(ValueError, match="f is not convex"):
        icnn.argmin(f, regularizer="entropy")
    assert falsify(ResidualICNN(4, 8, 4, output="squared_relu"), bounds=(-2, 2), steps=20) is None


def test_no_step_is_one_layer() -> None:
    f = ResidualICNN(3, 5, 6, step=0.0)
    y = torch.randn(4, 3)
    z = F.relu(f.layers[0].skip(y))  # pyright: ignore
    torch.testing.assert_close(f(y), (z @ f.layers[-1].path.weight.T + f.layers[-1].bias).squeeze(-1))  # pyright: ignore


def test_equal_arguments_make_networks_that_exchange_their_states() -> None:
    for positivity in POSITIVITY:
        f, other = (ResidualICNN(3, 5, positivity=positivity) for _ in range(2))
        other.load_state_dict(f.state_dict())
        y = torch.randn(6, 3)
        assert torch.equal(f(y), other(y))


def test_the_flags_see_the_output() -> None:
    assert ResidualICNN(3).piecewise_linear
    assert not ResidualICNN(3, output="softplus").piecewise_linear
    assert not ResidualICNN(3, output="softplus").smooth
    assert ResidualICNN(3, activation="softplus", output="softplus").smooth


@pytest.mark.parametrize(
    ("message", "make"),
    [
        (r"step is -0.5, expected a number >= 0", lambda: ResidualICNN(3, step=-0.5)),
        (r"depth is \(0,\)", lambda: ResidualICNN(3, depth=0)),
        (r"output 'tanh' is not convex", lambda: ResidualICNN(3, output="tanh")),
        (r"activation 'tanh' is not convex", lambda: ResidualICNN(3, activation="tanh")),
        (r"monotone needs convex=True", lambda: ResidualICNN(3, convex=False, monotone=1)),
        (r"ResidualICNN has no x", lambda: ResidualICNN(3).given(torch.rand(3))),
    ],
)
def test_the_door(message: str, make) -> None:
    with pytest.raises(ValueError, match=message):
        make()
