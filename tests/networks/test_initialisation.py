"""A fresh deep network keeps the spread of its inputs: it neither collapses to a constant nor explodes."""

import pytest
import torch
import torch.nn.functional as F

from icnn.networks import ACTIVATIONS, FICNN, PICNN, POSITIVITY
from icnn.networks.initialisation import moments


def cosine(features: torch.Tensor) -> torch.Tensor:
    """Mean cosine between the features of different inputs."""
    unit, count = F.normalize(features, dim=-1), len(features)
    return ((unit @ unit.T).sum() - count) / (count * (count - 1))


def features(f: FICNN, y: torch.Tensor) -> torch.Tensor:
    z = None
    for step in f.given().steps[:-1]:
        z = f.activation(step(z, y))
    assert z is not None
    return z


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("positivity", POSITIVITY)
def test_eight_layers_keep_the_spread(activation: str, positivity: str) -> None:
    spreads = []
    for seed in range(5):
        torch.manual_seed(seed)
        f, y = FICNN(16, (64,) * 8, activation, positivity), torch.randn(500, 16)
        with torch.no_grad():
            spreads.append(f(y).std())
            z = features(f, y)
        assert cosine(z) < (0.5 if activation == "relu" else 0.9)
    assert 0.3 < torch.stack(spreads).mean() < 3


def test_the_measure_sees_the_collapse_of_a_naive_start() -> None:
    f, y = FICNN(16, (64,) * 8), torch.randn(500, 16)
    with torch.no_grad():
        for layer in f.layers[1:]:
            layer.path.raw.copy_(torch.rand_like(layer.path.raw) / 8)  # pyright: ignore
            layer.skip.bias.zero_()  # pyright: ignore
        assert f(y).std() > 20
        assert cosine(features(f, y)) > 0.99


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_eight_gated_layers_keep_the_spread_in_y_and_in_x(activation: str) -> None:
    f, x, y = PICNN(16, 16, (64,) * 8, activation), torch.randn(200, 1, 16), torch.randn(200, 16)
    with torch.no_grad():
        values = f(x, y)
    assert 0.3 < values.std(1).mean() < 10
    assert 0.3 < values.std(0).mean() < 10


def test_moments_of_relu_are_the_closed_forms() -> None:
    relu = moments(ACTIVATIONS["relu"], correlation=0.0)
    assert relu.mean == pytest.approx((2 * torch.pi) ** -0.5, abs=1e-3)
    assert relu.second == pytest.approx(0.5, abs=1e-3)
    assert relu.covariance == pytest.approx(0, abs=1e-12)
    assert moments(ACTIVATIONS["relu"], correlation=1.0).covariance == pytest.approx(relu.variance)
