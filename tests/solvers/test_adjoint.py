"""Derivatives three ways: finite differences, an independent linear solve, closed forms."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, autograd

import icnn

from .examples import (
    Data,
    leaves,
    margin,
    project_by_sorting,
    projection,
    random_lp,
    random_qp,
    simplex,
    solver,
    tensor,
)
from .reference import finite_differences, tangent

gradcheck = partial(autograd.gradcheck, atol=1e-6, rtol=1e-6, fast_mode=True)
gradgradcheck = partial(autograd.gradgradcheck, atol=1e-6, rtol=1e-6, fast_mode=True)
BATCHES = [(), (3,), (2, 3)]
KINDS = [(False, "primal"), (True, "dual"), (False, "full"), (False, "active_set"), (True, "active_set")]

every_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)
every_kind = pytest.mark.parametrize(("diagonal", "method"), KINDS, ids=lambda v: str(v))
torch_itself_warns = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def regular_qp(batch: tuple[int, ...] = (), **options: Any) -> Data:
    """A QP with constraints of all groups active somewhere, and strict complementarity."""
    data = random_qp(batch, seed=options.pop("seed", 2), **options)
    assert margin(icnn.solve(icnn.QP(**data)), data) > 1e-3
    return data


def quarrel(batch: int = 3) -> tuple[Data, int]:
    """A batch of QPs of which one, and only one, is infeasible."""
    data = random_qp((batch,), shared=("A", "b", "lower", "upper"), seed=0)
    data["h"][1] = -100.0
    return data, 1


def alone(data: Data, index: int) -> Data:
    ranks = dict(Q=2, p=1, G=2, h=1, A=2, b=1, lower=1, upper=1)
    return {name: t[index] if t.dim() > ranks[name] else t for name, t in data.items()}


def target_losses(x: Tensor) -> Tensor:
    return 0.5 * (x - torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)).square().sum(-1)


def target_loss(x: Tensor) -> Tensor:
    return target_losses(x).sum()


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@every_kind
def test_qp_gradients_of_every_datum_through_every_output(batch: tuple[int, ...], diagonal: bool, method: Any) -> None:
    data = regular_qp(batch, diagonal=diagonal, seed=1)
    assert gradcheck(solver(icnn.QP, data, method=method), leaves(data))


@pytest.mark.parametrize("method", ["primal", "full"])
def test_qp_gradients_of_a_diagonal_by_the_other_operators(method: Any) -> None:
    data = regular_qp((3,), diagonal=True, seed=1)
    assert gradcheck(solver(icnn.QP, data, method=method), leaves(data))


def test_qp_gradients_entry_by_entry() -> None:
    data = regular_qp(n=3, m=2, seed=11)
    assert gradcheck(solver(icnn.QP, data), leaves(data), fast_mode=False)


@pytest.mark.parametrize(
    "shared", [("Q", "G", "h"), ("p", "A", "b"), ("Q", "A", "b", "lower"), ("G", "h", "lower", "upper")], ids="".join
)
def test_shared_beside_batched_data(shared: tuple[str, ...]) -> None:
    data = regular_qp((2, 3), shared=shared, seed=4)
    assert gradcheck(solver(icnn.QP, data), leaves(data))


@pytest.mark.filterwarnings("ignore::icnn.ZeroGradientWarning")
@pytest.mark.parametrize(("batch", "method"), [((), "primal"), ((2, 3), "primal"), ((3,), "full")], ids=str)
def test_lp_gradients_of_every_datum_through_every_output(batch: tuple[int, ...], method: Any) -> None:
    data = random_lp(batch, seed=3 if batch == () else 5)
    assert margin(icnn.solve(icnn.LP(**data)), data) > 1e-3
    assert gradcheck(solver(icnn.LP, data, method=method), leaves(data))


@every_kind
def test_second_order_where_complementarity_is_strict(diagonal: bool, method: Any) -> None:
    data = regular_qp((2, 3), diagonal=diagonal, m=2, seed=1)
    f = solver(icnn.QP, data, method=method)
    assert gradgradcheck(f, leaves(data))


@pytest.mark.filterwarnings("ignore::icnn.ZeroGradientWarning")
def test_second_order_of_a_linear_program() -> None:
    data = random_lp(seed=3)
    assert gradgradcheck(solver(icnn.LP, data), leaves(data))


def test_third_order() -> None:
    data = regular_qp()

    def slope(p: Tensor) -> tuple[Tensor, ...]:
        value = solver(icnn.QP, data, of=("x",))(*(p if name == "p" else t for name, t in data.items()))
        return torch.autograd.grad(value.pow(3).sum(), p, create_graph=True)

    assert gradgradcheck(slope, (data["p"].requires_grad_(),), fast_mode=False)


def test_second_order_at_a_degenerate_instance_is_refused() -> None:
    point = tensor([[0.5, -1.0], [0.5, 0.0]]).requires_grad_()  # in the second one, x = 0 with multiplier 0
    x = icnn.solve(projection(point, lower=0.0)).x
    (slope,) = torch.autograd.grad(x.square().sum(), point, create_graph=True)
    with pytest.raises(icnn.SolverError, match=r"second order do not exist at batch indices \[\(1,\)\]"):
        torch.autograd.grad(slope.sum(), point)


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_tangent_of_an_independent_linear_solve(seed: int) -> None:
    data = regular_qp(seed=seed)
    direction = regular_qp(seed=seed + 100)
    inputs = leaves(data)
    solution = icnn.solve(icnn.QP(**dict(zip(data, inputs, strict=True))), tol=1e-12)
    expected = tangent(data, solution, direction)
    for name, moved in expected.items():
        value = getattr(solution, name)
        weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype)
        slopes = torch.autograd.grad((weights * value).sum(), inputs, retain_graph=True)
        total = sum(float((slope * step).sum()) for slope, step in zip(slopes, direction.values(), strict=True))
        assert total == pytest.approx(float(weights.numpy() @ moved), rel=1e-9, abs=1e-9), name


def test_projection_onto_a_box() -> None:
    point = torch.tensor([-2.0, -0.3, 0.4, 5.0], dtype=torch.float64, requires_grad=True)
    weights = tensor([1.0, 2.0, 3.0, 4.0])
    lower, upper = (torch.full((4,), v, dtype=torch.float64, requires_grad=True) for v in (-1.0, 1.0))
    solution = icnn.solve(projection(point, lower=lower, upper=upper))
    torch.testing.assert_close(solution.x, point.detach().clamp(-1, 1), rtol=0, atol=1e-12)
    slopes = torch.autograd.grad((weights * solution.x).sum(), (point, lower, upper))
    expected = tensor([0.0, 2.0, 3.0, 0.0]), tensor([1.0, 0.0, 0.0, 0.0]), tensor([0.0, 0.0, 0.0, 4.0])
    for slope, right in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, right, rtol=0, atol=1e-12)


@every_batch
def test_projection_onto_the_simplex(batch: tuple[int, ...]) -> None:
    point = torch.randn(*batch, 7, dtype=torch.float64, requires_grad=True)
    x = icnn.solve(simplex(point)).x
    expected = project_by_sorting(point.detach())
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)
    support = (expected > 0).double()
    assert (support.sum(-1) < 7).all()
    weights = torch.randn_like(point)
    (slope,) = torch.autograd.grad((weights * x).sum(), point)
    mean = (weights * support).sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
    torch.testing.assert_close(slope, support * (weights - mean), rtol=0, atol=1e-11)


def test_shared_parameters_are_summed_not_averaged() -> None:
    data = regular_qp((8,), n=3, m=2, shared=("Q", "G", "h", "A", "b", "lower", "upper"), seed=4)
    for name in ("Q", "G", "h", "A", "b", "lower", "upper"):

        def losses(t: Tensor, name: str = name) -> Tensor:
            t = 0.5 * (t + t.mT) if name == "Q" else t
            shared = t.unsqueeze(1) if t.dim() > data[name].dim() else t
            return target_losses(icnn.solve(icnn.QP(**{**data, name: shared}), tol=1e-12).x).sum(-1)

        leaf = data[name].clone().requires_grad_()
        (slope,) = torch.autograd.grad(losses(leaf), leaf)
        assert slope.abs().max() > 1e-3, name
        torch.testing.assert_close(slope, finite_differences(losses, leaf), rtol=1e-6, atol=1e-7)


def test_gradients_at_the_default_tolerance() -> None:
    for seed in range(5):
        data = random_qp((4,), n=20, m=15, q=4, seed=seed)
        names, inputs = list(data), leaves(data)

        def slopes(tol: float, names=names, inputs=inputs) -> tuple[Tensor, ...]:
            solution = icnn.solve(icnn.QP(**dict(zip(names, inputs, strict=True))), tol=tol)
            return torch.autograd.grad(target_loss(solution.x), inputs)

        for ours, tight in zip(slopes(1e-9), slopes(1e-13), strict=True):
            torch.testing.assert_close(ours, tight, rtol=0, atol=1e-6 * float(tight.abs().max()))


def test_default_gradient_of_every_entry_of_g() -> None:
    data = random_qp(n=6, m=4, q=0, seed=2)
    data = {name: data[name] for name in ("Q", "p", "G", "h")}

    def losses(G: Tensor) -> Tensor:
        return target_losses(icnn.solve(icnn.QP(**{**data, "G": G})).x)

    leaf = data["G"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(losses(leaf), leaf)
    expected = finite_differences(losses, leaf)
    assert expected.abs().max() > 0.1
    assert (slope - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("policy", ["nan", "zero"])
def test_a_bad_instance_does_not_touch_the_gradients_of_the_others(policy: Any) -> None:
    data, bad = quarrel()
    inputs = leaves(data)
    solution = icnn.solve(icnn.QP(**dict(zip(data, inputs, strict=True))), on_failure=policy)
    slopes = dict(zip(data, torch.autograd.grad(target_loss(solution.x), inputs, retain_graph=True), strict=True))
    for index in {0, 1, 2} - {bad}:
        own = alone(data, index)
        single = leaves(own)
        alone_solution = icnn.solve(icnn.QP(**dict(zip(own, single, strict=True))))
        expected = torch.autograd.grad(target_loss(alone_solution.x), single)
        for name, slope in zip(own, expected, strict=True):
            if name in ("Q", "p", "G", "h"):
                torch.testing.assert_close(slopes[name][index], slope, rtol=1e-10, atol=1e-10)
    fill = torch.isnan if policy == "nan" else torch.logical_not
    assert all(fill(slopes[name][bad]).all() for name in ("p", "Q", "G", "h"))
    assert fill(slopes["b"]).all() == (policy == "nan")  # shared data see every instance


def test_zero_gradient_of_a_bad_instance_leaves_shared_gradients_to_the_others() -> None:
    data, bad = quarrel()
    b = data["b"].clone().requires_grad_()
    solution = icnn.solve(icnn.QP(**{**data, "b": b}), on_failure="zero")
    (slope,) = torch.autograd.grad(target_loss(solution.x), b)
    good = [i for i in range(3) if i != bad]
    rest = {name: t[good] if name in ("Q", "p", "G", "h") else t for name, t in data.items()}
    (expected,) = torch.autograd.grad(target_loss(icnn.solve(icnn.QP(**{**rest, "b": b})).x), b)
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-12)


def test_objective_of_a_bad_instance_has_no_gradient_under_zero() -> None:
    data, bad = quarrel()
    inputs = leaves(data)
    solution = icnn.solve(icnn.QP(**dict(zip(data, inputs, strict=True))), on_failure="zero")
    for value in (solution.objective, solution.s.sum(-1)):
        for slope in torch.autograd.grad(value[bad], inputs, retain_graph=True, materialize_grads=True):
            assert not slope.any()


def qp_of_p(data: Data):
    def x(p: Tensor) -> Tensor:
        return icnn.solve(icnn.QP(**{**data, "p": p}), tol=1e-12).x

    return x


def test_vmap_is_the_batch() -> None:
    data = regular_qp((5,), shared=("Q", "G", "h", "A", "b", "lower", "upper"), seed=1)
    torch.testing.assert_close(torch.vmap(qp_of_p(data))(data["p"]), qp_of_p(data)(data["p"]), rtol=0, atol=1e-12)
    other = regular_qp((5,), shared=("Q", "p", "A", "b", "lower", "upper"), seed=1)

    def of_rows(G: Tensor, h: Tensor) -> Tensor:
        return icnn.solve(icnn.QP(**{**other, "G": G, "h": h})).x

    together = of_rows(other["G"], other["h"])
    torch.testing.assert_close(torch.vmap(of_rows)(other["G"], other["h"]), together, rtol=0, atol=1e-12)
    moved = torch.vmap(of_rows, in_dims=(2, 1))(other["G"].movedim(0, 2), other["h"].movedim(0, 1))
    torch.testing.assert_close(moved, together, rtol=0, atol=1e-12)


def test_jacobians_by_every_transform_agree() -> None:
    data = regular_qp((4,), shared=("Q", "G", "h", "A", "b", "lower", "upper"), seed=1)
    x, p = qp_of_p(data), data["p"]
    rows = [torch.autograd.functional.jacobian(x, single) for single in p]
    expected = torch.stack([row for row in rows if isinstance(row, Tensor)])
    jacrev = torch.func.jacrev
    torch.testing.assert_close(torch.stack([jacrev(x)(single) for single in p]), expected)
    torch.testing.assert_close(torch.vmap(jacrev(x))(p), expected)
    whole = jacrev(torch.vmap(x))(p)
    torch.testing.assert_close(whole.diagonal(dim1=0, dim2=2).movedim(-1, 0), expected)


def test_hessian_by_reverse_over_reverse() -> None:
    data = regular_qp(n=6, m=2)
    jacrev = torch.func.jacrev

    def loss(p: Tensor) -> Tensor:
        return qp_of_p(data)(p).pow(3).sum()

    found = jacrev(jacrev(loss))(data["p"])
    expected = torch.autograd.functional.hessian(loss, data["p"])
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 1e-3
    batched = torch.vmap(jacrev(jacrev(loss)))(torch.stack([data["p"]] * 2))
    torch.testing.assert_close(batched[1], expected)


@torch_itself_warns
def test_forward_mode_is_refused_loudly() -> None:
    data = regular_qp()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(qp_of_p(data), (data["p"],), (data["p"],))


def test_only_what_is_asked_for_is_differentiated() -> None:
    data = regular_qp()
    p = data["p"].clone().requires_grad_()
    solution = icnn.solve(icnn.QP(**{**data, "p": p}))
    solution.x.sum().backward()
    assert p.grad is not None
    assert not any(value.requires_grad for value in solution.residuals)
    with torch.no_grad():
        assert not icnn.solve(icnn.QP(**{**data, "p": p})).x.requires_grad


@pytest.mark.parametrize("coupled", [True, False])
def test_fixed_variables_move_with_both_bounds(coupled: bool) -> None:
    data = regular_qp(seed=1)
    data = data if coupled else {name: data[name] for name in ("Q", "p", "lower", "upper")}

    def losses(low: Tensor, high: Tensor) -> Tensor:
        at = torch.tensor([False, False, True, False])
        lower, upper = (torch.where(at, v, data[name]) for v, name in ((low, "lower"), (high, "upper")))
        return target_losses(icnn.solve(icnn.QP(**{**data, "lower": lower, "upper": upper}), tol=1e-12).x)

    value = tensor([0.1])
    low, high = value.clone().requires_grad_(), value.clone().requires_grad_()
    slopes = torch.autograd.grad(losses(low, high), (low, high))
    common = finite_differences(lambda v: losses(v, v), value)
    torch.testing.assert_close(slopes[0] + slopes[1], common, rtol=1e-6, atol=1e-7)


def test_absent_rows_and_bounds_have_zero_gradient() -> None:
    data = regular_qp()
    data["h"][0] = data["upper"][1] = torch.inf
    data["lower"][2] = -torch.inf
    inputs = dict(zip(data, leaves(data), strict=True))
    solution = icnn.solve(icnn.QP(**inputs))
    slopes = dict(zip(data, torch.autograd.grad(target_loss(solution.x), list(inputs.values())), strict=True))
    assert all(torch.isfinite(slope).all() for slope in slopes.values())
    assert slopes["h"][0] == slopes["upper"][1] == slopes["lower"][2] == 0
    assert not slopes["G"][0].any()


def test_objective_alone_has_the_envelope_gradient() -> None:
    data = regular_qp()
    inputs = dict(zip(data, leaves(data), strict=True))
    solution = icnn.solve(icnn.QP(**inputs))
    slopes = dict(zip(data, torch.autograd.grad(solution.objective, list(inputs.values())), strict=True))
    torch.testing.assert_close(slopes["p"], solution.x.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(slopes["h"], -solution.lam.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(slopes["b"], -solution.nu.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(slopes["lower"], solution.lam_lower.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(slopes["upper"], -solution.lam_upper.detach(), rtol=0, atol=1e-10)


def test_minimiser_of_a_linear_program_does_not_move_with_its_cost() -> None:
    data = random_lp(seed=3)
    inputs = dict(zip(data, leaves(data), strict=True))
    with pytest.warns(icnn.ZeroGradientWarning):
        x = icnn.solve(icnn.LP(**inputs)).x
    slopes = dict(zip(data, torch.autograd.grad(target_loss(x), list(inputs.values())), strict=True))
    torch.testing.assert_close(slopes["c"], torch.zeros_like(x), rtol=0, atol=1e-10)
    assert slopes["lower"].abs().max() > 1e-3


def test_gradients_have_the_dtype_of_the_data() -> None:
    data = {name: t.float() for name, t in regular_qp().items()}
    inputs = leaves(data)
    solution = icnn.solve(icnn.QP(**dict(zip(data, inputs, strict=True))))
    double = leaves({name: t.double() for name, t in data.items()})
    exact = icnn.solve(icnn.QP(**dict(zip(data, double, strict=True))))
    slopes = torch.autograd.grad(target_loss(solution.x), inputs)
    for slope, right in zip(slopes, torch.autograd.grad(target_loss(exact.x), double), strict=True):
        assert slope.dtype == torch.float32
        torch.testing.assert_close(slope.double(), right, rtol=1e-5, atol=1e-6)
