"""One-layer models, and differences of convex networks."""

import copy
import pickle

import pytest
import torch

import icnn
from icnn.certificates import falsify
from icnn.networks import FICNN, PICNN, DifferenceOfConvex, LogSumExp, MaxAffine

MODELS = [lambda **o: MaxAffine(3, 7, **o), lambda **o: LogSumExp(3, 7, 0.4, **o)]
every_model = pytest.mark.parametrize("make", MODELS, ids=["max", "log-sum-exp"])


@pytest.mark.parametrize("temperature", [0.2, 3.0])
def test_formulas(temperature: float) -> None:
    y = torch.randn(9, 3, dtype=torch.float64)
    for f, value in (
        (MaxAffine(3, 7).double(), lambda v: v.amax(-1)),
        (LogSumExp(3, 7, temperature).double(), lambda v: temperature * torch.logsumexp(v / temperature, -1)),
    ):
        affine = f.layers[0].skip
        torch.testing.assert_close(f(y), value(y @ affine.weight.T + affine.bias.squeeze(0)))  # pyright: ignore


@every_model
@pytest.mark.parametrize("options", [{}, dict(quadratic=1), dict(monotone=(1, 0, -1))], ids=str)
def test_convex_with_slopes_of_autograd_and_copies(make, options: dict) -> None:
    f = make(**options).double()
    assert falsify(f, bounds=(-2, 2), steps=20) is None
    y = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f(y).sum(), y)
    tangent = f.given().tangent(y.detach())
    torch.testing.assert_close(tangent.slope, slope, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangent.value, f(y).detach(), rtol=1e-12, atol=1e-12)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert torch.equal(other(y), f(y))
    if "monotone" in options:
        assert (slope[:, 0] >= 0).all()
        assert (slope[:, 2] <= 0).all()


@every_model
def test_argmin_is_differentiable(make) -> None:
    f = make().double()
    assert f.smooth != f.piecewise_linear
    solution = icnn.argmin(f, regularizer="entropy")
    assert solution.gap < 1e-8
    weights = list(f.parameters())
    slopes = torch.autograd.grad(solution.y.square().sum(), weights)
    direction = [torch.randn_like(weight) for weight in weights]
    ends = []
    for side in (1e-6, -1e-6):
        moved = copy.deepcopy(f)
        with torch.no_grad():
            for weight, way in zip(moved.parameters(), direction, strict=True):
                weight.add_(side * way)
        ends.append(
            icnn.argmin(moved, regularizer="entropy", gradient="implicit", max_iter=100).y.square().sum().item()
        )
    expected = (ends[0] - ends[1]) / 2e-6
    got = sum(float((slope * way).sum()) for slope, way in zip(slopes, direction, strict=True))
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_log_sum_exp_lies_above_the_maximum_by_at_most_its_bound() -> None:
    smooth, sharp = LogSumExp(3, 7, 0.1), MaxAffine(3, 7)
    sharp.load_state_dict(smooth.state_dict())
    y = torch.randn(200, 3)
    excess = smooth(y) - sharp(y)
    assert (excess >= -1e-6).all()
    assert (excess <= 0.1 * torch.tensor(7.0).log() + 1e-6).all()


def test_differences_and_their_majorants() -> None:
    h = DifferenceOfConvex(PICNN(2, 3, (6,), "softplus"), PICNN(2, 3, (5, 4))).double()
    x, y0, y = torch.randn(20, 2).double(), torch.randn(20, 3).double(), torch.randn(50, 20, 3).double()
    torch.testing.assert_close(h(x, y0), h.f(x, y0) - h.g(x, y0))
    torch.testing.assert_close(h.given(x)(y)[3], h(x, y[3]))
    above = h.majorant(y0, x)
    torch.testing.assert_close(above(y0), h(x, y0))
    assert (above(y) >= h.given(x)(y) - 1e-10).all()
    assert falsify(h.majorant(y0[0], x[0]), y_shape=(3,), bounds=(-2, 2), steps=20) is None
    assert not h.is_convex()
    assert pickle.loads(pickle.dumps(h))(x, y0).equal(h(x, y0))


def test_a_difference_is_found_out_as_not_convex() -> None:
    affine, curved = FICNN(3, ()), FICNN(3, (8,), "softplus")
    assert falsify(DifferenceOfConvex(affine, curved), bounds=(-2, 2)) is not None


def test_differences_need_equal_shapes() -> None:
    with pytest.raises(ValueError, match=r"y_shape \(3,\) and \(4,\), expected equal ones"):
        DifferenceOfConvex(FICNN(3), FICNN(4))
