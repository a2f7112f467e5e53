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


both_domains = pytest.mark.parametrize("simplex", [False, True], ids=["box", "simplex"])


def by_cones(G: Tensor, o: Tensor, simplex: bool) -> float:
    """min t - H(y) by Clarabel: variables (y, t, u), one exponential cone -e log e >= u for every e = y, 1 - y."""
    k, n = G.shape
    settings = CLARABEL.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    terms = [(1.0, 0.0)] if simplex else [(1.0, 0.0), (-1.0, 1.0)]
    eye, (of_u, of_e, _) = sp.identity(n), (sp.csc_matrix(unit).T for unit in np.eye(3))
    e_rows = sp.vstack([-sign * sp.kron(eye, of_e) for sign, _ in terms])
    u_rows = sp.kron(sp.identity(len(terms)), -sp.kron(eye, of_u))
    rows = [[G.numpy(), -np.ones((k, 1)), None], [e_rows, None, u_rows]] + [[np.ones((1, n)), None, None]] * simplex
    cone_sides = [np.tile([0.0, offset, 1.0], n) for _, offset in terms]
    b = np.concatenate((-o.numpy(), *cone_sides, [1.0] * simplex))
    cost = np.concatenate((np.zeros(n), [1.0], -np.ones(n * len(terms))))
    cones = [CLARABEL.NonnegativeConeT(k)] + [CLARABEL.ExponentialConeT()] * (n * len(terms))
    cones += [CLARABEL.ZeroConeT(1)] * simplex
    A, none = sp.bmat(rows).tocsc(), sp.csc_matrix((len(cost), len(cost)))
    result = CLARABEL.DefaultSolver(none, cost, A, b, cones, settings).solve()
    assert str(result.status) in ("Solved", "AlmostSolved")
    return result.obj_val


def energy(G: Tensor, o: Tensor, y: Tensor, simplex: bool) -> Tensor:
    """max_i (g_i'y + o_i) - H(y)."""
    entropy = -torch.xlogy(y, y).sum(-1)
    if not simplex:
        entropy = entropy - torch.xlogy(1 - y, 1 - y).sum(-1)
    return ((G @ y.unsqueeze(-1)).squeeze(-1) + o).amax(-1) - entropy


def minimiser(z: Tensor, simplex: bool) -> Tensor:
    """argmin z'y - H(y)."""
    return torch.softmax(-z, -1) if simplex else torch.sigmoid(-z)


def check(G: Tensor, o: Tensor, simplex: bool = False) -> icnn.Solution:
    """Certified, a minimiser of the energy, y that of G'lam, lam on the simplex, and nu stationary."""
    solution = icnn.solve(icnn.EntropyBundle(G, o, simplex=simplex))
    y, t, lam = solution.x[..., :-1], solution.x[..., -1], solution.lam
    z = (lam.unsqueeze(-2) @ G.nan_to_num()).squeeze(-2)
    assert solution.residuals.max.max() <= 1e-9
    assert (lam >= 0).all()
    torch.testing.assert_close(lam.sum(-1), torch.ones_like(t), rtol=0, atol=1e-9)
    torch.testing.assert_close(y, minimiser(z, simplex), rtol=0, atol=1e-9)
    torch.testing.assert_close(solution.objective, energy(G, o, y, simplex), rtol=1e-9, atol=1e-9)
    conjugate = torch.logsumexp(-z, -1) if simplex else torch.nn.functional.softplus(-z).sum(-1)
    dual = (lam * o.masked_fill(o.isneginf(), 0.0)).sum(-1) - conjugate
    torch.testing.assert_close(solution.objective, dual, rtol=1e-8, atol=1e-8)
    assert solution.nu.shape == (*t.shape, int(simplex))
    if simplex:
        torch.testing.assert_close(y.sum(-1), torch.ones_like(t), rtol=0, atol=1e-14)
        left = (y * (y.clamp_min(1e-300).log() + 1 + z + solution.nu)).abs().amax(-1)
        assert (left <= 1e-12 * (1 + z.abs().amax(-1))).all()
    return solution


