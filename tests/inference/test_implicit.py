"""Gradients of the inference: finite differences of the whole of it, and formula (6) written out by hand."""

import copy

import pytest
import torch
from torch import Tensor

import icnn
from icnn import ConvexNetwork

from .examples import NETWORKS, build, by_bundle, context, directional

every_network = pytest.mark.parametrize("name", NETWORKS)
# network, activation and budget: converged and truncated; a smooth energy has to converge
CASES = [
    ("PICNN", "relu", 60),
    ("PICNN", "relu", 5),
    ("PICNN", "leaky_relu", 60),
    ("PICNN", "leaky_relu", 5),
    ("PICNN", "softplus", 10),
    ("FICNN", "relu", 60),
    ("FICNN", "leaky_relu", 5),
    ("FICNN", "softplus", 10),
    ("ConvPICNN", "relu", 60),
    ("ConvPICNN", "leaky_relu", 5),
    ("ConvPICNN", "softplus", 10),
]


def weights(f: ConvexNetwork) -> list[Tensor]:
    return list(f.parameters())


def target_loss(y: Tensor) -> Tensor:
    return (torch.linspace(1, 2, y.numel(), dtype=y.dtype) * y.flatten() + y.flatten().square()).sum() / y.numel()


@pytest.mark.parametrize(("name", "activation", "max_iter"), CASES)
def test_weights_and_x_against_finite_differences(name: str, activation: str, max_iter: int) -> None:
    f = build(name, activation)
    x = context(f, 3)
    given = [] if x is None else [x.requires_grad_()]
    ours, expected = directional(lambda: target_loss(by_bundle(f, x, max_iter=max_iter).y), weights(f) + given)
    assert abs(expected) > 1e-4
    assert ours == pytest.approx(expected, rel=1e-5)


def test_x_alone_against_finite_differences() -> None:
    f = build("PICNN")
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    ours, expected = directional(lambda: target_loss(by_bundle(f, x, max_iter=5).y), [x])
    assert abs(expected) > 1e-4
    assert ours == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("positivity", ["abs", "softplus"])
def test_through_every_positivity_map(positivity: str) -> None:
    f = icnn.PICNN(4, 5, (10,), positivity=positivity).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    ours, expected = directional(lambda: target_loss(by_bundle(f, x, max_iter=60).y), weights(f))
    assert ours == pytest.approx(expected, rel=1e-5)


def cut(f: ConvexNetwork, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the tangent at y, differentiable in the weights."""
    y = y.clone().requires_grad_()
    value = f.given(x)(y)
    (slope,) = torch.autograd.grad(value, y, create_graph=True)
    return slope, value - slope @ y.detach()


def by_hand(f: ConvexNetwork, x: Tensor, points: list[Tensor], y: Tensor, y_bar: Tensor) -> tuple[Tensor, ...]:
    """Formula (6) with c from a dense KKT solve over the active cuts."""
    found = [cut(f, x, point) for point in points]
    G, o = torch.stack([g for g, _ in found]).detach(), torch.stack([o for _, o in found]).detach()
    model = icnn.solve(icnn.EntropyBundle(G, o))
    torch.testing.assert_close(model.x[:-1], y, rtol=0, atol=1e-10)
    active = (model.lam > 1e-9).nonzero().flatten().tolist()
    lam, n, k = model.lam[active], len(y), len(active)
    M = torch.zeros(n + k + 1, n + k + 1, dtype=torch.float64)
    M[:n, :n] = torch.diag(1 / y + 1 / (1 - y))
    M[:n, n:-1], M[n:-1, :n] = G[active].T, G[active]
    M[n:-1, -1] = M[-1, n:-1] = -1
    c = torch.linalg.solve(M, -torch.nn.functional.pad(y_bar, (0, k + 1)))
    c_y, c_lam = c[:n], c[n:-1]
    total = torch.zeros((), dtype=torch.float64)
    for position, i in enumerate(active):
        slope, offset = found[i]
        value = offset + slope @ points[i]
        total = total + c_lam[position] * value  # the points are held fixed
        total = total + slope @ (lam[position] * c_y + c_lam[position] * (y - points[i]))
        total = total - c_lam[position] * (value - f.given(x)(points[i]))
    return torch.autograd.grad(total, list(f.parameters()), materialize_grads=True)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_formula_six_by_hand(activation: str) -> None:
    f = build("PICNN", activation)
    x = context(f)
    assert x is not None
    points = [torch.full((5,), 0.5, dtype=torch.float64)]
    solution = by_bundle(f, x, max_iter=4, callback=lambda _, y: points.append(y.clone()))
    y = solution.y.detach()
    y_bar = torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = torch.autograd.grad((y_bar * solution.y).sum(), list(f.parameters()), materialize_grads=True)
    for slope, right in zip(found, by_hand(f, x, points[:-1], y, y_bar), strict=True):
        torch.testing.assert_close(slope, right, rtol=1e-8, atol=1e-9)


def test_newton_form_by_hand() -> None:
    """c_y = -(hess phi + hess f)^-1 y_bar, gradient = grad_w [grad_y f(y)'c_y]."""
    f = build("PICNN", "softplus")
    x = context(f)
    solution = by_bundle(f, x, max_iter=10, tol=1e-12)
    y, y_bar = solution.y.detach(), torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = torch.autograd.grad((y_bar * solution.y).sum(), list(f.parameters()), materialize_grads=True)
    H = torch.autograd.functional.hessian(f.given(x), y)
    assert isinstance(H, Tensor)
    c = -torch.linalg.solve(H + torch.diag(1 / y + 1 / (1 - y)), y_bar)
    leaf = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f.given(x)(leaf), leaf, create_graph=True)
    expected = torch.autograd.grad(slope @ c, list(f.parameters()), materialize_grads=True)
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-8, atol=1e-10)


