"""Minima and maxima over a box: equal to brute force, between their certificates, alone as in a batch."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import icnn
from icnn import ConvexNetwork, Extremum, extrema
from icnn.networks import ConvFICNN, ConvPICNN

from .test_exact import NETWORKS, build, by_hand, context

UNITS = [
    "relu",
    icnn.leaky_relu(0.1),
    icnn.maxout(2),
    "softplus",
    "elu",
    "squared_relu",
    icnn.norm(2),
    icnn.log_sum_exp(2, 0.3),
]
PLANE = {
    "FICNN": lambda **o: icnn.FICNN(2, (6, 5), **o),
    "PICNN": lambda **o: icnn.PICNN(3, 2, (6, 5), **o),
    "ConvFICNN": lambda **o: ConvFICNN((1, 2), ((3, 2, 1),), (4,), **o),
    "ConvPICNN": lambda **o: ConvPICNN((2, 2), (1, 2), ((3, 2, 1),), (4,), **o),
    "ResidualICNN": lambda **o: icnn.ResidualICNN(2, 6, 4, **o),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda a: getattr(a, "name", a))
terms = pytest.mark.parametrize("options", [{}, dict(quadratic=1)], ids=["", "quadratic"])


def within(f: ConvexNetwork, x: Tensor | None, low: float, high: float, count: int) -> Tensor:
    """Values at random points of the box, (count, *batch)."""
    batch = () if x is None or f.x_shape is None else x.shape[: x.ndim - len(f.x_shape)]
    y = torch.empty(count, *batch, *f.y_shape, dtype=torch.float64).uniform_(low, high)
    with torch.no_grad():
        return f.given(x)(y)


def brackets(found: Extremum, values: Tensor, largest: bool) -> bool:
    end = values.amax(0) if largest else values.amin(0)
    return bool(((found.upper >= end - 1e-11) if largest else (found.lower <= end + 1e-11)).all())


@pytest.mark.parametrize("name", PLANE)
@every_unit
@terms
def test_the_plane_against_a_grid(name: str, unit, options: dict) -> None:
    f = PLANE[name](activation=unit, **options).double()
    x, side = context(f), torch.linspace(-2, 2, 401).double()
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        values = f.given(x)(grid.reshape(-1, *f.y_shape))
    found = extrema(f, x, bounds=(-2, 2))
    spacing = 0.01 / 2**0.5 * icnn.curvature_bounds(f, x, bounds=(-2, 2)).lipschitz
    assert bool(found.minimum.exact & found.maximum.exact)
    assert values.min() - spacing <= found.minimum.upper <= values.min() + 1e-7
    assert found.minimum.lower <= values.min()
    torch.testing.assert_close(found.maximum.upper, values.max(), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(f.given(x)(found.minimum.y), found.minimum.upper, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(f.given(x)(found.maximum.y), found.maximum.lower, rtol=1e-12, atol=1e-12)


@every_network
@pytest.mark.parametrize("unit", UNITS[:3], ids=lambda a: getattr(a, "name", a))
@terms
def test_minima_of_piecewise_linear_networks_against_highs_and_clarabel(name: str, unit, options: dict) -> None:
    f = build(name, unit, **options)
    x = context(f, 3)
    found = extrema(f, x, bounds=(-1, 1)).minimum
    assert bool(found.exact.all())
    for i in range(3 if x is not None else 1):
        expected = by_hand(f, None if x is None else x[i], -1.0, 1.0)
        ours = found.upper if x is None else found.upper[i]
        assert float(ours) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@every_network
@every_unit
def test_random_points_lie_between(name: str, unit) -> None:
    f = build(name, unit)
    x = context(f, 2)
    found = extrema(f, x, bounds=(-1, 1))
    values = within(f, x, -1, 1, 10_000)
    assert brackets(found.minimum, values, largest=False)
    assert brackets(found.maximum, values, largest=True)
    assert not brackets(replace(found.maximum, upper=values.mean(0)), values, largest=True), "the check can fail"
    assert bool((found.minimum.y.abs() <= 1).all() & (found.maximum.y.abs() == 1).all())
    if unit != UNITS[6]:
        assert bool(found.minimum.exact.all())
    assert bool((found.minimum.gap >= 0).all() & (found.maximum.gap >= 0).all())


@pytest.mark.parametrize("unit", ["relu", "softplus", icnn.maxout(2)], ids=lambda a: getattr(a, "name", a))
@terms
def test_maxima_against_all_vertices(unit, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """By enumeration, and by branch and bound where that is too much."""
    f = icnn.PICNN(2, 8, (10, 6), unit, **options).double()
    x = torch.randn(3, 2).double()
    vertices = torch.tensor(list(itertools.product((-1.0, 0.5), repeat=8))).double()[:, None].expand(-1, 3, -1)
    with torch.no_grad():
        values = f.given(x)(vertices)
    tried = extrema(f, x, bounds=(-1, 0.5)).maximum
    torch.testing.assert_close(tried.upper, values.amax(0), rtol=1e-12, atol=1e-12)
    assert torch.equal(tried.lower, tried.upper)
    monkeypatch.setattr("icnn.inference.maximum.ENUMERATED", 4)
    searched = extrema(f, x, bounds=(-1, 0.5)).maximum
    torch.testing.assert_close(searched.lower, values.amax(0), rtol=1e-12, atol=1e-12)
    assert bool(searched.exact.all())
    monkeypatch.setattr("icnn.inference.maximum.ROUNDS", 1)
    cut = extrema(f, x, bounds=(-1, 0.5)).maximum
    assert bool((cut.upper >= values.amax(0)).all())
    assert not bool(cut.exact.all())


@pytest.mark.parametrize("unit", ["relu", "softplus"])
def test_maxima_of_many_variables_are_bounded_better_than_by_intervals(unit: str) -> None:
    f = icnn.FICNN(30, (24, 12), unit).double()
    found = extrema(f, bounds=(-1, 1)).maximum
    intervals = icnn.output_bounds(f, bounds={"y": (-1.0, 1.0)})
    assert isinstance(intervals, icnn.Interval)
    assert found.lower <= found.upper < 0.5 * intervals.upper
    assert found.lower > within(f, None, -1, 1, 2000).max()


@pytest.mark.parametrize("name", ["PICNN", "ConvPICNN"])
@pytest.mark.parametrize("unit", ["relu", "softplus"])
def test_the_same_alone_as_in_a_batch(name: str, unit: str) -> None:
    f = build(name, unit)
    x = context(f, 2, 2)
    assert x is not None
    low = torch.rand(2, 2, *f.y_shape).double() - 1
    together = extrema(f, x, bounds=(low, 1.0))
    assert together.minimum.y.shape == low.shape
    for i, j in itertools.product(range(2), repeat=2):
        alone = extrema(f, x[i, j], bounds=(low[i, j], 1.0))
        for one, other in ((together.minimum, alone.minimum), (together.maximum, alone.maximum)):
            torch.testing.assert_close(one.upper[i, j], other.upper, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(one.lower[i, j], other.lower, rtol=1e-8, atol=1e-8)
    empty = extrema(f, x[:0], bounds=(0, 1))
    assert empty.minimum.lower.shape == empty.maximum.upper.shape == (0, 2)


@pytest.mark.parametrize("unit", ["relu", "elu", icnn.norm(2)], ids=lambda a: getattr(a, "name", a))
@terms
def test_fixed_variables(unit, options: dict) -> None:
    f = icnn.FICNN(5, (8, 6), unit, **options).double()
    at = torch.tensor([0.3, -0.2, 0.7]).double()
    low, high = -torch.ones(5).double(), torch.ones(5).double()
    low[2:] = high[2:] = at
    found = extrema(f, bounds=(low, high))
    side = torch.linspace(-1, 1, 101).double()
    grid = torch.cat((torch.cartesian_prod(side, side), at.expand(101**2, 3)), 1)
    with torch.no_grad():
        values = f(grid)
    assert bool(found.minimum.exact & found.maximum.exact)
    assert found.minimum.upper <= values.min() + 1e-9
    assert values.min() - found.minimum.lower < 0.05
    torch.testing.assert_close(found.maximum.upper, values.max())
    assert torch.equal(found.minimum.y[2:], at)
    point = extrema(f, bounds=(grid[5], grid[5]))
    for one in (point.minimum, point.maximum):
        torch.testing.assert_close(torch.stack((one.lower, one.upper)), values[5].expand(2))


def test_one_box_for_each_instance_of_a_network_without_x() -> None:
    f = icnn.FICNN(3, (6,)).double()
    low = torch.randn(4, 3).double()
    found = extrema(f, bounds=(low, low + 1))
    for i in range(4):
        alone = extrema(f, bounds=(low[i], low[i] + 1))
        torch.testing.assert_close(found.minimum.upper[i], alone.minimum.upper)
        torch.testing.assert_close(found.maximum.upper[i], alone.maximum.upper)


def test_a_minimum_on_a_kink_of_a_norm_is_found_by_its_tangents() -> None:
    """|[y − a]₊| + |[a − y]₊| has its minimum at a, zero, on which no tangent is flat."""
    f = icnn.FICNN(2, (2,), icnn.norm(2), skips=False).double()
    with torch.no_grad():
        f.layers[0].skip.weight.copy_(torch.cat((torch.eye(2), -torch.eye(2))))  # pyright: ignore
        f.layers[0].skip.bias.copy_(torch.tensor([[-0.3, 0.4], [0.3, -0.4]]))  # pyright: ignore
        f.layers[1].path.raw.fill_(1.0)  # pyright: ignore
        f.layers[1].bias.zero_()  # pyright: ignore
    found = extrema(f, bounds=(-1, 1)).minimum
    assert bool(found.exact)
    assert float(found.upper) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(found.y, torch.tensor([0.3, -0.4]).double(), rtol=0, atol=1e-8)
    cut = extrema(f, bounds=(-1, 1), tol=1e-15, max_iter=1).minimum
    assert cut.lower <= 0 <= cut.upper


def test_an_activation_of_which_nothing_is_known() -> None:
    def steep(v: Tensor) -> Tensor:
        return torch.maximum(torch.maximum(v, 2 * v - 1), torch.zeros_like(v))

    own = icnn.networks.Activation("own", steep, convex=True, nondecreasing=True, piecewise_linear=True)
    f = icnn.FICNN(3, (5, 4), own).double()
    found = extrema(f, bounds=(-1, 1))
    told = extrema(_with_lines(f), bounds=(-1, 1))
    assert bool(found.minimum.exact)
    torch.testing.assert_close(found.minimum.upper, told.minimum.upper, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.maximum.upper, told.maximum.upper)


def _with_lines(f: icnn.FICNN) -> icnn.FICNN:
    f.activation = replace(f.activation, lines=(((0.0,), 0.0), ((1.0,), 0.0), ((2.0,), -1.0)))
    return f


def test_an_energy_without_layers() -> None:
    class Bowl(icnn.FICNN):
        def given(self, x=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            return lambda y: (y - 0.25).square().sum(-1)

    found = extrema(Bowl(3, (4,)), bounds=(torch.zeros(2, 3), 1.0))
    torch.testing.assert_close(found.minimum.y, torch.full((2, 3), 0.25).double())
    torch.testing.assert_close(found.maximum.upper, torch.full((2,), 3 * 0.75**2).double())
    many = extrema(Bowl(14, (4,)), bounds=(0, 1)).maximum
    assert float(many.lower) == pytest.approx(14 * 0.75**2)
    assert many.upper == torch.inf
    assert not bool(many.exact)


def test_without_native_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(problem, **options):
        if isinstance(problem, icnn.SparseQP):
            raise ImportError("sparse problems need highspy")
        return icnn.solve(problem, **options)

    f = build("FICNN")
    expected = extrema(f, bounds=(-1, 1)).minimum.upper
    monkeypatch.setattr("icnn.inference.minimum.SMALL", 0)
    by_highs = extrema(f, bounds=(-1, 1)).minimum
    monkeypatch.setattr("icnn.inference.minimum.solve", missing)
    by_ours = extrema(f, bounds=(-1, 1)).minimum
    for found in (by_highs, by_ours):
        assert bool(found.exact)
        torch.testing.assert_close(found.upper, expected)


def test_single_precision_and_the_description() -> None:
    f = icnn.PICNN(2, 3, (5,))
    found = extrema(f, torch.randn(4, 2), bounds=(0, 1))
    assert found.minimum.lower.dtype == torch.float64
    assert repr(found.minimum) == "Extremum(y: (4, 3), 4 of 4 exact)"
    assert not found.minimum.upper.requires_grad


def test_weights_that_are_not_finite_are_not_exact() -> None:
    for unit, size in itertools.product(("relu", "softplus"), (3, 14)):
        f = icnn.FICNN(size, (4,), unit)
        with torch.no_grad():
            f.layers[0].skip.weight[0, 0] = torch.nan  # pyright: ignore
        found = extrema(f, bounds=(0, 1))
        assert not bool(found.minimum.exact | found.maximum.exact)


def test_what_is_refused() -> None:
    f = icnn.FICNN(3, (4,), positivity="project")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        (dict(bounds=(1, 0)), "bounds are contradictory, expected lower <= upper"),
        (dict(bounds=(-np.inf, 0)), "bounds are infinite, expected finite"),
        (dict(bounds=(torch.zeros(4), 1)), r"bounds have shapes \(4,\) and \(\), expected numbers, \(3,\)"),
        (dict(bounds=(0, 1), tol=0.0), "tol must be positive; got 0.0"),
        (dict(bounds=(0, 1), max_iter=0), "max_iter must be positive; got 0"),
    )
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            extrema(f, **options)
    with pytest.raises(ValueError, match="FICNN has no x"):
        extrema(f, torch.zeros(2), bounds=(0, 1))
    with torch.no_grad():
        f.layers[1].path.raw.neg_()  # pyright: ignore
    with pytest.raises(ValueError, match="f is not convex in y"):
        extrema(f, bounds=(0, 1))
