"""Entropy bundles against Clarabel's exponential cones, closed forms and finite differences."""

import importlib
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, autograd

import icnn

from .examples import leaves, random_bundle, solver, tensor
from .reference import finite_differences

CLARABEL: Any = importlib.import_module("clarabel")  # a binary module without annotations
gradcheck = partial(autograd.gradcheck, atol=1e-6, rtol=1e-6)
gradgradcheck = partial(autograd.gradgradcheck, atol=1e-6, rtol=1e-6)


def by_cones(G: Tensor, o: Tensor) -> float:
    """min t - H(y) by Clarabel: variables (y, t, u, v), -y log y >= u and -(1 - y) log(1 - y) >= v as cones."""
    k, n = G.shape
    settings = CLARABEL.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    eye, none = sp.identity(n), sp.csc_matrix((n, n))
    column = sp.csc_matrix((n, 1))
    cuts = sp.hstack((sp.csc_matrix(G.numpy()), -np.ones((k, 1)), sp.csc_matrix((k, 2 * n))))
    y_cones = (
        sp.hstack((none, column, -eye, none)),
        sp.hstack((-eye, column, none, none)),
        sp.csc_matrix((n, 3 * n + 1)),
    )
    v_cones = sp.hstack((none, column, none, -eye)), sp.hstack((eye, column, none, none)), sp.csc_matrix((n, 3 * n + 1))
    order = np.arange(3 * n).reshape(3, n).T.ravel()
    zeros, ones = np.zeros(n), np.ones(n)
    A = sp.vstack((cuts, *(sp.vstack(parts).tocsr()[order] for parts in (y_cones, v_cones)))).tocsc()
    b = np.concatenate(
        (-o.numpy(), np.concatenate((zeros, zeros, ones))[order], np.concatenate((zeros, ones, ones))[order])
    )
    cost = np.concatenate((zeros, [1.0], -ones, -ones))
    cones = [CLARABEL.NonnegativeConeT(k)] + [CLARABEL.ExponentialConeT()] * (2 * n)
    size = len(cost)
    result = CLARABEL.DefaultSolver(sp.csc_matrix((size, size)), cost, A, b, cones, settings).solve()
    assert str(result.status) in ("Solved", "AlmostSolved")
    return result.obj_val


def energy(G: Tensor, o: Tensor, y: Tensor) -> Tensor:
    """max_i (g_i'y + o_i) - H(y)."""
    entropy = -(torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)).sum(-1)
    return ((G @ y.unsqueeze(-1)).squeeze(-1) + o).amax(-1) - entropy


def check(G: Tensor, o: Tensor) -> icnn.Solution:
    """Certified, a minimiser of the energy, y = sigmoid(-G'lam) and lam on the simplex."""
    solution = icnn.solve(icnn.EntropyBundle(G, o))
    y, t, lam = solution.x[..., :-1], solution.x[..., -1], solution.lam
    assert solution.residuals.max.max() <= 1e-9
    assert (lam >= 0).all()
    torch.testing.assert_close(lam.sum(-1), torch.ones_like(t), rtol=0, atol=1e-9)
    torch.testing.assert_close(y, torch.sigmoid(-(lam.unsqueeze(-2) @ G.nan_to_num()).squeeze(-2)), rtol=0, atol=1e-9)
    torch.testing.assert_close(solution.objective, energy(G, o, y), rtol=1e-9, atol=1e-9)
    dual = torch.xlogy(lam, 1).sum(-1) + (lam * o.masked_fill(o.isneginf(), 0.0)).sum(-1)
    dual = dual - torch.nn.functional.softplus(-(lam.unsqueeze(-2) @ G).squeeze(-2)).sum(-1)
    torch.testing.assert_close(solution.objective, dual, rtol=1e-8, atol=1e-8)
    return solution


