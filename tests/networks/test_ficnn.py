"""FICNN against its formula, written out with explicit matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from icnn.networks import FICNN, ConvFICNN


def parts(layer) -> tuple[Tensor, Tensor, Tensor]:
    return layer.path.raw.abs(), layer.skip.weight, layer.skip.bias


@pytest.mark.parametrize(("activation", "g"), [("relu", F.relu), ("softplus", F.softplus), ("elu", F.elu)])
def test_formula(activation: str, g) -> None:
    f, y = FICNN(3, (4, 6), activation, positivity="abs").double(), torch.randn(7, 3, dtype=torch.float64)
    first, *others = f.layers
    z = g(y @ first.skip.weight.T + first.skip.bias)  # pyright: ignore
    for number, layer in enumerate(others):
        path, skip, bias = parts(layer)
        z = z @ path.T + y @ skip.T + bias
        z = g(z) if number + 1 < len(others) else z
    torch.testing.assert_close(f(y), z.squeeze(-1), rtol=1e-12, atol=1e-12)


def test_convolutional_formula() -> None:
    f, y = ConvFICNN((2, 6, 4), ((3, 3, 1), (5, 4, 2)), (7,)).double(), torch.randn(3, 2, 6, 4).double()
    a, b, c, d = f.layers
    z = F.relu(F.conv2d(y, a.skip.weight, padding=1) + a.skip.bias)  # pyright: ignore
    direct = F.conv2d(y, b.skip.weight, stride=2, padding=1)  # pyright: ignore
    z = F.relu(F.conv2d(z, b.path.raw, stride=2, padding=1) + direct + b.skip.bias)  # pyright: ignore
    for layer, g in ((c, F.relu), (d, lambda value: value)):
        z = g(z.flatten(1) @ layer.path.raw.T + y.flatten(1) @ layer.skip.weight.T + layer.skip.bias)  # pyright: ignore
    torch.testing.assert_close(f(y), z.squeeze(-1), rtol=1e-12, atol=1e-12)


def test_given_none_is_the_network() -> None:
    f, y = FICNN(3), torch.rand(5, 3)
    assert f.x_shape is None
    assert f.y_shape == (3,)
    assert torch.equal(f.given(None)(y), f(y))
