"""Layers are `solve` with options kept: the same values and gradients, and modules that copy and pickle."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import icnn

P = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
Q = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
LAYERS = [
    (icnn.QPLayer, icnn.QP, dict(Q=Q, p=P, lower=-torch.ones(3).double(), upper=torch.ones(3).double())),
    (icnn.LPLayer, icnn.LP, dict(c=P, lower=-torch.ones(3).double(), upper=torch.ones(3).double())),
    (icnn.BundleEntropyLayer, icnn.EntropyBundle, dict(G=torch.stack((P, P.flip(0))), o=P[:, :2])),
]
every_layer = pytest.mark.parametrize(("layer", "kind", "data"), LAYERS, ids=lambda v: getattr(v, "__name__", ""))


def answer(kind, data: dict[str, Tensor], **options) -> Tensor:
    x = icnn.solve(kind(**data), **options).x
    return x[..., :-1] if kind is icnn.EntropyBundle else x


@every_layer
def test_equal_to_solve_by_position_and_by_name(layer, kind, data: dict[str, Tensor]) -> None:
    expected = answer(kind, data)
    assert torch.equal(layer()(**data), expected)
    if kind is icnn.EntropyBundle:
        assert torch.equal(layer()(*data.values()), expected)
        assert expected.shape == (2, 3)


def test_positions_of_the_data() -> None:
    one, zero = torch.ones(1, 3).double(), torch.ones(1).double()
    low, high = torch.full((3,), -0.5).double(), torch.full((3,), 2.0).double()
    expected = icnn.solve(icnn.QP(Q, P, G=one, h=zero, A=one[:, [0, 1, 2]], b=zero, lower=low, upper=high)).x
    assert torch.equal(icnn.QPLayer()(Q, P, one, zero, one, zero, low, high), expected)
    flat = icnn.solve(icnn.LP(P, G=one, h=zero, A=one, b=zero, lower=low, upper=high)).x
    assert torch.equal(icnn.LPLayer()(P, one, zero, one, zero, low, high), flat)


def test_the_simplex_of_a_bundle() -> None:
    layer = icnn.BundleEntropyLayer(simplex=True, tol=1e-10)
    y = layer(torch.stack((P, P.flip(0))), P[:, :2])
    torch.testing.assert_close(y.sum(-1), torch.ones(2).double())
    assert repr(layer) == "BundleEntropyLayer(simplex=True, tol=1e-10)"
    assert repr(icnn.BundleEntropyLayer(simplex=True)) == "BundleEntropyLayer(simplex=True)"


@pytest.mark.filterwarnings("ignore::icnn.ZeroGradientWarning")
@every_layer
def test_equal_gradients(layer, kind, data: dict[str, Tensor]) -> None:
    def slopes(of_layer: bool) -> tuple[Tensor, ...]:
        inputs = {name: value.clone().requires_grad_() for name, value in data.items()}
        y = layer()(**inputs) if of_layer else answer(kind, inputs)
        return torch.autograd.grad(y.pow(3).sum(), list(inputs.values()))

    for ours, right in zip(slopes(True), slopes(False), strict=True):
        assert torch.equal(ours, right)


@every_layer
def test_copies_and_pickles(layer, kind, data: dict[str, Tensor]) -> None:
    original = layer(tol=1e-10, on_failure="nan")
    for other in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert repr(other) == repr(original)
        assert torch.equal(other(**data), original(**data))


@every_layer
def test_no_parameters_and_options_in_repr(layer, kind, data: dict[str, Tensor]) -> None:
    module = layer(tol=1e-10, method="full")
    assert list(module.parameters()) == []
    assert module.state_dict() == {}
    assert repr(module) == f"{layer.__name__}(tol=1e-10, method='full')"


def test_options_are_passed() -> None:
    infeasible = dict(Q=Q, p=P, lower=torch.zeros(3).double(), upper=torch.tensor([1.0, -1.0, 1.0]).double())
    with pytest.raises(icnn.SolverError, match="PRIMAL_INFEASIBLE"):
        icnn.QPLayer()(**infeasible)
    assert icnn.QPLayer(on_failure="nan")(**infeasible).isnan().all()
    assert torch.isfinite(icnn.QPLayer(on_failure="zero")(**infeasible)).all()
    with pytest.raises(icnn.SolverError, match="MAX_ITERATIONS"):
        icnn.QPLayer(max_iter=0, method="primal")(
            Q, P, lower=-0.1 * torch.ones(3).double(), upper=0.1 * torch.ones(3).double()
        )


def test_wrong_options_and_data_are_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="method"):
        icnn.QPLayer(method="simplex")(Q, P)
    with pytest.raises(TypeError, match="tolerance"):
        icnn.QPLayer(tolerance=1e-9)(Q, P)
    with pytest.raises(ValueError, match="G and h must be given together"):
        icnn.QPLayer()(Q, P, G=Q)


def test_inside_a_model_in_its_dtype() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.project = nn.Linear(4, 3), icnn.QPLayer()

        def forward(self, x: Tensor) -> Tensor:
            p = -self.linear(x)
            ones = torch.ones(1, 3, dtype=p.dtype)
            return self.project(torch.ones_like(p[0]), p, A=ones, b=ones[:, 0], lower=0.0)

    for dtype in (torch.float32, torch.float64):
        model = copy.deepcopy(Model().to(dtype))
        y = model(torch.randn(5, 4, dtype=dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.sum(-1), torch.ones(5, dtype=dtype))
        y.square().sum().backward()
        assert model.linear.weight.grad is not None
        assert model.linear.weight.grad.dtype == dtype


def test_sparse_matrices_make_a_sparse_program() -> None:
    dense = icnn.QPLayer()(Q, P, lower=0.0)
    torch.testing.assert_close(icnn.QPLayer()(Q.to_sparse(), P, lower=0.0), dense, rtol=1e-9, atol=1e-9)
