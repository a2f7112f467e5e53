"""The conjugate is what it says, against scipy and closed forms, and its derivatives are those of differences."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import icnn
from icnn.transforms import conjugate

SMOOTH = ("softplus", "squareplus", "elu")


def network(activation: str = "softplus", **options) -> icnn.FICNN:
    return icnn.FICNN(3, (8, 6), activation, quadratic=2, strong_convexity=0.1, **options).double()


def points(*batch: int) -> torch.Tensor:
    return 2 * torch.randn(*batch, 3, dtype=torch.float64)


def by_scipy(f: icnn.FICNN, p: torch.Tensor) -> tuple[float, np.ndarray]:
    def negative(y: np.ndarray) -> tuple[float, np.ndarray]:
        tangent = f.given().tangent(torch.from_numpy(y))
        return float(tangent.value) - float(p @ torch.from_numpy(y)), (tangent.slope - p).numpy()

    found = minimize(negative, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-10})
    return -found.fun, found.x


@pytest.mark.parametrize("activation", SMOOTH)
def test_value_and_maximiser_are_those_of_scipy(activation: str) -> None:
    f, p = network(activation), points(4, 2)
    found = conjugate(f, p)
    assert found.value.shape == found.status.shape == (4, 2)
    assert (found.status == icnn.Status.OPTIMAL).all()
    for at in np.ndindex(4, 2):
        value, y = by_scipy(f, p[at])
        assert found.value[at].item() == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(found.y[at], y, atol=1e-6)


def test_of_a_quadratic_in_closed_form() -> None:
    f = icnn.FICNN(3, (), quadratic=3, strong_convexity=0.5).double()
    term, last = f.quadratic, f.layers[-1].skip
    Q = term.factor.weight.T @ term.factor.weight + torch.diag(term.diagonal.weight + 0.5)  # pyright: ignore
    p, b, c = points(5), last.weight[0], last.bias  # pyright: ignore
    y = torch.linalg.solve(Q, (p - b).T).T
    found = conjugate(f, p)
    torch.testing.assert_close(found.y, y.detach(), rtol=0, atol=1e-7)
    torch.testing.assert_close(found.value, ((p - b) * y).sum(-1) / 2 - c, rtol=0, atol=1e-12)


def test_gradients_are_those_of_differences() -> None:
    f, p = network(), points(2).requires_grad_()

    def value(p: torch.Tensor) -> torch.Tensor:
        return conjugate(f, p, tol=1e-12).value

    assert torch.autograd.gradcheck(value, p)
    (slope,) = torch.autograd.grad(value(p).sum(), p)
    assert torch.equal(slope, conjugate(f, p, tol=1e-12).y)
    raw = f.layers[1].path.raw  # pyright: ignore
    (of_weight,) = torch.autograd.grad(value(p).sum(), raw)  # pyright: ignore
    for i, j in ((0, 0), (3, 5)):
        with torch.no_grad():
            raw[i, j] += 1e-5  # pyright: ignore
            up = value(p).sum()
            raw[i, j] -= 2e-5  # pyright: ignore
            down = value(p).sum()
            raw[i, j] += 1e-5  # pyright: ignore
        assert of_weight[i, j].item() == pytest.approx((up - down).item() / 2e-5, rel=1e-5, abs=1e-8)


def test_a_second_derivative_is_refused() -> None:
    p = points().requires_grad_()
    with pytest.raises(RuntimeError, match="second order"):
        torch.autograd.grad(conjugate(network(), p).value, p, create_graph=True)


def test_with_a_context_and_the_same_alone_as_in_a_batch() -> None:
    f = icnn.PICNN(2, 3, (8,), "softplus", strong_convexity=0.3).double()
    x, p = torch.randn(5, 2, dtype=torch.float64), points(5)
    found = conjugate(f, p, x)
    for i in range(5):
        alone = conjugate(f, p[i], x[i])
        torch.testing.assert_close(alone.value, found.value[i], rtol=1e-10, atol=1e-10)
        y = found.y[i].clone().requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(f(x[i], y), y)[0], p[i], rtol=0, atol=1e-6)


def test_fenchel_young_holds_for_a_budget_too() -> None:
    f, p = network(), points(50)
    short, whole = conjugate(f, p, max_iter=2), conjugate(f, p)
    assert (short.status == icnn.Status.MAX_ITERATIONS).any()
    assert (short.value <= whole.value + 1e-12).all()
    y = points(50)
    assert (f(y) + whole.value >= (p * y).sum(-1)).all()


def test_one_bad_instance_and_the_policies() -> None:
    f, p = network(), points(3)
    p[1, 0] = torch.nan
    expected = conjugate(f, p[::2]).value
    with pytest.raises(icnn.SolverError, match=r"NONFINITE_INPUT at batch indices \[\(1,\)\]"):
        conjugate(f, p)
    for policy in ("nan", "zero"):
        leaf = p.clone().requires_grad_()
        found = conjugate(f, leaf, on_failure=policy)
        torch.testing.assert_close(found.value[::2], expected)
        assert found.status.tolist() == [0, 6, 0]
        (slope,) = torch.autograd.grad(found.value[::2].sum(), leaf)
        assert slope[::2].isfinite().all()


@pytest.mark.parametrize("of_x", [False, True])
def test_a_bad_instance_leaves_the_gradients_of_the_weights_alone(of_x: bool) -> None:
    f = icnn.PICNN(2, 3, (8,), "softplus", strong_convexity=0.3).double()
    x, p = torch.randn(3, 2, dtype=torch.float64), points(3)
    expected = torch.autograd.grad(conjugate(f, p[::2], x[::2]).value.sum(), list(f.parameters()))
    (x if of_x else p)[1, 0] = torch.nan
    solution = conjugate(f, p, x, on_failure="zero")
    assert solution.status.tolist() == [0, 6, 0]
    found = solution.value[::2].sum()
    torch.testing.assert_close(torch.autograd.grad(found, list(f.parameters())), expected, rtol=1e-9, atol=1e-12)


def test_without_a_maximiser() -> None:
    flat = icnn.FICNN(3, (8,), "softplus").double()  # its slope is bounded: no y has ∇f(y) = p for a large p
    found = conjugate(flat, torch.full((3,), 1e3, dtype=torch.float64), on_failure="nan")
    assert found.status != icnn.Status.OPTIMAL
    assert found.value.isnan()


def test_float32() -> None:
    f, p = network(), points(20)
    exact, single = conjugate(f, p), conjugate(f.float(), p.float())
    assert single.value.dtype == single.y.dtype == torch.float32
    torch.testing.assert_close(single.value.double(), exact.value, rtol=1e-5, atol=1e-5)


def test_an_unknown_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the door itself, not the annotation, refuses
    with pytest.raises(ValueError, match="on_failure must be one of"):
        conjugate(network(), points(2), on_failure="ignore")  # pyright: ignore[reportArgumentType]


def test_the_door() -> None:
    with pytest.raises(ValueError, match="f has kinks"):
        conjugate(icnn.FICNN(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"p has shape \(2, 4\), expected \(\*batch, 3\)"):
        conjugate(network(), torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="start has shape"):
        conjugate(network(), points(2), start=points(3))
    partial = icnn.PICNN(2, 3, (8,), "softplus").double()
    with pytest.raises(ValueError, match="x has shape"):
        conjugate(partial, points(5), torch.zeros(4, 2, dtype=torch.float64))
    f = network(positivity="project")
    with torch.no_grad():
        f.layers[1].path.raw[0, 0] = -1  # pyright: ignore
    with pytest.raises(ValueError, match="f is not convex"):
        conjugate(f, points(2))
