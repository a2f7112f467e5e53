"""The compiled dual of entropy bundles: optimality conditions in numpy, SLSQP, the torch loop, and its parts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

import icnn

pytest.importorskip("numba")

from icnn.solvers.kernels import bundle, bundle_cuts, bundle_interior, bundle_model

Array = NDArray[np.float64]

SHAPES = ((1, 1), (1, 7), (2, 1), (3, 5), (6, 3), (10, 8), (9, 40), (17, 33), (10, 159), (40, 20), (64, 30))
MILD = ("unit", "flat", "tangents", "pieces", "absent", "offsets")
STEEP = ("scale 1e2", "scale 1e4", "scale 1e6", "steep tangents", "steep pieces", "columns", "rows", "opposed")
CLOSE = ("near 1e-3", "near 1e-6", "near 1e-8", "near 1e-11", "cluster", "repeated", "parallel", "dependent")
KINDS = MILD + STEEP + CLOSE


def draw(kind: str, batch: int, k: int, n: int, seed: int = 0) -> tuple[Array, Array]:
    """Bundles (G, o) of a kind."""
    rng = np.random.default_rng([seed, k, n])
    G, o = rng.normal(size=(batch, k, n)), 0.3 * rng.normal(size=(batch, k))
    name, _, size = kind.partition(" ")
    if kind == "flat":
        G, o = 1e-4 * G, 1e-4 * o
    elif kind == "offsets":
        o = o * 10 ** rng.uniform(-4, 4, o.shape)
    elif kind == "absent":
        o = np.where(rng.random(o.shape) < 0.4, -np.inf, o)
        o[:, -1] = 0.0
    elif name == "scale":
        G, o = float(size) * G, float(size) * o
    elif kind == "columns":
        G = G * 10 ** rng.uniform(-3, 3, (batch, 1, n))
    elif kind == "rows":
        G = G * 10 ** rng.uniform(-3, 3, (batch, k, 1))
    elif kind == "opposed":
        G = 10 ** rng.uniform(0, 3, (batch, 1, 1)) * (np.sign(rng.normal(size=(batch, k, 1))) * G[:, :1] + 0.3 * G)
    elif name in ("near", "repeated", "parallel"):
        distance, half = float(size or 0), (k + 1) // 2
        G[:, half:] = G[:, : k - half] + distance * G[:, half:]
        if kind != "parallel":
            o[:, half:] = o[:, : k - half] + distance * o[:, half:]
    elif kind == "cluster":
        G, o = G[:, :1] + 1e-7 * G, o[:, :1] + 1e-7 * o
    elif kind == "dependent":
        share = rng.dirichlet(np.ones(min(k, 3)), (batch, k))
        G, o = share @ G[:, :3], np.einsum("bkr,br->bk", share, o[:, :3])
    elif kind.endswith("tangents"):
        G, o = tangents(rng, batch, k, n, 300.0 if kind.startswith("steep") else 1.0)
    elif kind.endswith("pieces"):
        G, o = pieces(rng, batch, k, n, 300.0 if kind.startswith("steep") else 1.0)
    return G, o


def tangents(rng: Generator, batch: int, k: int, n: int, scale: float) -> tuple[Array, Array]:
    """Of sum q_j (y_j - c_j)^2 / 2."""
    points, q = rng.uniform(size=(batch, k, n)), scale * np.exp(rng.normal(size=(batch, 1, n)))
    away = points - rng.uniform(size=(batch, 1, n))
    return q * away, (0.5 * q * away**2 - q * away * points).sum(-1)


def pieces(rng: Generator, batch: int, k: int, n: int, scale: float) -> tuple[Array, Array]:
    """Of a sum of ReLUs: many of them are the same."""
    points, W, b = rng.uniform(size=(batch, k, n)), rng.normal(size=(batch, 5, n)), rng.normal(size=(batch, 1, 5))
    active = np.einsum("bkn,bhn->bkh", points, W) + b > 0
    return scale * np.einsum("bkh,bhn->bkn", active, W), scale * (active * b).sum(-1)


def solve(G: Array, o: Array, tol: float = 1e-9, max_iter: int = 100, start: Array | None = None) -> dict[str, Any]:
    """`entropy_dual` in numpy."""
    begin = None if start is None else torch.from_numpy(start)
    dual = bundle.entropy_dual(torch.from_numpy(G), torch.from_numpy(o), tol, max_iter, begin)
    return {name: part.numpy() for name, part in dual._asdict().items()}


def residual(G: Array, o: Array, lam: Array, y: Array, t: Array) -> Array:
    """The largest violation of the optimality conditions, relative to the terms, for every instance."""
    present = np.isfinite(o)
    slope = np.einsum("bk,bkn->bn", lam, G)
    slack = t[:, None] - np.einsum("bkn,bn->bk", G, y) - np.where(present, o, 0.0)
    size = np.maximum(1.0, abs(slope).max(-1))
    rows = np.maximum(1.0, abs(G).max(-1)) * np.maximum(1.0, abs(t))[:, None]
    parts = (
        abs(y - expit(-slope)).max(-1) / size,
        abs(lam.sum(-1) - 1),
        np.maximum(-lam, 0.0).max(-1) + abs(np.where(present, 0.0, lam)).max(-1),
        np.where(present, np.maximum(-slack, 0.0) / rows, 0.0).max(-1),
        abs(np.where(present, lam * slack, 0.0)).sum(-1) / np.maximum(size, abs(t)),
    )
    return np.max(parts, axis=0)


@pytest.mark.parametrize("kind", KINDS)
def test_optimality_conditions(kind: str) -> None:
    for k, n in SHAPES:
        G, o = draw(kind, 12, k, n)
        dual = solve(G, o)
        done, error = dual["done"], residual(G, o, dual["lam"], dual["y"], dual["t"])
        assert (error[done] <= 1e-9).all(), (k, n)
        if kind in MILD + CLOSE:
            assert error.max() <= 1e-12, (k, n)
        if kind == "scale 1e6":  # where one ulp of lam moves a cut by 1e-4, and which way the last bits fall decides
            assert (done.mean() >= 0.75) & (error.max() <= 1e-8), (k, n)
        else:
            assert done.all(), (k, n)


def test_the_residual_notices_every_kind_of_error() -> None:
    G, o = draw("unit", 3, 4, 5)
    dual = solve(G, o)
    good = {name: dual[name] for name in ("lam", "y", "t")}
    idle = dual["lam"].argmin(-1)
    shifted = dual["lam"].copy()
    shifted[np.arange(3), idle] += 1e-3
    for bad in ({"y": dual["y"] + 1e-6}, {"lam": 1.001 * dual["lam"]}, {"t": dual["t"] - 1e-6}, {"lam": shifted}):
        assert (residual(G, o, **{**good, **bad}) > 1e-8).all()


@pytest.mark.parametrize("k", range(1, 65))
def test_every_number_of_cuts(k: int) -> None:
    G, o = draw("tangents", 3, k, 2 * k + 1, seed=k)
    dual = solve(G, o)
    assert residual(G, o, dual["lam"], dual["y"], dual["t"]).max() <= 1e-13


@pytest.mark.parametrize("n", [1, 31, 32, 33, 511, 512, 513, 2048])
def test_every_number_of_columns(n: int) -> None:
    G, o = draw("unit", 2, 5, n)
    dual = solve(G, o)
    assert residual(G, o, dual["lam"], dual["y"], dual["t"]).max() <= 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_against_slsqp(seed: int) -> None:
    G, o = (a[0] for a in draw("unit", 1, 6, 9, seed=seed))

    def objective(lam: Array) -> tuple[float, Array]:
        z = lam @ G
        return float(np.logaddexp(0.0, -z).sum() - o @ lam), -G @ expit(-z) - o

    simplex = {"type": "eq", "fun": lambda lam: lam.sum() - 1, "jac": np.ones_like}
    options = {"ftol": 1e-15, "maxiter": 500}
    start, bounds = np.full(6, 1 / 6), [(0.0, 1.0)] * 6
    expected = minimize(objective, start, jac=True, method="SLSQP", bounds=bounds, constraints=simplex, options=options)
    dual = solve(G[None], o[None])
    np.testing.assert_allclose(dual["lam"][0], expected.x, rtol=0, atol=1e-6)
    assert objective(dual["lam"][0])[0] <= expected.fun + 1e-12


@pytest.mark.parametrize("kind", ["unit", "tangents", "absent", "offsets", "scale 1e2", "opposed", "near 1e-3"])
def test_agrees_with_the_torch_loop(kind: str) -> None:
    compared = 0
    for k, n in ((3, 5), (6, 3), (10, 8), (9, 40), (10, 159), (30, 20)):
        G, o = draw(kind, 30, k, n, seed=1)
        expected = icnn.solve(
            icnn.EntropyBundle(torch.from_numpy(G), torch.from_numpy(o)),
            method="dual",
            tol=1e-11,
            max_iter=200,
            on_failure="zero",
        )
        regular = ((expected.status == icnn.Status.OPTIMAL) & ~expected.degenerate).numpy()
        dual = solve(G, o)
        np.testing.assert_allclose(dual["y"][regular], expected.x[:, :-1].numpy()[regular], rtol=0, atol=1e-9)
        np.testing.assert_allclose(dual["lam"][regular], expected.lam.numpy()[regular], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(dual["idle"][regular], (expected.lam <= 1e-8).numpy()[regular])
        assert not (dual["weak"].any(-1) | dual["singular"])[regular].any()
        compared += regular.sum()
    assert compared >= 150


def test_an_instance_is_solved_alike_alone_and_beside_bad_ones() -> None:
    G, o = draw("tangents", 20, 7, 30)
    G[3], o[4] = draw("scale 1e6", 1, 7, 30)[0][0], -np.inf
    together = solve(G, o)
    bad_G, bad_o = G.copy(), o.copy()
    bad_G[5, 2, 3], bad_G[6, 0, 0], bad_o[7, 1] = np.nan, np.inf, np.nan
    beside = solve(bad_G, bad_o)
    assert not beside["done"][[5, 6, 7]].any()
    for i in (0, 3, 8, 19):
        alone = solve(G[i : i + 1], o[i : i + 1])
        for name, value in alone.items():
            np.testing.assert_array_equal(together[name][i], value[0])
            np.testing.assert_array_equal(beside[name][i], value[0])


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
def test_threads_change_nothing() -> None:
    G, o = draw("steep tangents", 64, 10, 300)
    threaded = solve(G, o)
    torch.set_num_threads(1)
    for name, value in solve(G, o).items():
        np.testing.assert_array_equal(threaded[name], value)


def test_no_instances_and_no_cuts() -> None:
    assert solve(np.zeros((0, 3, 4)), np.zeros((0, 3)))["y"].shape == (0, 4)
    dual = solve(np.ones((2, 3, 4)), np.array([[-np.inf] * 3, [0.0, -np.inf, -np.inf]]))
    assert dual["done"].all()
    np.testing.assert_array_equal(dual["t"][0], -np.inf)
    np.testing.assert_array_equal(dual["lam"], [[0.0] * 3, [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(dual["idle"], [[True] * 3, [False, True, True]])


def test_one_cut_is_a_sigmoid() -> None:
    G, o = draw("unit", 5, 1, 7)
    dual = solve(G, o)
    np.testing.assert_allclose(dual["y"], expit(-G[:, 0]), rtol=1e-15)
    assert (dual["lam"] == 1).all()
    assert not dual["iterations"].any()
    for name in ("weak", "idle", "singular"):
        assert not dual[name].any()


def test_arguments_need_not_be_contiguous() -> None:
    G, o = map(torch.from_numpy, draw("unit", 4, 3, 6))
    wide = torch.cat((G, G), -1)[..., :6]
    assert not wide.is_contiguous()
    expected = bundle.entropy_dual(G, o, 1e-9, 50)
    for part, value in zip(bundle.entropy_dual(wide, o.mT.contiguous().mT, 1e-9, 50), expected, strict=True):
        assert torch.equal(part, value)


def test_a_start_at_the_solution_needs_no_step() -> None:
    G, o = draw("tangents", 10, 8, 50)
    cold = solve(G, o)
    warm = solve(G, o, start=3 * cold["lam"])
    assert warm["iterations"].max() <= 1
    assert cold["iterations"].min() >= 3
    np.testing.assert_allclose(warm["lam"], cold["lam"], rtol=0, atol=1e-12)


def test_a_start_with_a_new_cut() -> None:
    G, o = draw("tangents", 10, 8, 50)
    old = solve(G[:, :7], o[:, :7])
    warm = solve(G, o, start=np.pad(old["lam"], ((0, 0), (0, 1))))
    np.testing.assert_allclose(warm["lam"], solve(G, o)["lam"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_start_of_no_use_is_not_used(value: float) -> None:
    G, o = draw("unit", 4, 5, 6)
    cold, useless = solve(G, o), solve(G, o, start=np.full((4, 5), value))
    for name, expected in cold.items():
        np.testing.assert_array_equal(useless[name], expected)


@pytest.mark.parametrize("max_iter", [0, 1, 2, 21, 25])
def test_the_budget_is_kept(max_iter: int) -> None:
    G, o = draw("scale 1e4", 10, 10, 20)
    dual = solve(G, o, max_iter=max_iter)
    assert dual["iterations"].max() == max_iter
    assert not dual["done"].all()
    np.testing.assert_allclose(dual["lam"].sum(-1), 1.0, rtol=1e-14)
    assert solve(G, o)["done"].all()


def test_repeated_cuts_are_singular() -> None:
    G, o = draw("unit", 10, 4, 12)
    once, twice = solve(G, o), solve(np.concatenate((G, G), 1), np.concatenate((o, o), 1))
    flagged = twice["weak"].any(-1) | twice["singular"]
    assert not (once["weak"].any(-1) | once["singular"]).any()
    several = (once["lam"] > 0).sum(-1) > 1
    assert several.any()
    assert flagged[several].all()
    np.testing.assert_allclose(twice["y"], once["y"], rtol=0, atol=1e-13)


def test_a_cut_through_the_solution_is_weakly_active() -> None:
    G, o = draw("unit", 6, 3, 12)
    before = solve(G, o)
    slope = np.random.default_rng(5).normal(size=(6, 1, 12))
    offset = before["t"][:, None] - np.einsum("bkn,bn->bk", slope, before["y"])
    touching = solve(np.concatenate((G, slope), 1), np.concatenate((o, offset), 1))
    assert touching["weak"][:, -1].all()
    assert not touching["idle"][:, -1].any()
    for distance in (1e-4, -1e-4):
        apart = solve(np.concatenate((G, slope), 1), np.concatenate((o, offset - distance), 1))
        assert not apart["weak"].any()
        assert (apart["idle"][:, -1] == (distance > 0)).all()


@pytest.mark.parametrize("kind", [*STEEP, "unit", "near 1e-6", "repeated"])
def test_the_interior_point_alone_comes_close(kind: str) -> None:
    """Its weights, made a point of the simplex, leave a small gap; `newton` from there needs but a few systems."""
    for k, n in ((3, 5), (10, 8), (10, 159)):
        G, o = draw(kind, 10, k, n)
        weights, iterations = np.zeros_like(o), np.zeros(10, np.int64)
        bundle_interior.interior_range(0, 10, G, o, n, 60, weights, iterations)
        assert iterations.max() <= 30
        weights[~weights.any(-1)] = 1.0  # of cuts that are all the same it keeps none
        lam = weights / weights.sum(-1, keepdims=True)
        y = expit(-np.einsum("bk,bkn->bn", lam, G))
        cuts = np.einsum("bkn,bn->bk", G, y) + o
        gap = cuts.max(-1) - (lam * cuts).sum(-1)
        assert (gap <= 1e-3 * abs(G).max((1, 2))).all()
        assert solve(G, o, start=weights)["iterations"].max() <= 8


def test_exponential_to_two_ulp() -> None:
    a = np.concatenate((np.linspace(0, 708, 20_011), np.logspace(-300, 2, 5_003)))
    found = np.array([bundle_cuts.exp_minus(x) for x in a])
    assert (abs(found - np.exp(-a)) <= 2 * np.spacing(np.exp(-a))).all()
    assert bundle_cuts.exp_minus(0.0) == 1
    assert bundle_cuts.exp_minus(708.5) == bundle_cuts.exp_minus(np.inf) == 0


def test_sigmoids_and_their_integral() -> None:
    z = np.concatenate((np.linspace(-800, 800, 1600), np.linspace(-2, 2, 448)))
    y, w = np.empty_like(z), np.empty_like(z)
    total = bundle_cuts.sigmoids(z, y, w)
    np.testing.assert_allclose(y, expit(-z), rtol=2e-15, atol=1e-307)
    np.testing.assert_allclose(w, expit(z) * expit(-z), rtol=2e-15, atol=1e-307)
    assert total == pytest.approx(np.logaddexp(0.0, -z).sum(), rel=1e-14)


@pytest.mark.parametrize("m", [1, 3, 4, 7, 12])
def test_products_of_padded_matrices(m: int) -> None:
    rng = np.random.default_rng(m)
    padded = (m + 3) // 4 * 4
    C, w, rows = np.zeros((m + 4, 64)), rng.random(64), np.arange(padded)
    C[:m] = rng.normal(size=(m, 64))
    H, v, out = np.zeros((padded, padded)), np.zeros(padded), np.ones(64)
    lam = np.where(rows < m, rng.random(padded), 0.0)
    bundle_cuts.gram(C, w, rows, padded, H)
    bundle_cuts.dots(C, w, m, v)
    bundle_cuts.combine(C, lam, rows, padded, out)
    np.testing.assert_allclose(np.tril(H[:m, :m]), np.tril((C[:m] * w) @ C[:m].T), rtol=0, atol=1e-12)
    np.testing.assert_allclose(v[:m], C[:m] @ w, rtol=0, atol=1e-12)
    np.testing.assert_allclose(out, 1 + lam[:m] @ C[:m], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [2, 5, 12])
@pytest.mark.parametrize("solver", ["minimise_model", "one_at_a_time"])
def test_the_model_is_minimised_over_the_simplex(rank: int, solver: str) -> None:
    for seed in range(20):
        rng, count = np.random.default_rng([seed, rank]), 12
        root = rng.normal(size=(count, rank))
        H = root @ root.T + np.ones((count, count)) + 1e-14 * np.eye(count)
        model = bundle_model.allocate_model(count)
        lam = rng.dirichlet(np.full(count, 0.3))
        model.H[:count, :count], model.b[:count], model.lam[:count] = H, rng.normal(size=count), lam
        model.inside[:count] = True
        arguments = (1e-13,) if solver == "one_at_a_time" else ()
        assert getattr(bundle_model, solver)(model, count, *arguments) >= 0
        d = model.d[:count]
        x, gradient = lam + d, H @ d - model.b[:count]
        assert x.min() >= -1e-12
        assert x.sum() == pytest.approx(1.0, abs=1e-12)
        assert (gradient.min() + 1e-9) >= gradient[x > 1e-9].max()


def test_the_kernel_serves_entropy_bundles_of_tensors() -> None:
    data: Tensor = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    dual = bundle.entropy_dual(data, torch.zeros(2, 3, dtype=torch.float64), 1e-9, 50)
    assert dual.done.all()
    assert not dual.y.requires_grad
