"""The facts that the registry claims are true, and activations without them are refused by name."""

import pytest
import torch

from icnn.networks import ACTIVATIONS, CONVEX_ACTIVATIONS, FICNN, PICNN, Activation, ConvFICNN, ConvPICNN

GRID = torch.linspace(-8, 8, 3201, dtype=torch.float64)
REFUSED = sorted(set(ACTIVATIONS) - set(CONVEX_ACTIVATIONS))


def is_convex(activation: Activation) -> bool:
    slope = activation(GRID).diff()
    return bool((slope.diff() >= -1e-12).all())


def is_nondecreasing(activation: Activation) -> bool:
    return bool((activation(GRID).diff() >= -1e-12).all())


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=list(ACTIVATIONS))
def test_convex_and_nondecreasing_are_what_the_grid_shows(activation: Activation) -> None:
    assert activation.convex == is_convex(activation)
    assert activation.nondecreasing == is_nondecreasing(activation)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=list(ACTIVATIONS))
def test_smooth_and_piecewise_linear_are_what_second_derivatives_show(activation: Activation) -> None:
    hessian = torch.vmap(torch.func.grad(torch.func.grad(activation.function)))(GRID + 1e-4)
    assert activation.piecewise_linear == bool((hessian == 0).all())
    jumps = hessian.diff().abs().max() > 0.2 or activation.name in (
        "relu",
        "leaky_relu",
        "relu6",
        "hardtanh",
        "abs",
    )
    assert activation.smooth == (not jumps)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=list(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_are_those_of_autograd_also_at_kinks(activation: Activation, dtype: torch.dtype) -> None:
    grid = torch.cat((GRID, torch.tensor([0.0, 1e-30, -1e-30, 20.0, 20.1, 50.0, -50.0, 1e4, -1e4]))).to(dtype)
    leaf = grid.clone().requires_grad_()
    (expected,) = torch.autograd.grad(activation(leaf).sum(), leaf)
    with torch.no_grad():
        slope = activation.slope(grid)
    torch.testing.assert_close(slope, expected, rtol=4 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", CONVEX_ACTIVATIONS)
def test_activations_that_carry_y_know_their_derivative(name: str) -> None:
    assert ACTIVATIONS[name].derivative is not None


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(
    "build",
    [
        lambda name: FICNN(3, activation=name),
        lambda name: PICNN(2, 3, activation=name),
        lambda name: ConvFICNN((1, 4, 4), activation=name),
        lambda name: ConvPICNN((1, 4, 4), (1, 4, 4), activation=name),
    ],
)
def test_others_are_refused_by_name_with_a_reason(build, name: str) -> None:
    reason = "decreases somewhere" if ACTIVATIONS[name].convex else "is not convex"
    with pytest.raises(ValueError, match=f"activation '{name}' {reason}.*allowed are relu, leaky_relu"):
        build(name)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="activation 'swoosh' is unknown; known are relu"):
        FICNN(3, activation="swoosh")
    with pytest.raises(ValueError, match="x_activation 'swoosh' is unknown"):
        PICNN(2, 3, x_activation="swoosh")


def test_x_path_takes_any_activation() -> None:
    for name in ACTIVATIONS:
        assert PICNN(2, 3, (4,), x_activation=name)(torch.rand(5, 2), torch.rand(5, 3)).isfinite().all()


def test_registry_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        ACTIVATIONS["tanh"] = ACTIVATIONS["relu"]  # pyright: ignore[reportIndexIssue]
    with pytest.raises(AttributeError):
        ACTIVATIONS["tanh"].convex = True  # pyright: ignore[reportAttributeAccessIssue]
