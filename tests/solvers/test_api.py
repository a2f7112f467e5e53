"""The door `solve`: options, policies, dtypes and devices."""

from typing import Any

import pytest
import torch

import icnn
from icnn import Status

from .examples import VALUES, Data, random_bundle, random_lp, random_qp, tensor

KINDS = [(icnn.QP, random_qp), (icnn.LP, random_lp), (icnn.EntropyBundle, random_bundle)]


def with_one_bad() -> Data:
    data = random_qp((3,), shared=("A", "b", "lower", "upper"), seed=0)
    data["h"][1] = -100.0
    return data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="simplex"), r"method must be one of \('auto', 'active_set', .*\); got 'simplex'"),
        (dict(on_failure="ignore"), r"on_failure must be one of \('raise', 'nan', 'zero'\); got 'ignore'"),
        (dict(tol=0.0), "tol must be positive .* got tol=0.0"),
        (dict(tol=-1.0), "tol must be positive"),
        (dict(tol=float("nan")), "tol must be positive"),
        (dict(max_iter=-1), "max_iter non-negative; got .*max_iter=-1"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # the door itself, not the annotation, refuses
    with pytest.raises(ValueError, match=message):
        icnn.solve(icnn.QP(**random_qp()), **options)


@pytest.mark.parametrize("batch", [(), (2,), (4,)])
def test_the_dual_operator_refuses_a_matrix(batch: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"dual.*diagonal"):
        icnn.solve(icnn.QP(**random_qp(batch)), method="dual")


@pytest.mark.parametrize("method", ["closed_form", "bundle"])
def test_a_method_that_does_not_fit_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"method='{method}' needs"):
        icnn.solve(icnn.QP(**random_qp()), method=method)  # pyright: ignore[reportArgumentType]


def test_the_method_fits_the_problem() -> None:
    diagonal = random_qp(n=10, m=2, diagonal=True)
    assert icnn.solve(icnn.QP(**random_qp())).method == "active_set"
    assert icnn.solve(icnn.QP(**diagonal)).method == "active_set"
    assert icnn.solve(icnn.QP(diagonal["Q"], diagonal["p"], lower=-1.0, upper=1.0)).method == "closed_form"
    assert icnn.solve(icnn.QP(**random_qp()), method="full").method == "full"
    assert icnn.solve(icnn.LP(**random_lp())).method == "primal"


def test_without_numba_the_loop_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_qp()
    expected = icnn.solve(icnn.QP(**data))
    monkeypatch.setattr("icnn.solvers.kernels._calls", lambda: None)
    solution = icnn.solve(icnn.QP(**data))
    assert solution.method == "primal"
    torch.testing.assert_close(solution.x, expected.x, rtol=1e-9, atol=1e-9)


def test_raise_is_the_default_and_carries_the_solution() -> None:
    with pytest.raises(icnn.SolverError, match=r"PRIMAL_INFEASIBLE at batch indices \[\(1,\)\]") as caught:
        icnn.solve(icnn.QP(**with_one_bad()))
    solution = caught.value.solution
    assert solution is not None
    assert solution.status.tolist() == [Status.OPTIMAL, Status.PRIMAL_INFEASIBLE, Status.OPTIMAL]
    expected = icnn.solve(icnn.QP(**with_one_bad()), on_failure="zero")
    torch.testing.assert_close(solution.x[[0, 2]], expected.x[[0, 2]], rtol=0, atol=1e-14)


def test_nan_marks_the_bad_and_only_the_bad() -> None:
    solution = icnn.solve(icnn.QP(**with_one_bad()), on_failure="nan")
    for name in VALUES:
        bad = getattr(solution, name).isnan()
        assert bad[1].all(), name
        assert not bad[[0, 2]].any(), name
    assert solution.status[1] == Status.PRIMAL_INFEASIBLE


def test_zero_leaves_finite_numbers_and_the_status() -> None:
    solution = icnn.solve(icnn.QP(**with_one_bad()), on_failure="zero")
    assert all(torch.isfinite(getattr(solution, name)).all() for name in VALUES)
    assert solution.status[1] == Status.PRIMAL_INFEASIBLE