@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 1), (3, 5), (8, 4), (10, 30), (25, 12)])
@both_domains
def test_against_exponential_cones(simplex: bool, k: int, n: int) -> None:
    for seed in range(2):
        data = random_bundle(k=k, n=n, seed=seed)
        solution = check(**data, simplex=simplex)
        assert solution.objective.item() == pytest.approx(by_cones(**data, simplex=simplex), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("distance", [1e-4, 1e-7, 1e-10])
@both_domains
def test_nearly_equal_cuts(simplex: bool, distance: float) -> None:
    data = random_bundle(k=3, n=6)
    G = torch.cat((data["G"], data["G"] + distance * torch.randn(3, 6, dtype=torch.float64)))
    o = torch.cat((data["o"], data["o"] + distance * torch.randn(3, dtype=torch.float64)))
    solution = check(G, o, simplex)
    plain = icnn.solve(icnn.EntropyBundle(**data, simplex=simplex))
    torch.testing.assert_close(solution.objective, plain.objective, rtol=0, atol=1e-8 + 20 * distance)


@both_domains
def test_duplicated_cuts_change_nothing_and_are_flagged(simplex: bool) -> None:
    data = random_bundle(k=4, n=6)
    twice = check(torch.cat((data["G"], data["G"])), torch.cat((data["o"], data["o"])), simplex)
    once = icnn.solve(icnn.EntropyBundle(**data, simplex=simplex))
    torch.testing.assert_close(twice.x, once.x, rtol=0, atol=1e-10)
    assert twice.degenerate
    assert not once.degenerate


@both_domains
def test_one_cut_is_a_sigmoid_or_a_softmax(simplex: bool) -> None:
    G, o = 3 * torch.randn(4, 1, 7, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    solution = check(G, o, simplex)
    torch.testing.assert_close(solution.x[..., :-1], minimiser(G.squeeze(1), simplex), rtol=0, atol=1e-13)
    assert torch.equal(solution.lam, torch.ones(4, 1, dtype=torch.float64))


@both_domains
def test_absent_cuts(simplex: bool) -> None:
    data = random_bundle((3,), k=4, n=5)
    o = data["o"].clone()
    o[0, 1:] = o[1, 2] = -torch.inf
    solution = check(data["G"], o, simplex)
    assert not solution.lam[o.isneginf()].any()
    torch.testing.assert_close(solution.x[0, :-1], minimiser(data["G"][0, 0], simplex), rtol=0, atol=1e-13)
    rest = icnn.solve(icnn.EntropyBundle(data["G"][1, [0, 1, 3]], o[1, [0, 1, 3]], simplex=simplex))
    torch.testing.assert_close(solution.x[1], rest.x, rtol=0, atol=1e-11)


@both_domains
def test_gradients_beside_absent_cuts(simplex: bool) -> None:
    data = random_bundle(k=4, n=3)
    o = data["o"].clone()
    o[1] = -torch.inf
    G, o = data["G"].requires_grad_(), o.requires_grad_()
    slopes = torch.autograd.grad(icnn.solve(icnn.EntropyBundle(G, o, simplex=simplex)).x.square().sum(), (G, o))
    assert all(torch.isfinite(slope).all() for slope in slopes)
    assert slopes[1][1] == 0
    assert not slopes[0][1].any()


@both_domains
def test_a_bundle_without_cuts_is_named(simplex: bool) -> None:
    data = random_bundle((2,))
    data["o"][1] = -torch.inf
    solution = icnn.solve(icnn.EntropyBundle(**data, simplex=simplex), on_failure="zero")
    assert solution.status[0] == icnn.Status.OPTIMAL
    assert solution.status[1] != icnn.Status.OPTIMAL


@pytest.mark.parametrize("name", ["G", "o"])
@both_domains
def test_nan_in_one_bundle_stays_there(simplex: bool, name: str) -> None:
    data = random_bundle((3,))
    expected = icnn.solve(icnn.EntropyBundle(**data, simplex=simplex))
    data[name][1, 0] = torch.nan
    inputs = leaves(data)
    solution = icnn.solve(icnn.EntropyBundle(inputs[0], inputs[1], simplex=simplex), on_failure="nan")
    assert solution.status.tolist() == [icnn.Status.OPTIMAL, icnn.Status.NONFINITE_INPUT, icnn.Status.OPTIMAL]
    for part in ("x", "nu", "lam"):
        ours, right = getattr(solution, part), getattr(expected, part)
        torch.testing.assert_close(ours[[0, 2]], right[[0, 2]], rtol=0, atol=1e-12)
        assert ours[1].isnan().all()
    for slope in torch.autograd.grad(solution.x.square().sum(), inputs):
        assert torch.isfinite(slope[[0, 2]]).all()
        assert slope[1].isnan().all()


@pytest.mark.parametrize("scale", [1e-4, 1e2, 1e3])
@both_domains
def test_steep_and_flat_cuts(simplex: bool, scale: float) -> None:
    for seed in range(3):
        data = random_bundle(k=5, n=8, seed=seed)
        check(scale * data["G"], scale * data["o"], simplex)


@pytest.mark.parametrize("scale", [1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize(("k", "n"), [(2, 3), (5, 8), (10, 50), (20, 10)])
def test_steep_cuts_over_the_simplex(k: int, n: int, scale: float) -> None:
    """One ulp of lam moves a cut by 1e-16 scale^2: no better can it be held against an entropy of order 1."""
    data = random_bundle((32,), k=k, n=n)
    G, o = scale * data["G"], scale * data["o"]
    solution = icnn.solve(icnn.EntropyBundle(G.requires_grad_(), o, simplex=True), on_failure="zero")
    solved = solution.status == icnn.Status.OPTIMAL
    assert solved.double().mean() >= (0.95 if scale == 1e6 else 1.0)
    y, lam = solution.x.detach()[:, :-1], solution.lam.detach()
    values = (G.detach() @ y.unsqueeze(-1)).squeeze(-1) + o
    assert (values.amax(-1) - (lam * values).sum(-1) <= 1e-15 * scale**2)[solved].all()
    (slope,) = torch.autograd.grad(solution.objective.sum(), G)
    torch.testing.assert_close(slope[solved], (lam.unsqueeze(-1) * y.unsqueeze(-2))[solved], rtol=1e-6, atol=1e-6)
    assert not slope[~solved].any()


@both_domains
def test_two_opposed_cuts_of_every_size(simplex: bool) -> None:
    """As the first two cuts of an inference are: a Newton step over the bend of the sigmoid goes far astray."""
    sizes = torch.logspace(0, 3, 60, dtype=torch.float64).reshape(-1, 1, 1)
    opposed = tensor([[1.0, 0.8, -0.3], [-0.7, 0.1, 0.9]])
    for o in (tensor([0.0, 0.0]), tensor([0.4, 0.0]), tensor([0.0, 0.3])):
        check(sizes * opposed, sizes.squeeze(-1) * o, simplex)


def test_saturated_y() -> None:
    G = tensor([[1e3, -1e3, 0.0], [1e3, -9e2, 1.0]])
    y = check(G, tensor([0.0, 0.0])).x[:3]
    assert y[0] < 1e-300
    assert y[1] == 1
    assert 0.2 < y[2] < 0.8


@pytest.mark.parametrize("scale", [1.0, 300.0, 1e3, 1e6])
def test_derivatives_of_probabilities_that_underflow(scale: float) -> None:
    G, o = (scale * torch.randn(3, 1, 5, dtype=torch.float64)).requires_grad_(), torch.zeros(3, 1, dtype=torch.float64)
    weights = torch.randn(3, 5, dtype=torch.float64)
    ours = icnn.solve(icnn.EntropyBundle(G, o, simplex=True)).x[:, :-1]
    slopes = []
    for y in (ours, torch.softmax(-G[:, 0], -1)):
        (first,) = torch.autograd.grad((weights * y).sum(), G, create_graph=True)
        slopes.append((first, *torch.autograd.grad(first.square().sum(), G)))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("simplex", "method"), [(False, "bundle"), (True, "dual")], ids=["box", "simplex"])
def test_thousands_of_variables(simplex: bool, method: str) -> None:
    data = random_bundle((4,), k=10, n=2000)
    solution = check(data["G"] / 20, data["o"] / 20, simplex)
    assert solution.method == method
    assert (solution.lam > 1e-6).sum(-1).max() >= 2


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@both_domains
def test_gradients_of_every_datum_through_every_output(simplex: bool, batch: tuple[int, ...]) -> None:
    data, kind = random_bundle(batch, seed=3), partial(icnn.EntropyBundle, simplex=simplex)
    assert not icnn.solve(kind(data["G"], data["o"])).degenerate.any()
    assert gradcheck(solver(kind, data), leaves(data), fast_mode=batch != ())


@pytest.mark.parametrize(
    ("simplex", "method"),
    [(False, "bundle"), *((simplex, method) for simplex in (False, True) for method in ("primal", "full", "dual"))],
)
def test_gradients_by_every_operator(simplex: bool, method: Any) -> None:
    data, kind = random_bundle((3,), seed=3), partial(icnn.EntropyBundle, simplex=simplex)
    assert gradcheck(solver(kind, data, method=method), leaves(data), fast_mode=True)


@both_domains
def test_gradients_of_shared_cuts(simplex: bool) -> None:
    data = random_bundle((4,), seed=3)
    mixed = {"G": data["G"][0], "o": data["o"]}
    assert gradcheck(solver(partial(icnn.EntropyBundle, simplex=simplex), mixed), leaves(mixed), fast_mode=True)


@both_domains
def test_second_order(simplex: bool) -> None:
    data = random_bundle((2,), seed=3)
    assert gradgradcheck(solver(partial(icnn.EntropyBundle, simplex=simplex), data), leaves(data), fast_mode=True)


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


@both_domains
def test_gradient_against_finite_differences_at_the_default_tolerance(simplex: bool) -> None:
    data = random_bundle(k=4, n=6, seed=1)

    def losses(G: Tensor) -> Tensor:
        return icnn.solve(icnn.EntropyBundle(G, data["o"], simplex=simplex)).x.pow(3).sum(-1)

    G = data["G"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(losses(G), G)
    torch.testing.assert_close(slope, finite_differences(losses, G), rtol=1e-6, atol=1e-8)


@both_domains
def test_vmap_over_bundles(simplex: bool) -> None:
    data = random_bundle((3,))

    def y(G: Tensor, o: Tensor) -> Tensor:
        return icnn.solve(icnn.EntropyBundle(G, o, simplex=simplex)).x

    torch.testing.assert_close(torch.vmap(y)(data["G"], data["o"]), y(**data))
