"""The door: what is refused, by which words, and what a problem knows of itself."""

import jaxtyping
import pytest
import torch

import icnn

from .examples import random_bundle, random_qp, tensor

N = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
Q, P = N


def zeros(*shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (dict(Q=zeros(4, 4)), r"Q must be \(\*batch, 3, 3\) or a diagonal \(\*batch, 3\); got \(4, 4\)"),
        (dict(Q=zeros(4)), r"Q must be .* got \(4,\)"),
        (dict(Q=zeros()), r"Q must be .* got \(\)"),
        (dict(p=zeros()), r"p must be \(\*batch, n\) with n >= 1; got \(\)"),
        (dict(p=zeros(0)), r"p must be \(\*batch, n\) with n >= 1; got \(0,\)"),
        (dict(G=zeros(2, 4), h=zeros(2)), r"G must be \(\*batch, rows, 3\); got \(2, 4\)"),
        (dict(G=zeros(3), h=zeros(1)), r"G must be \(\*batch, rows, 3\); got \(3,\)"),
        (dict(G=zeros(2, 3), h=zeros(3)), r"h must be \(\*batch, 2\); got \(3,\)"),
        (dict(A=zeros(2, 4), b=zeros(2)), r"A must be \(\*batch, rows, 3\); got \(2, 4\)"),
        (dict(A=zeros(2, 3), b=zeros(2, 1)), r"b must be \(\*batch, 2\); got \(2, 1\)"),
        (dict(lower=zeros(4)), r"lower must be \(\*batch, 3\); got \(4,\)"),
        (dict(upper=zeros(2, 1)), r"upper must be \(\*batch, 3\); got \(2, 1\)"),
        (dict(G=zeros(2, 3)), "G and h must be given together; h is missing"),
        (dict(h=zeros(2)), "G and h must be given together; G is missing"),
        (dict(A=zeros(2, 3)), "A and b must be given together; b is missing"),
        (dict(b=zeros(2)), "A and b must be given together; A is missing"),
        (dict(p=zeros(2, 3), lower=zeros(4, 3)), r"batch dimensions do not broadcast: .*'lower': \(4,\)"),
    ],
)
def test_shapes_that_do_not_fit(named: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        icnn.QP(**{"Q": Q, "p": P, **named})


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (dict(Q=Q.float()), r"all data must have one dtype; got .*'Q': 'torch.float32'.*'p': 'torch.float64'"),
        (dict(lower=P.float()), r"all data must have one dtype; got .*'lower': 'torch.float32'"),
        (dict(p=P.to("meta")), r"all data must have one device; got .*'p': 'meta'"),
        (dict(G=zeros(2, 3, device="meta"), h=zeros(2)), r"all data must have one device; got .*'G': 'meta'"),
        (dict(Q=Q.to_sparse()), r"Q must be a dense tensor; got layout torch.sparse_coo"),
        (dict(Q=Q.half(), p=P.half()), r"Q must be float32 or float64; got torch.float16"),
        (dict(Q=Q.bfloat16(), p=P.bfloat16()), r"Q must be float32 or float64; got torch.bfloat16"),
        (dict(p=P.long()), r"p must be float32 or float64; got torch.int64"),
        (dict(p=P.to(torch.complex128)), r"p must be float32 or float64; got torch.complex128"),
    ],
)
def test_kinds_of_tensors_that_are_refused(named: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        icnn.QP(**{"Q": Q, "p": P, **named})


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (dict(Q=[[1.0]]), "Q must be a tensor; got list"),
        (dict(p=Q.numpy()), "p must be a tensor; got ndarray"),
        (dict(G=Q.numpy(), h=P), "G must be a tensor; got ndarray"),
    ],
)
def test_what_is_no_tensor_is_refused(named: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # the door itself, not the annotation, has to refuse
    with pytest.raises(TypeError, match=message):
        icnn.QP(**{"Q": Q, "p": P, **named})


@pytest.mark.parametrize(
    ("G", "o", "message"),
    [
        (zeros(2, 3), zeros(3), r"o must be \(\*batch, 2\); got \(3,\)"),
        (zeros(3), zeros(3), r"G must be \(\*batch, rows, 3\); got \(3,\)"),
        (zeros(0, 3), zeros(0), r"G must be \(\*batch, k, n\) with k >= 1 cuts and n >= 1; got \(0, 3\)"),
        (zeros(2, 0), zeros(2), r"G must be .* got \(2, 0\)"),
        (zeros(5, 2, 3), zeros(4, 2), r"batch dimensions do not broadcast: {'G': \(5,\), 'o': \(4,\)}"),
    ],
)
def test_bundles_that_do_not_fit(G: torch.Tensor, o: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        icnn.EntropyBundle(G, o)


def test_bundles_of_mixed_kind() -> None:
    with pytest.raises(TypeError, match="one dtype"):
        icnn.EntropyBundle(zeros(2, 3), zeros(2, dtype=torch.float32))
    with pytest.raises(TypeError, match="one device"):
        icnn.EntropyBundle(zeros(2, 3), zeros(2, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_asymmetric_q_is_refused_with_advice(dtype: torch.dtype) -> None:
    skew = torch.tensor([[1.0, 0.2], [0.0, 1.0]], dtype=dtype)
    with pytest.raises(ValueError, match=r"Q must be symmetric; .*2.0e-01. Pass \(Q \+ Q'\) / 2"):
        icnn.solve(icnn.QP(skew, torch.zeros(2, dtype=dtype)))


def test_asymmetry_of_one_instance_is_seen() -> None:
    matrices = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    matrices[2, 0, 1] = 1e-3
    with pytest.raises(ValueError, match="Q must be symmetric"):
        icnn.solve(icnn.QP(matrices, P))


def test_rounding_of_float32_is_no_asymmetry() -> None:
    root = torch.randn(30, 30)
    rounded = root @ root.mT + torch.eye(30)
    rounded[0, 1] *= 1 + 1e-6
    assert icnn.solve(icnn.QP(rounded, torch.randn(30))).status == icnn.Status.OPTIMAL


def test_a_problem_is_immutable_and_leaves_its_data_alone() -> None:
    data = random_qp((3,))
    before = {name: value.clone() for name, value in data.items()}
    problem = icnn.QP(**data)
    first = icnn.solve(problem)
    second = icnn.solve(problem)
    assert torch.equal(first.x, second.x)
    assert all(torch.equal(value, before[name]) for name, value in data.items())
    with pytest.raises(AttributeError):
        problem.Q = Q  # pyright: ignore[reportAttributeAccessIssue]


def test_facts_and_repr() -> None:
    problem = icnn.QP(**random_qp((2, 3), shared=("Q", "A")))
    assert problem.batch_shape == (2, 3)
    assert problem.dtype == torch.float64
    assert repr(problem).startswith("QP(Q: (4, 4), p: (2, 3, 4), G: (2, 3, 3, 4)")
    assert repr(icnn.LP(P)).startswith("LP(")
    G, o = random_bundle((5,)).values()
    bundle = icnn.EntropyBundle(G, o)
    assert bundle.batch_shape == (5,)
    assert repr(bundle) == "EntropyBundle(G: (5, 3, 4), o: (5, 3))"
    assert repr(icnn.EntropyBundle(G, o, simplex=True)) == "EntropyBundle(G: (5, 3, 4), o: (5, 3), simplex: True)"


def test_bounds_may_be_numbers() -> None:
    point = tensor([-2.0, 0.5, 3.0])
    numbers = icnn.solve(icnn.QP(Q, -point, lower=0.0, upper=1.0))
    tensors = icnn.solve(icnn.QP(Q, -point, lower=zeros(3), upper=torch.ones_like(point)))
    assert torch.equal(numbers.x, tensors.x)
    assert torch.equal(numbers.lam_upper, tensors.lam_upper)


def test_objective_of_a_problem() -> None:
    data = random_qp((2,))
    x = torch.randn(2, 4, dtype=torch.float64)
    expected = 0.5 * torch.einsum("bi,bij,bj->b", x, data["Q"], x) + (data["p"] * x).sum(-1)
    torch.testing.assert_close(icnn.QP(**data).objective(x), expected)
    assert icnn.LP(tensor([1.0, 2.0])).objective(tensor([3.0, 4.0])) == 11
