"""A fresh deep network keeps the spread of its inputs: it neither collapses to a constant nor explodes."""

import pytest
import torch
import torch.nn.functional as F

from icnn.networks import ACTIVATIONS, CONVEX_ACTIVATIONS, FICNN, PICNN, POSITIVITY
from icnn.networks.initialisation import moments


def cosine(features: torch.Tensor) -> torch.Tensor:
    """Mean cosine between the features of different inputs."""
    unit, count = F.normalize(features, dim=-1), len(features)
    return ((unit @ unit.T).sum() - count) / (count * (count - 1))


def features(f: FICNN, y: torch.Tensor) -> list[torch.Tensor]:
    """z of each layer."""
    z: list = [None]
    for step in f.given().steps[:-1]:
        z.append(f.activation(step(z[-1], y)))
    return z[1:]


@pytest.mark.parametrize("activation", CONVEX_ACTIVATIONS)
@pytest.mark.parametrize("positivity", POSITIVITY)
def test_eight_layers_keep_the_spread(activation: str, positivity: str) -> None:
    """Of f and of every layer; and features of different inputs do not fall into one direction.

    The mean of an activation alone gives its features a cosine, that of the first layer.
    """
    for seed in range(2):
        torch.manual_seed(seed)
        f, y = FICNN(16, (64,) * 8, activation, positivity), torch.randn(500, 16)
        with torch.no_grad():
            first, *others = features(f, y)
            assert 0.6 < f(y).std() < 2
        for z in others:
            assert 0.5 < z.std(0).mean() / first.std(0).mean() < 2
            assert 1 - cosine(z) > 0.5 * (1 - cosine(first))


def test_the_measure_sees_the_collapse_of_a_naive_start() -> None:
    f, y = FICNN(16, (64,) * 8), torch.randn(500, 16)
    with torch.no_grad():
        for layer in f.layers[1:]:
            layer.path.raw.copy_(torch.rand_like(layer.path.raw) / 8)  # pyright: ignore
            layer.skip.bias.zero_()  # pyright: ignore
        assert f(y).std() > 20
        assert cosine(features(f, y)[-1]) > 0.99


@pytest.mark.parametrize("activation", CONVEX_ACTIVATIONS)
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
