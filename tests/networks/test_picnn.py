"""PICNN against its formula with explicit matrices, its gates, and the network without coupling."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from icnn.networks import PICNN, ConvexNetwork, ConvPICNN


def affine(part, value: Tensor) -> Tensor:
    return value @ part.weight.T + part.bias


@pytest.mark.parametrize(("activation", "g"), [("relu", F.relu), ("softplus", F.softplus)])
@pytest.mark.parametrize(("x_activation", "g_x"), [("relu", F.relu), ("tanh", torch.tanh)])
def test_formula(activation: str, g, x_activation: str, g_x) -> None:
    f = PICNN(3, 4, (5, 6), activation, x_activation).double()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    u, z = x, None
    for number, layer in enumerate(f.layers):
        pre = (y * affine(layer.skip_gate, u)) @ layer.skip.weight.T + affine(layer.offset, u)  # pyright: ignore
        if z is not None:
            pre = pre + (z * affine(layer.path_gate, u).clamp(min=0)) @ layer.path.raw.T  # pyright: ignore
        z = g(pre) if number < 2 else pre
        u = g_x(affine(f.context[number], u)) if number < 2 else u
    assert z is not None
    torch.testing.assert_close(f(x, y), z.squeeze(-1), rtol=1e-12, atol=1e-12)


def test_convolutional_formula() -> None:
    f = ConvPICNN((2, 6, 4), (1, 6, 4), ((3, 4, 2),), (), positivity="abs").double()
    x, y = torch.randn(5, 2, 6, 4).double(), torch.randn(5, 1, 6, 4).double()
    a, b = f.layers
    conv = lambda part, v, **how: F.conv2d(v, part.weight, **how) + (0 if part.bias is None else part.bias)  # noqa: E731
    half = {"stride": 2, "padding": 1}
    z = F.relu(conv(a.skip, y * conv(a.skip_gate, x, padding=1), **half) + conv(a.offset, x, **half))
    u = F.relu(conv(f.context[0], x, **half))
    y_gate = F.pixel_shuffle(F.conv2d(u, b.skip_gate.weight, padding=1), 2) + b.skip_gate.bias  # pyright: ignore
    z_gate = F.relu(conv(b.path_gate, u, padding=1))
    value = ((z * z_gate).flatten(1) @ b.path.raw.abs().T).squeeze(-1)  # pyright: ignore
    value = value + (y * y_gate).flatten(1) @ b.skip.weight[0] + affine(b.offset, u.flatten(1)).squeeze(-1)  # pyright: ignore
    torch.testing.assert_close(f(x, y), value, rtol=1e-12, atol=1e-12)


def test_the_paper_s_network_for_pictures() -> None:
    f = ConvPICNN((1, 64, 32), (1, 64, 32))
    shapes = [tuple(part.operator.outputs) for part in f.context]  # pyright: ignore
    assert shapes == [(32, 16, 8), (64, 8, 4), (64, 8, 4), (512,)]
    assert [tuple(layer.skip.operator.outputs) for layer in f.layers] == [*shapes, (1,)]  # pyright: ignore
    assert f(torch.rand(2, 1, 64, 32), torch.rand(2, 1, 64, 32)).shape == (2,)


def test_the_context_is_evaluated_once() -> None:
    f, calls = PICNN(3, 4, (5,)), []
    f.context[0].register_forward_hook(lambda *_: calls.append(1))
    energy = f.given(torch.rand(2, 3))
    for _ in range(3):
        energy(torch.rand(2, 4))
    assert len(calls) == 1


def test_one_y_against_many_x() -> None:
    f, x, y = PICNN(3, 4, (5,)), torch.rand(6, 3), torch.rand(4)
    torch.testing.assert_close(f.given(x)(y), f(x, y.expand(6, 4)))


def networks(**options) -> list[ConvexNetwork]:
    torch.manual_seed(1)
    return [PICNN(3, 4, (5, 6), **options), ConvPICNN((1, 4, 2), (1, 4, 2), ((3, 2, 2),), (5,), **options)]


@pytest.mark.parametrize("index", [0, 1])
def test_without_coupling_the_energy_is_affine_in_y(index: int) -> None:
    f = networks(coupling=False)[index].double()
    assert f.smooth
    assert f.piecewise_linear
    assert f.is_convex()
    assert f.x_shape is not None
    x, (y1, y2) = torch.randn(9, *f.x_shape).double(), torch.randn(2, 9, *f.y_shape).double()
    torch.testing.assert_close(f(x, 3 * y1 - 2 * y2), 3 * f(x, y1) - 2 * f(x, y2), rtol=1e-11, atol=1e-11)
    curvature = torch.autograd.functional.hessian(lambda y: f(x[0], y), y1[0])
    assert not curvature.any()  # pyright: ignore
    slope = torch.func.vmap(torch.func.grad(f, argnums=1))(x, y1)
    assert slope.std(0).min() > 0, "the slope depends on x"


@pytest.mark.parametrize("index", [0, 1])
def test_without_coupling_all_else_starts_equal(index: int) -> None:
    coupled, linear = (
        networks(coupling=True)[index].state_dict(),
        networks(coupling=False)[index].state_dict(),
    )
    last = max(int(key.split(".")[1]) for key in coupled if key.startswith("layers."))
    for key, value in linear.items():
        assert torch.equal(value, coupled[key.replace("layers.0.", f"layers.{last}.")]), key