@every_network
def test_gradients_of_a_batch_are_the_sum_of_those_alone(name: str) -> None:
    f = build(name)
    x = context(f, 4)
    start = torch.rand(4, *f.y_shape, dtype=torch.float64)

    def slopes(x: Tensor | None, start: Tensor) -> tuple[Tensor, ...]:
        y = by_bundle(f, x, start=start, max_iter=5).y
        return torch.autograd.grad(y.square().sum(), weights(f), materialize_grads=True)

    together = slopes(x, start)
    alone = [slopes(None if x is None else x[i], start[i]) for i in range(4)]
    for total, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(total, torch.stack(parts).sum(0), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("max_iter", [4, 60])
def test_second_order_of_a_piecewise_linear_energy(max_iter: int) -> None:
    f = build("PICNN")
    x = context(f, 2)

    def slope_length() -> Tensor:
        with torch.enable_grad():
            y = by_bundle(f, x, max_iter=max_iter).y
            slopes = torch.autograd.grad(target_loss(y), weights(f), create_graph=True, materialize_grads=True)
            return torch.stack([slope.square().sum() for slope in slopes]).sum()

    ours, expected = directional(slope_length, weights(f))
    assert abs(expected) > 1e-6
    assert ours == pytest.approx(expected, rel=1e-5)


def test_second_order_of_a_smooth_energy_is_refused() -> None:
    f = build("PICNN", "softplus")
    y = by_bundle(f, context(f, 2)).y
    for loss in (y.square().sum(), y.sum()):  # of the second, the cotangent depends on nothing
        with pytest.raises(RuntimeError, match="second order"):
            torch.autograd.grad(loss, weights(f), create_graph=True, materialize_grads=True)


def test_only_y_is_differentiable() -> None:
    f = build("PICNN")
    solution = by_bundle(f, context(f, 2))
    assert solution.y.requires_grad
    assert not any(t.requires_grad for t in (solution.value, solution.gap))


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_gradients_of_float32_networks(activation: str) -> None:
    f = build("PICNN", activation).float()
    x = torch.randn(3, 4)
    exact = copy.deepcopy(f).double()
    single = torch.autograd.grad(by_bundle(f, x, max_iter=20).y.square().sum(), weights(f), materialize_grads=True)
    double = torch.autograd.grad(
        by_bundle(exact, x.double(), max_iter=20).y.square().sum(), weights(exact), materialize_grads=True
    )
    for ours, right in zip(single, double, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), right, rtol=1e-2, atol=1e-3)


def test_a_training_step_lowers_the_loss() -> None:
    f = icnn.PICNN(4, 5, (10,)).double()
    x, target = torch.randn(8, 4, dtype=torch.float64), torch.rand(8, 5, dtype=torch.float64)
    optimiser = torch.optim.Adam(f.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        loss = (by_bundle(f, x, max_iter=5).y - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        icnn.project_(f)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
