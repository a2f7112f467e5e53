"""Units made to measure: slopes, groups and centring, in every architecture."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import icnn
from icnn.networks import FICNN, PICNN, Activation, ResidualICNN, centred, leaky_relu, log_sum_exp, maxout, norm
from icnn.networks.initialisation import moments

from .test_energy import by_autograd, given
from .test_network import ROUNDING, build, curvature, every_architecture, gaps, point, train

UNITS = [maxout(2), maxout(3), norm(2), log_sum_exp(3, 0.5), leaky_relu(0.2), centred("softplus"), centred(maxout(2))]
every_unit = pytest.mark.parametrize("unit", UNITS, ids=[unit.name for unit in UNITS])


@every_architecture
@every_unit
def test_convex_and_curved_at_the_start_and_after_training(name: str, unit: Activation) -> None:
    f = build(name, activation=unit, positivity="exp")
    for _ in range(2):
        assert gaps(f).max() <= ROUNDING
        assert curvature(f) > 1e-3
        assert f.is_convex()
        train(f)


@every_architecture
@every_unit
def test_value_and_slope_are_those_of_autograd(name: str, unit: Activation) -> None:
    energy = given(f := build(name, activation=unit), 3)
    y = point(f.y_shape, 2, 3)
    tangent, (value, slope) = energy.tangent(y), by_autograd(energy, y)
    torch.testing.assert_close(tangent.value, value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent.slope, slope, rtol=1e-11, atol=1e-12)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert repr(other) == repr(f)
    if f.piecewise_linear:
        piece = energy.piece(y, tangent.units)
        torch.testing.assert_close(piece.slope, slope, rtol=1e-11, atol=1e-12)
        assert piece.slope.requires_grad


@every_unit
def test_units_are_convex_and_nondecreasing_as_claimed(unit: Activation) -> None:
    a, b = torch.randn(2, 4000, unit.pieces, dtype=torch.float64).mul(3)
    if unit.pieces == 1:
        a, b = a.squeeze(-1), b.squeeze(-1)
    assert (unit((a + b) / 2) <= (unit(a) + unit(b)) / 2 + 1e-12).all()
    assert (unit(torch.maximum(a, b)) >= unit(a) - 1e-12).all()
    assert (unit.slope(a) >= 0).all()


def test_formulas() -> None:
    v = torch.tensor([[3.0, -1.0], [-2.0, -4.0], [3.0, 4.0]])
    torch.testing.assert_close(maxout(2)(v), torch.tensor([3.0, -2.0, 4.0]))
    torch.testing.assert_close(norm(2)(v), torch.tensor([3.0, 0.0, 5.0]))
    torch.testing.assert_close(log_sum_exp(2)(v), torch.logsumexp(v, -1))
    torch.testing.assert_close(log_sum_exp(2, 1e-3)(v), maxout(2)(v))
    torch.testing.assert_close(leaky_relu(0.3)(v), F.leaky_relu(v, 0.3))


@pytest.mark.parametrize(
    "activation", ["relu", "softplus", "squared_relu", maxout(3), norm(2)], ids=lambda a: getattr(a, "name", a)
)
def test_centred_units_have_mean_zero_and_the_same_slope(activation) -> None:
    unit = centred(activation)
    assert moments(unit).mean == pytest.approx(0, abs=1e-9)
    v = torch.randn(9, unit.pieces, dtype=torch.float64)
    assert torch.equal(unit.slope(v), (icnn.networks.ACTIVATIONS.get(str(activation)) or activation).slope(v))  # pyright: ignore


def test_maxout_with_its_formula() -> None:
    f, y = FICNN(3, (4,), maxout(3), "abs").double(), torch.randn(7, 3, dtype=torch.float64)
    first, last = f.layers
    z = (y @ first.skip.weight.T).reshape(7, 4, 3).add(first.skip.bias).amax(-1)  # pyright: ignore
    value = z @ last.path.raw.abs().T + y @ last.skip.weight.T + last.skip.bias  # pyright: ignore
    torch.testing.assert_close(f(y), value.squeeze(-1))


def test_what_is_not_convex_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slope is 2\.0, expected 0 <= slope <= 1"):
        leaky_relu(2.0)
    with pytest.raises(ValueError, match="maxout has 1 pieces"):
        maxout(1)
    with pytest.raises(ValueError, match="temperature is 0"):
        log_sum_exp(2, 0.0)
    with pytest.raises(ValueError, match=r"x_activation 'maxout\(2\)' takes 2 numbers to one"):
        PICNN(2, 3, x_activation=maxout(2))


@pytest.mark.parametrize("unit", [maxout(2), log_sum_exp(2), norm(2)], ids=lambda unit: unit.name)
@pytest.mark.parametrize("make", [lambda unit: FICNN(3, (5, 4), unit), lambda unit: ResidualICNN(3, 5, 3, None, unit)])
def test_argmin_finds_the_minimum(unit: Activation, make) -> None:
    f = make(unit).double()
    solution = icnn.argmin(
        f, regularizer="entropy", gradient="none" if unit.name == "norm(2)" else "implicit", max_iter=60
    )
    others = torch.rand(2000, 3, dtype=torch.float64)
    with torch.no_grad():
        best = (f(others) + torch.special.xlogy(others, others).sum(-1)).add(
            torch.special.xlogy(1 - others, 1 - others).sum(-1)
        )
    assert solution.gap < 1e-6
    assert solution.value <= best.min() + 1e-6
    if unit.name != "norm(2)":
        solution.y.square().sum().backward()
        slopes = [p.grad for p in f.parameters() if p.grad is not None]  # a constant does not move the minimiser
        assert len(slopes) >= len(list(f.parameters())) - 1
        assert all(slope.isfinite().all() for slope in slopes)
