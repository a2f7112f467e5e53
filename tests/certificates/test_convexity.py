"""falsify finds what is there, returns witnesses that hold, and invents nothing."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn.certificates import Violation, falsify
from icnn.networks import ACTIVATIONS, FICNN, PICNN, Activation, ConvFICNN, ConvPICNN, project_


def excess(f, violation: Violation, *x: Tensor) -> float:
    """The gap of the witness, computed anew."""
    t, y1, y2 = violation.t, violation.y1, violation.y2
    return (f(*x, t * y1 + (1 - t) * y2) - t * f(*x, y1) - (1 - t) * f(*x, y2)).item()


NOT_CONVEX = {
    "concave": lambda y: -y.square().sum(-1),
    "wave": lambda y: torch.sin(9 * y).sum(-1),
    "concave kink": lambda y: -(y - 0.5).abs().sum(-1),
    "faint saddle": lambda y: y[..., 0].square() - 1e-4 * y[..., 1].square() + y[..., 2],
    "dent": lambda y: (y - 0.5).square().sum(-1) - 0.02 * torch.exp(-200 * (y - 0.3).square().sum(-1)),
    "thin ridge": lambda y: 50 * (y[..., 0] + y[..., 1]).square() - 1e-3 * (y[..., 0] - y[..., 1]).square(),
}
CONVEX = {
    "affine": lambda y: 1e3 - y.sum(-1),
    "constant": lambda y: 0 * y.sum(-1),
    "square": lambda y: y.square().sum(-1),
    "kinks": lambda y: (y[..., None, :] - torch.linspace(0, 1, 7, dtype=y.dtype)[:, None]).abs().sum((-1, -2)),
    "log-sum-exp": lambda y: torch.logsumexp(20 * y, -1),
    "stiff": lambda y: 1e6 * y[..., 0].square() + 1e-6 * y[..., 1].square() - 1e4,
}


@pytest.mark.parametrize("name", NOT_CONVEX)
def test_finds_a_chord_that_holds(name: str) -> None:
    f = NOT_CONVEX[name]
    found = falsify(f, y_shape=(3,))
    assert found is not None
    assert excess(f, found) == pytest.approx(found.gap, rel=1e-6)
    assert found.gap > 0
    for end in (found.y1, found.y2):
        assert ((end >= 0) & (end <= 1)).all()


@pytest.mark.parametrize("seed", range(3))
def test_finds_a_narrow_dent_among_many_kinks(seed: int) -> None:
    def f(y: Tensor) -> Tensor:
        kinks = 8 * (y[..., None] - torch.linspace(0.05, 0.95, 7).to(y)).abs().sum((-1, -2))
        return kinks - F.relu(1e-3 - (y[..., 0] - 0.52).abs())

    found = falsify(f, y_shape=(20,), seed=seed)
    assert found is not None
    assert excess(f, found) == pytest.approx(found.gap, rel=1e-6)


@pytest.mark.parametrize("name", CONVEX)
def test_invents_nothing(name: str) -> None:
    assert falsify(CONVEX[name], y_shape=(3,)) is None


def test_bounds_are_where_it_looks() -> None:
    def f(y: Tensor) -> Tensor:
        return torch.cos(y).sum(-1)  # convex on (π/2, 3π/2) only

    assert falsify(f, y_shape=(2,), bounds=(math.pi / 2, 3 * math.pi / 2)) is None
    assert falsify(f, y_shape=(2,), bounds=(torch.tensor([1.0, 2.0]), math.pi)) is not None


@pytest.mark.parametrize("activation", ["relu", "softplus", "elu"])
@pytest.mark.parametrize(
    "make",
    [
        lambda activation: FICNN(5, (8, 8), activation, positivity="project"),
        lambda activation: PICNN(3, 5, (8, 8), activation, positivity="project"),
        lambda activation: ConvFICNN((1, 4, 2), ((3, 2, 2),), (6,), activation, positivity="project"),
        lambda activation: ConvPICNN((1, 4, 2), (1, 4, 2), ((3, 2, 2),), (6,), activation, positivity="project"),
    ],
)
def test_networks_before_and_after_projection(make, activation: str) -> None:
    f = make(activation)
    x = None if f.x_shape is None else torch.rand(4, *f.x_shape)
    assert falsify(f, x, samples=32, steps=10) is None
    with torch.no_grad():
        f.layers[-1].path.raw.neg_()
    found = falsify(f, x, samples=32)
    assert found is not None
    context = () if x is None else (found.x.double(),)  # pyright: ignore
    assert excess(f.double(), found, *context) == pytest.approx(found.gap, rel=1e-6)
    assert falsify(project_(f.float()), x, samples=32, steps=10) is None


def test_one_bad_instance_among_many_is_named() -> None:
    f = PICNN(1, 3, (6,), activation=CLAIMED)
    x = torch.linspace(-1, 1, 5)[:, None]
    found = falsify(f, x)
    assert found is not None
    assert found.x is not None
    assert found.x.shape == (1,)


# Claims what is not so: the registry would refuse tanh by name.
CLAIMED = Activation("claimed", torch.tanh, convex=True, nondecreasing=True, smooth=True)


@pytest.mark.parametrize("function", [torch.tanh, torch.sin, F.gelu])
def test_finds_an_activation_that_does_not_keep_its_word(function) -> None:
    wrapped = Activation("claimed", function, convex=True, nondecreasing=True)
    assert falsify(FICNN(4, (8,), wrapped), bounds=(-2, 2)) is not None


def test_finds_a_convex_activation_that_decreases() -> None:
    wrapped = Activation("claimed", torch.abs, convex=True, nondecreasing=True, piecewise_linear=True)
    assert falsify(FICNN(4, (8, 8), wrapped), bounds=(-2, 2)) is not None
    assert not ACTIVATIONS["abs"].nondecreasing


def test_plain_modules_and_functions_of_x() -> None:
    plain = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    assert falsify(plain, y_shape=(3,), bounds=(-2, 2)) is not None
    assert falsify(nn.Linear(3, 1), y_shape=(3,)) is None
    x = torch.tensor(-1.0)
    assert falsify(lambda x, y: x * y.square().sum(-1), x, y_shape=(3,)) is not None
    assert falsify(lambda x, y: x * y.square().sum(-1), -x, y_shape=(3,)) is None


def test_evaluates_modules_without_their_noise_and_leaves_them_alone() -> None:
    f = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))
    state = torch.get_rng_state()
    assert falsify(f, y_shape=(3,)) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert f.training
    assert next(f.parameters()).dtype == torch.float32
    assert all(p.grad is None for p in f.parameters())


def test_same_seed_same_witness() -> None:
    first, second, other = (falsify(NOT_CONVEX["wave"], y_shape=(3,), seed=seed) for seed in (1, 1, 2))
    assert first is not None
    assert second is not None
    assert other is not None
    assert torch.equal(first.y1, second.y1)
    assert not torch.equal(first.y1, other.y1)


def test_a_violation_cannot_be_changed() -> None:
    found = falsify(NOT_CONVEX["concave"], y_shape=(2,))
    assert found is not None
    with pytest.raises(AttributeError):
        found.gap = 0.0  # pyright: ignore[reportAttributeAccessIssue]


def test_the_door() -> None:
    with pytest.raises(ValueError, match="y_shape is needed"):
        falsify(lambda y: y.sum(-1))
    with pytest.raises(ValueError, match="bounds are contradictory"):
        falsify(lambda y: y.sum(-1), y_shape=(2,), bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="f is not finite"):
        falsify(lambda y: (y - 0.5).log().sum(-1), y_shape=(2,))
