"""The loss and its gradients are those of autograd, of differences and of closed forms; the fit finds what is known."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from icnn.adjoints import dense_least_squares, fit_dense_least_squares, least_squares

from .comparing import assert_equal, derivatives

ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
    "identity": lambda z: z,
}
SMOOTH = [name for name in ACTIVATIONS if name != "relu"]
BATCHES = [((), (), ()), ((2,), (), (2,)), ((), (2,), ()), ((3, 1), (2,), (3, 2))]


def by_definition(X: Tensor, theta: Tensor, Y: Tensor, activation: str) -> Tensor:
    return 0.5 * (Y - ACTIVATIONS[activation](X @ theta)).square().sum((-2, -1))


def data(batches: Sequence[tuple[int, ...]] = ((), (), ()), n: int = 7, p: int = 3, q: int = 2) -> list[Tensor]:
    shapes = zip(batches, ((n, p), (p, q), (n, q)), strict=True)
    return [torch.randn(*batch, *shape, dtype=torch.float64, requires_grad=True) for batch, shape in shapes]


def test_the_helper_finds_a_wrong_gradient() -> None:
    with pytest.raises(AssertionError):
        assert_equal([torch.ones(2)], [torch.ones(2) + 1e-6])


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_value_and_three_orders_are_those_of_autograd(activation, batches) -> None:
    inputs = data(batches)
    ours, theirs = dense_least_squares(*inputs, activation=activation), by_definition(*inputs, activation=activation)
    assert_equal([ours], [theirs])
    assert_equal(derivatives(ours, inputs, 3), derivatives(theirs, inputs, 3))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_only_what_is_asked_for_is_differentiated(wanted) -> None:
    inputs = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(data())]
    asked = [inputs[i] for i in wanted]
    ours, theirs = dense_least_squares(*inputs, activation="tanh"), by_definition(*inputs, activation="tanh")
    assert_equal(derivatives(ours, asked, 2), derivatives(theirs, asked, 2))


@pytest.mark.parametrize("activation", SMOOTH)
def test_gradients_of_both_orders_are_those_of_differences(activation) -> None:
    def loss(X: Tensor, theta: Tensor, Y: Tensor) -> Tensor:
        return dense_least_squares(X, theta, Y, activation=activation)

    inputs = data(((2,), (), (2,)))
    assert torch.autograd.gradcheck(loss, inputs, rtol=1e-6)
    assert torch.autograd.gradgradcheck(loss, inputs, rtol=1e-6)


def test_gradient_of_the_identity_is_that_of_the_normal_equations() -> None:
    X, theta, Y = data()
    (gradient,) = torch.autograd.grad(dense_least_squares(X, theta, Y), theta)
    assert_equal([gradient], [X.mT @ X @ theta - X.mT @ Y])


@pytest.mark.parametrize("activation", SMOOTH)
def test_hessian_is_the_closed_form_of_the_docstring(activation) -> None:
    """V goes to Xᵀ(XV ∘ (h′ ∘ h′ + R ∘ h″)), with h′ and h″ by autograd."""
    X, theta, Y = data()
    Z = (X @ theta).detach().requires_grad_()
    value = ACTIVATIONS[activation](Z)
    (h1,) = torch.autograd.grad(value.sum(), Z, create_graph=True)
    (h2,) = torch.autograd.grad(h1.sum(), Z) if h1.requires_grad else (torch.zeros_like(Z),)
    V = torch.randn_like(theta)
    expected = X.mT @ ((X @ V) * (h1.square() + (value - Y) * h2))
    (gradient,) = torch.autograd.grad(dense_least_squares(X, theta, Y, activation=activation), theta, create_graph=True)
    (product,) = torch.autograd.grad(gradient, theta, V)
    assert_equal([product], [expected])


def test_blocks_of_rows_change_nothing(monkeypatch) -> None:
    inputs = data(((), (2,), (2,)), n=1000)
    whole = dense_least_squares(*inputs, activation="sigmoid")
    expected = [whole, *derivatives(whole, inputs, 2)]
    monkeypatch.setattr(least_squares, "BLOCK", 1)
    monkeypatch.setattr(least_squares, "FEWEST_ROWS", 77)
    blocks = dense_least_squares(*inputs, activation="sigmoid")
    assert_equal([blocks, *derivatives(blocks, inputs, 2)], expected)


def test_what_is_kept_has_the_size_of_the_arguments_and_not_of_the_product() -> None:
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    X, theta, Y = data(n=1000)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        dense_least_squares(X, theta, Y, activation="tanh")
    assert sum(sizes.values()) == X.numel() + 2 * theta.numel() + Y.numel()


def test_transforms_of_functions_give_the_same() -> None:
    X, _, Y = (t.detach() for t in data())
    thetas = torch.randn(4, 3, 2, dtype=torch.float64)

    def ours(theta: Tensor) -> Tensor:
        return dense_least_squares(X, theta, Y, activation="tanh")

    def theirs(theta: Tensor) -> Tensor:
        return by_definition(X, theta, Y, "tanh")

    for transform in (torch.func.grad, lambda f: torch.func.jacrev(torch.func.jacrev(f))):
        mapped = torch.func.vmap(transform(ours))(thetas)
        assert_equal([mapped], [torch.func.vmap(transform(theirs))(thetas)])
    outside = thetas.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.func.vmap(ours)(outside).sum(), outside)
    assert_equal([gradient], [torch.func.vmap(torch.func.grad(theirs))(thetas)])


def test_float32_stays_float32_and_no_rows_cost_nothing() -> None:
    inputs = [t.detach() for t in data()]
    single = dense_least_squares(*(t.float() for t in inputs))
    assert single.dtype == torch.float32
    assert_equal([single.double()], [dense_least_squares(*inputs)], 1e-5)
    theta = inputs[1].requires_grad_()
    empty = dense_least_squares(inputs[0][:0], theta, inputs[2][:0])
    assert empty.item() == 0
    assert torch.equal(torch.autograd.grad(empty, theta)[0], torch.zeros_like(theta))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"theta": torch.zeros(4, 2)}, r"theta must be of shape \(\*batch, 3, q\)"),
        ({"Y": torch.zeros(7, 3)}, r"Y must be of shape \(\*batch, 7, 2\)"),
        ({"Y": torch.zeros(7, 2, dtype=torch.float64)}, "one dtype"),
        ({"X": torch.zeros(2, 7, 3), "Y": torch.zeros(3, 7, 2)}, "batch dimensions"),
        ({"activation": "sine"}, "activation"),
    ],
)
def test_bad_input_is_named(changed, message) -> None:
    inputs = {"X": torch.zeros(7, 3), "theta": torch.zeros(3, 2), "Y": torch.zeros(7, 2)} | changed
    with pytest.raises((ValueError, TypeCheckError), match=message):
        dense_least_squares(**inputs)


def test_the_fit_of_the_identity_is_the_linear_one() -> None:
    X, _, Y = (t.detach() for t in data(n=40))
    expected = torch.linalg.lstsq(X, Y).solution
    at_once, result = fit_dense_least_squares(X, Y)
    assert_equal([at_once], [expected], 1e-10)
    assert result.nfev <= 2
    far, result = fit_dense_least_squares(X, Y, 10 * torch.ones_like(expected), xtol=1e-12)
    assert_equal([far], [expected], 1e-8)
    assert result.cost == pytest.approx(dense_least_squares(X, far, Y).item(), rel=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_operator_is_the_jacobian_of_the_residual_and_its_transpose(activation) -> None:
    X, theta, Y = (t.detach() for t in data())
    at, result = fit_dense_least_squares(X, Y, theta, activation=activation, max_nfev=1)
    assert torch.equal(at, theta)
    columns, rows = (torch.as_tensor(part @ np.eye(part.shape[1])) for part in (result.jac, result.jac.T))
    jacobian = torch.func.jacrev(lambda moved: ACTIVATIONS[activation](X @ moved).flatten())(theta).flatten(1)
    assert_equal([columns, rows], [jacobian, jacobian.mT])


def test_the_fit_finds_the_truth_of_a_sigmoid_from_many_starts() -> None:
    X, truth = torch.randn(200, 3, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    Y = torch.sigmoid(X @ truth)
    for start in (None, *torch.randn(20, 3, 2, dtype=torch.float64)):
        theta, result = fit_dense_least_squares(X, Y, start, activation="sigmoid", xtol=1e-12)
        assert result.success
        assert_equal([theta], [truth], 1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_noisy_fit_ends_where_the_gradient_vanishes(activation) -> None:
    X, truth = torch.randn(100, 3), torch.randn(3, 2)
    Y = ACTIVATIONS[activation](X @ truth) + 0.1 * torch.randn(100, 2)
    theta, _ = fit_dense_least_squares(X, Y, activation=activation, gtol=1e-12, ftol=1e-12, xtol=1e-12)
    assert theta.dtype == X.dtype
    at = theta.requires_grad_()
    (gradient,) = torch.autograd.grad(dense_least_squares(X, at, Y, activation=activation), at)
    assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (torch.zeros(7, 3), torch.zeros(6, 2), "Y must be of shape"),
        (torch.zeros(7, 3), torch.zeros(4, 7, 2), "without batch dimensions"),
        (torch.zeros(7, 3), torch.full((7, 2), torch.nan), "finite"),
    ],
)
def test_a_fit_refuses_what_it_cannot_fit(X, Y, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit_dense_least_squares(X, Y)
