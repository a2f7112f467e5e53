"""The hand-written sweep against autograd: values, slopes, pieces, and some instances of a batch."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from icnn.networks import FICNN, PICNN, Activation, ConvexNetwork, ConvPICNN, Energy

from .test_network import build, every_activation, every_architecture, point, two_maps

every_batch = pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 3)], ids=str)


def given(f: ConvexNetwork, *batch: int) -> Energy:
    energy = f.given(None if f.x_shape is None else point(f.x_shape, *batch))
    assert isinstance(energy, Energy)
    return energy


def by_autograd(energy: Callable[[Tensor], Tensor], y: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    leaf = y.clone().requires_grad_()
    value = energy(leaf)
    (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=create_graph)
    return value, slope


@every_architecture
@every_activation
@two_maps
def test_value_and_slope_are_those_of_autograd(name: str, activation: str, positivity: str) -> None:
    energy = given(f := build(name, activation=activation, positivity=positivity), 3)
    y = point(f.y_shape, 4, 2, 3)
    tangent = energy.tangent(y)
    value, slope = by_autograd(energy, y)
    torch.testing.assert_close(tangent.value, value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent.slope, slope, rtol=1e-11, atol=1e-12)
    assert not any(t.requires_grad for t in (tangent.value, tangent.slope, *tangent.units))
    assert slope.abs().max() > 0.1


@every_architecture
@every_batch
def test_batches(name: str, batch: tuple[int, ...]) -> None:
    energy = given(f := build(name), *batch)
    y = point(f.y_shape, *batch)
    value, slope = by_autograd(energy, y)
    tangent = energy.tangent(y)
    torch.testing.assert_close(tangent.value, value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent.slope, slope, rtol=1e-11, atol=1e-12)
    assert all(unit.shape[: len(batch)] == batch for unit in tangent.units)


def steep(value: Tensor) -> Tensor:
    return torch.maximum(torch.maximum(value, 2 * value - 1), torch.zeros_like(value))


OWN = Activation("steep", steep, convex=True, nondecreasing=True, piecewise_linear=True)


@every_architecture
@pytest.mark.parametrize(
    "activation",
    [OWN, Activation("log1pexp", F.softplus, convex=True, nondecreasing=True, smooth=True)],
    ids=["kinks", "smooth"],
)
def test_activations_without_a_derivative(name: str, activation: Activation) -> None:
    energy = given(f := build(name, activation=activation), 3)
    y = point(f.y_shape, 3)
    tangent = energy.tangent(y)
    value, slope = by_autograd(energy, y)
    torch.testing.assert_close(tangent.value, value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent.slope, slope, rtol=1e-11, atol=1e-12)


@every_activation
def test_the_slope_at_a_kink_is_the_one_of_autograd(activation: str) -> None:
    f = FICNN(5, (12, 8), activation).double()
    with torch.no_grad():
        for layer in f.layers:
            layer.skip.bias.zero_()  # pyright: ignore
    origin = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(f.given().tangent(origin).slope, by_autograd(f, origin)[1], rtol=1e-12, atol=1e-12)


def test_without_coupling_the_slope_is_constant() -> None:
    for f in (PICNN(4, 5, (8,), coupling=False), ConvPICNN((1, 4, 2), (1, 4, 2), ((3, 2, 2),), (5,), coupling=False)):
        energy, y = given(f.double(), 3), point(f.y_shape, 2, 3)
        tangent = energy.tangent(y)
        assert torch.equal(tangent.slope[0], tangent.slope[1])
        torch.testing.assert_close(tangent.slope, by_autograd(energy, y)[1], rtol=1e-12, atol=1e-12)


@every_architecture
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_some_instances(name: str, batch: tuple[int, ...]) -> None:
    energy = given(f := build(name), *batch)
    y = point(f.y_shape, 4, *batch)
    flat = y.reshape(4, -1, *f.y_shape)
    everything = energy(y).reshape(4, -1)
    index = torch.tensor([0]) if not batch else torch.tensor([2, 0])
    some = energy.at(index)
    torch.testing.assert_close(some(flat[:, index]), everything[:, index], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(some.tangent(flat[:, index]).value, everything[:, index], rtol=1e-12, atol=1e-12)
    again = some.at(torch.tensor([len(index) - 1]))
    torch.testing.assert_close(again(flat[:, index[-1:]]), everything[:, index[-1:]], rtol=1e-12, atol=1e-12)


@every_architecture
@two_maps
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", OWN], ids=["relu", "leaky_relu", "own"])
def test_pieces_have_the_derivatives_of_a_double_backward_pass(name: str, positivity: str, activation) -> None:
    energy = given(f := build(name, activation=activation, positivity=positivity), 3)
    y = point(f.y_shape, 2, 3)
    units = energy.tangent(y).units
    value, slope, _ = energy.piece(y, units)
    expected_value, expected_slope = by_autograd(energy, y, create_graph=True)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-11, atol=1e-12)
    direction = torch.randn_like(slope)

    def weight_slopes(value: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
        total = value.square().sum() + (slope * direction).sum()
        return torch.autograd.grad(total, list(f.parameters()), retain_graph=True, materialize_grads=True)

    pairs = zip(weight_slopes(value, slope), weight_slopes(expected_value, expected_slope), strict=True)
    for ours, right in pairs:
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-11)


def test_a_piece_is_kept_where_rounding_would_choose_another() -> None:
    f = FICNN(5, (8,)).double()
    first, last = f.layers
    tangent = f.given().tangent(y := point((5,)))
    for units in (tangent.units, tuple(1 - unit for unit in tangent.units)):
        slope = f.given().piece(y, units).slope
        path, skip = last.path.raw[0], last.skip.weight[0]  # pyright: ignore
        torch.testing.assert_close(slope, (path * units[0]) @ first.skip.weight + skip)  # pyright: ignore


@every_architecture
def test_wrong_y_is_refused(name: str) -> None:
    energy = given(f := build(name), 3)
    with pytest.raises(ValueError, match=r"y has shape"):
        energy.tangent(point(tuple(n + 1 for n in f.y_shape), 3))
    with pytest.raises(ValueError, match=r"y has dtype torch.float32"):
        energy.tangent(point(f.y_shape, 3).float())


def test_energies_keep_the_weights_that_they_were_given() -> None:
    f, y = FICNN(3, (4,), positivity="softplus"), torch.rand(5, 3)
    energy = f.given()
    before = energy(y)
    weight = f.layers[1].path  # pyright: ignore
    with torch.no_grad():
        weight.raw.add_(1.0)  # pyright: ignore
    assert torch.equal(energy(y), before)
    assert not torch.equal(f(y), before)
