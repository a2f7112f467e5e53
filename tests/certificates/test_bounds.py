"""Bounds hold at every point of the box, and are tight where nothing is lost."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn.certificates.bounds import Interval, output_bounds
from icnn.networks import FICNN, PICNN, ConvFICNN, ConvPICNN

Y = torch.zeros(1, 3)
NETWORKS = [
    lambda: FICNN(5, (8, 4)),
    lambda: PICNN(3, 5, (8,), activation="softplus"),
    lambda: ConvFICNN((1, 4, 3), ((3, 2, 2),), (4,), activation="squareplus"),
    lambda: ConvPICNN((1, 4, 3), (1, 4, 3), ((3, 2, 2),), (4,), activation="elu", x_activation="tanh"),
]


def interval(*arguments, **options) -> Interval:
    found = output_bounds(*arguments, **options)
    assert isinstance(found, Interval)
    return found


@pytest.mark.parametrize("make", NETWORKS)
def test_networks_stay_within(make) -> None:
    f = make().double()
    low, high = -0.5, 1.5
    box = {"x": (low, high), "y": (low, high)} if f.x_shape else {"y": (low, high)}
    found = interval(f, bounds=box)
    shapes = [shape for shape in (f.x_shape, f.y_shape) if shape is not None]
    values = f(*(torch.empty(2000, *shape).uniform_(low, high).double() for shape in shapes)).detach()
    assert bool(found.lower.isfinite() & found.upper.isfinite())
    assert bool((values >= found.lower).all() & (values <= found.upper).all())


FUNCTIONS = {
    "square": lambda y: y.square(),
    "cube": lambda y: y**3,
    "sine": torch.sin,
    "gelu": F.gelu,
    "mish": F.mish,
    "norm": lambda y: y.norm(dim=-1),
    "log-sum-exp": lambda y: y.logsumexp(-1),
    "division": lambda y: y / (1 + y.square()),
    "reciprocal": lambda y: 1 / (y - 5),
    "pole": lambda y: 1 / (y + 0.1),
    "minimum": lambda y: torch.minimum(y, y.flip(-1).exp()),
    "elu": lambda y: F.elu(-y, 2.0),
    "steep": lambda y: F.leaky_relu(y, -0.5),
    "softmax": lambda y: 3 * torch.softmax(y, -1) - 1,
    "cosh": torch.cosh,
    "layer norm": lambda y: F.layer_norm(y, (3,), torch.tensor([1.0, -2, 0]).double(), torch.ones(3).double()),
    "group norm": lambda y: F.group_norm(y[:, None], 1, torch.ones(1).double()),
    "instance norm": lambda y: F.instance_norm(y[None]),
    "Huber": lambda y: F.huber_loss(y, torch.full_like(y, 0.3), reduction="none", delta=0.4),
    "smooth l1": lambda y: F.smooth_l1_loss(y, torch.full_like(y, 0.3), reduction="none", beta=0.0),
    "squared error": lambda y: F.mse_loss(y, torch.full_like(y, 0.3), reduction="none"),
    "distances": lambda y: torch.cdist(y, torch.eye(3).double(), p=3.0),
    "hypotenuse": lambda y: torch.hypot(y, y - 1),
    "entropy": lambda y: torch.special.entr((y + 2) / 5),
    "negative entropy": lambda y: torch.xlogy(y + 3, 3 + y),
    "running maximum": lambda y: y.cummax(-1).values,
    "linear interpolation": lambda y: F.interpolate(y[:, None], scale_factor=2.0, mode="linear"),
    "soft shrinkage": lambda y: F.softshrink(y, 0.7),
    "quadratic form": lambda y: (y * (y @ torch.tensor([[2.0, 1, 0], [1, 2, 0], [0, 0, 1]]).double())).sum(-1),
    "logistic loss": lambda y: F.binary_cross_entropy_with_logits(y, torch.full_like(y, 0.3), reduction="none"),
    "clamp": lambda y: y.clamp(-0.3, 0.2) * y,
    "fraction": lambda y: y.abs() ** 0.3 + (y + 3) ** -2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_stay_within(name: str) -> None:
    f = FUNCTIONS[name]
    found = interval(f, Y.double(), bounds={0: (-2.0, 1.5)})
    values = f(torch.empty(5000, 3).uniform_(-2, 1.5).double())
    assert bool(((values >= found.lower - 1e-12) & (values <= found.upper + 1e-12)).all())


def test_what_is_standardised_is_bounded_without_a_box() -> None:
    weight, bias = torch.tensor([1.0, -2.0, 0.0]).double(), torch.tensor([0.5, 0.0, 3.0]).double()
    found = interval(lambda y: F.layer_norm(y, (3,), weight, bias), Y.double(), bounds={})
    torch.testing.assert_close(found.upper[0], 3**0.5 * weight.abs() + bias)
    torch.testing.assert_close(found.lower[0], -(3**0.5) * weight.abs() + bias)


def test_a_quadratic_form_with_positive_eigenvalues_is_not_negative() -> None:
    found = interval(lambda y: (y * (y @ torch.tensor([[2.0, -1], [-1, 2]]))).sum(-1), torch.zeros(2), bounds={})
    assert float(found.lower) == 0


def test_tight_where_each_input_is_used_once() -> None:
    f = nn.Linear(3, 4).double()
    found = interval(f, Y.double(), bounds={"input": (-1.0, 1.0)})
    reach = f.weight.abs().sum(-1)
    torch.testing.assert_close(found.upper, (f.bias + reach)[None])
    torch.testing.assert_close(found.lower, (f.bias - reach)[None])


def test_without_bounds_they_are_infinite_and_where_nothing_is_known_too() -> None:
    def both(y: Tensor) -> tuple[Tensor, Tensor]:
        return y.exp(), torch.special.bessel_j0(y)

    first, second = output_bounds(both, Y, bounds={})
    assert isinstance(first, Interval)
    assert isinstance(second, Interval)
    assert bool((first.lower == 0).all())
    assert bool(second.upper.isinf().all())


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(ValueError, match="depends on the values"):
        output_bounds(lambda y: y if bool(y.sum() > 0) else -y, Y, bounds={0: (0, 1)})