@pytest.mark.parametrize("policy", ["nan", "zero"])
def test_the_others_are_as_if_alone(policy: Any) -> None:
    data = with_one_bad()
    solution = icnn.solve(icnn.QP(**data), on_failure=policy)
    for index in (0, 2):
        own = {name: t[index] if name in ("Q", "p", "G", "h") else t for name, t in data.items()}
        alone = icnn.solve(icnn.QP(**own))
        for name in VALUES:
            torch.testing.assert_close(getattr(solution, name)[index], getattr(alone, name), rtol=1e-12, atol=1e-12)


def test_the_tolerance_is_that_of_the_certificate() -> None:
    loose = icnn.solve(icnn.QP(**random_qp((4,), n=10, m=10)), tol=1e-4)
    assert loose.residuals.max.max() <= 1e-4
    tight = icnn.solve(icnn.QP(**random_qp((4,), n=10, m=10)), tol=1e-12)
    assert tight.residuals.max.max() <= 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_float32_is_as_good_as_the_float64_solution_of_the_same_data(seed: int) -> None:
    data = random_qp((4,), n=12, m=8, q=2, seed=seed)
    basis = torch.linalg.qr(torch.randn(4, 12, 12, dtype=torch.float64)).Q
    data["Q"] = basis * torch.logspace(-4, 0, 12, dtype=torch.float64).unsqueeze(-2) @ basis.mT  # condition 1e4
    single = {name: value.float() for name, value in data.items()}
    single["Q"] = 0.5 * (single["Q"] + single["Q"].mT)
    x = icnn.solve(icnn.QP(**single)).x
    exact = icnn.solve(icnn.QP(**{name: value.double() for name, value in single.items()})).x
    assert x.dtype == torch.float32
    assert ((x.double() - exact).norm(dim=-1) <= 1e-5 * exact.norm(dim=-1)).all()


@pytest.mark.parametrize(("kind", "make"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype, kind, make) -> None:
    with pytest.raises(TypeError, match=r"must be float32 or float64; got torch\."):
        kind(**{name: value.to(dtype) for name, value in make().items()})


@pytest.mark.filterwarnings("ignore::icnn.ZeroGradientWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "make"), KINDS)
def test_autocast_changes_nothing(dtype: torch.dtype, kind, make) -> None:
    data = {name: value.to(dtype).requires_grad_() for name, value in make((2,), seed=3).items()}

    def values_and_slopes(**options: Any) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cpu", **options):
            solution = icnn.solve(kind(**data))
            loss = sum((getattr(solution, name).square().sum() for name in VALUES), tensor(0.0))
            slopes = torch.autograd.grad(loss, list(data.values()))
        return *(getattr(solution, name) for name in VALUES), *slopes

    plain = values_and_slopes(enabled=False)
    for cast, right in zip(values_and_slopes(dtype=torch.bfloat16), plain, strict=True):
        assert cast.dtype == right.dtype
        torch.testing.assert_close(cast, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_default_dtype_does_not_matter(default: torch.dtype) -> None:
    data = random_qp()
    expected = icnn.solve(icnn.QP(**data)).x
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        assert torch.equal(icnn.solve(icnn.QP(**data)).x, expected)
    finally:
        torch.set_default_dtype(before)


def test_data_that_are_not_contiguous() -> None:
    data = random_qp((3,))
    strided = {name: value.movedim(0, -1).contiguous().movedim(-1, 0) for name, value in data.items()}
    torch.testing.assert_close(icnn.solve(icnn.QP(**strided)).x, icnn.solve(icnn.QP(**data)).x, rtol=0, atol=1e-13)


@pytest.mark.cuda
@pytest.mark.parametrize(("kind", "make"), KINDS)
def test_the_same_answer_on_cuda(kind, make) -> None:
    data = make((2, 3), seed=3)
    inputs = [{name: t.to(device).requires_grad_() for name, t in data.items()} for device in ("cpu", "cuda")]
    answers = [icnn.solve(kind(**given)) for given in inputs]
    assert answers[1].x.device.type == "cuda"
    for name in (*VALUES, "status"):
        torch.testing.assert_close(getattr(answers[1], name).cpu(), getattr(answers[0], name), rtol=1e-9, atol=1e-9)
    slopes = [
        torch.autograd.grad(answer.x.pow(2).sum() + answer.objective.sum(), list(given.values()))
        for answer, given in zip(answers, inputs, strict=True)
    ]
    for here, there in zip(*slopes, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-8, atol=1e-8)