@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 1), (3, 5), (8, 4), (10, 30), (25, 12)])
def test_against_exponential_cones(k: int, n: int) -> None:
    for seed in range(2):
        data = random_bundle(k=k, n=n, seed=seed)
        solution = check(**data)
        assert solution.objective.item() == pytest.approx(by_cones(**data), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("distance", [1e-4, 1e-7, 1e-10])
def test_nearly_equal_cuts(distance: float) -> None:
    data = random_bundle(k=3, n=6)
    G = torch.cat((data["G"], data["G"] + distance * torch.randn(3, 6, dtype=torch.float64)))
    o = torch.cat((data["o"], data["o"] + distance * torch.randn(3, dtype=torch.float64)))
    solution = check(G, o)
    plain = icnn.solve(icnn.EntropyBundle(**data))
    torch.testing.assert_close(solution.objective, plain.objective, rtol=0, atol=1e-8 + 20 * distance)


def test_duplicated_cuts_change_nothing_and_are_flagged() -> None:
    data = random_bundle(k=4, n=6)
    twice = check(torch.cat((data["G"], data["G"])), torch.cat((data["o"], data["o"])))
    once = icnn.solve(icnn.EntropyBundle(**data))
    torch.testing.assert_close(twice.x, once.x, rtol=0, atol=1e-10)
    assert twice.degenerate
    assert not once.degenerate


def test_one_cut_is_a_sigmoid() -> None:
    G, o = 3 * torch.randn(4, 1, 7, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    solution = check(G, o)
    torch.testing.assert_close(solution.x[..., :-1], torch.sigmoid(-G.squeeze(1)), rtol=0, atol=1e-13)
    assert torch.equal(solution.lam, torch.ones(4, 1, dtype=torch.float64))


def test_absent_cuts() -> None:
    data = random_bundle((3,), k=4, n=5)
    o = data["o"].clone()
    o[0, 1:] = o[1, 2] = -torch.inf
    solution = check(data["G"], o)
    assert not solution.lam[o.isneginf()].any()
    torch.testing.assert_close(solution.x[0, :-1], torch.sigmoid(-data["G"][0, 0]), rtol=0, atol=1e-13)
    rest = icnn.solve(icnn.EntropyBundle(data["G"][1, [0, 1, 3]], o[1, [0, 1, 3]]))
    torch.testing.assert_close(solution.x[1], rest.x, rtol=0, atol=1e-11)


def test_gradients_beside_absent_cuts() -> None:
    data = random_bundle(k=4, n=3)
    o = data["o"].clone()
    o[1] = -torch.inf
    G, o = data["G"].requires_grad_(), o.requires_grad_()
    slopes = torch.autograd.grad(icnn.solve(icnn.EntropyBundle(G, o)).x.square().sum(), (G, o))
    assert all(torch.isfinite(slope).all() for slope in slopes)
    assert slopes[1][1] == 0
    assert not slopes[0][1].any()


def test_a_bundle_without_cuts_is_named() -> None:
    data = random_bundle((2,))
    data["o"][1] = -torch.inf
    solution = icnn.solve(icnn.EntropyBundle(**data), on_failure="zero")
    assert solution.status[0] == icnn.Status.OPTIMAL
    assert solution.status[1] != icnn.Status.OPTIMAL


@pytest.mark.parametrize("name", ["G", "o"])
def test_nan_in_one_bundle_stays_there(name: str) -> None:
    data = random_bundle((3,))
    expected = icnn.solve(icnn.EntropyBundle(**data)).x
    data[name][1, 0] = torch.nan
    solution = icnn.solve(icnn.EntropyBundle(**data), on_failure="nan")
    assert solution.status.tolist() == [icnn.Status.OPTIMAL, icnn.Status.NONFINITE_INPUT, icnn.Status.OPTIMAL]
    torch.testing.assert_close(solution.x[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-12)
    assert solution.x[1].isnan().all()


@pytest.mark.parametrize("scale", [1e-4, 1e2, 1e3])
def test_steep_and_flat_cuts(scale: float) -> None:
    for seed in range(3):
        data = random_bundle(k=5, n=8, seed=seed)
        check(scale * data["G"], scale * data["o"])


def test_two_opposed_cuts_of_every_size() -> None:
    """As the first two cuts of an inference are: a Newton step over the bend of the sigmoid goes far astray."""
    sizes = torch.logspace(0, 3, 60, dtype=torch.float64).reshape(-1, 1, 1)
    opposed = tensor([[1.0, 0.8, -0.3], [-0.7, 0.1, 0.9]])
    for o in (tensor([0.0, 0.0]), tensor([0.4, 0.0]), tensor([0.0, 0.3])):
        check(sizes * opposed, sizes.squeeze(-1) * o)


def test_saturated_y() -> None:
    G = tensor([[1e3, -1e3, 0.0], [1e3, -9e2, 1.0]])
    y = check(G, tensor([0.0, 0.0])).x[:3]
    assert y[0] < 1e-300
    assert y[1] == 1
    assert 0.2 < y[2] < 0.8


def test_thousands_of_variables() -> None:
    data = random_bundle((4,), k=10, n=2000)
    solution = check(data["G"] / 20, data["o"])
    assert solution.method == "bundle"
    assert (solution.lam > 1e-6).sum(-1).max() >= 2


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_gradients_of_every_datum_through_every_output(batch: tuple[int, ...]) -> None:
    data = random_bundle(batch, seed=3)
    assert not icnn.solve(icnn.EntropyBundle(**data)).degenerate.any()
    assert gradcheck(solver(icnn.EntropyBundle, data), leaves(data), fast_mode=batch != ())


@pytest.mark.parametrize("method", ["primal", "full", "dual", "bundle"])
def test_gradients_by_every_operator(method: Any) -> None:
    data = random_bundle((3,), seed=3)
    assert gradcheck(solver(icnn.EntropyBundle, data, method=method), leaves(data), fast_mode=True)


def test_gradients_of_shared_cuts() -> None:
    data = random_bundle((4,), seed=3)
    mixed = {"G": data["G"][0], "o": data["o"]}
    assert gradcheck(solver(icnn.EntropyBundle, mixed), leaves(mixed), fast_mode=True)


def test_second_order() -> None:
    data = random_bundle((2,), seed=3)
    assert gradgradcheck(solver(icnn.EntropyBundle, data), leaves(data), fast_mode=True)


def test_the_sign_of_the_gradient_with_respect_to_offsets() -> None:
    """With cuts G y + o <= t the gradient is +c_lam: raising the offset of an active cut raises the value by lam."""
    data = random_bundle(seed=3)
    G, o = data["G"], data["o"].requires_grad_()
    solution = icnn.solve(icnn.EntropyBundle(G, o))
    (slope,) = torch.autograd.grad(solution.objective, o, retain_graph=True)
    torch.testing.assert_close(slope, solution.lam.detach(), rtol=0, atol=1e-10)
    (of_y,) = torch.autograd.grad(solution.x[0], o)
    lam, y = solution.lam.detach(), solution.x.detach()[:-1]
    active = (lam > 1e-6).nonzero().squeeze(-1)
    k, n = len(active), len(y)
    M = torch.zeros(n + k + 1, n + k + 1, dtype=torch.float64)
    M[:n, :n] = torch.diag(1 / y + 1 / (1 - y))
    M[:n, n : n + k], M[n : n + k, :n] = G[active].T, G[active]
    M[n : n + k, -1] = M[-1, n : n + k] = -1
    c = -torch.linalg.solve(M, torch.eye(n + k + 1, dtype=torch.float64)[0])
    torch.testing.assert_close(of_y[active], c[n : n + k], rtol=1e-8, atol=1e-10)


def test_gradient_against_finite_differences_at_the_default_tolerance() -> None:
    data = random_bundle(k=4, n=6, seed=1)

    def losses(G: Tensor) -> Tensor:
        return icnn.solve(icnn.EntropyBundle(G, data["o"])).x.pow(3).sum(-1)

    G = data["G"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(losses(G), G)
    torch.testing.assert_close(slope, finite_differences(losses, G), rtol=1e-6, atol=1e-8)


def test_vmap_over_bundles() -> None:
    data = random_bundle((3,))

    def y(G: Tensor, o: Tensor) -> Tensor:
        return icnn.solve(icnn.EntropyBundle(G, o)).x

    torch.testing.assert_close(torch.vmap(y)(data["G"], data["o"]), y(**data))
