"""The flow is the loop that defines it, and its sweeps back are what autograd and differences say of that loop."""

from functools import partial

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from icnn.adjoints import lift, residual_flow

from .comparing import assert_equal, derivatives

SCHEMES = {
    "euler": ([[]], [1.0]),
    "heun": ([[], [1.0]], [0.5, 0.5]),
    "rk4": ([[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}
ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
}


def by_definition(y: Tensor, weight: Tensor, bias: Tensor, step: Tensor, activation: str, scheme: str) -> Tensor:
    rows, weights = SCHEMES[scheme]
    for W, b, h in zip(weight, bias, step, strict=True):
        stages: list[Tensor] = []
        for row in rows:
            at = y + h * sum((a * s for a, s in zip(row, stages, strict=True)), torch.zeros_like(y))
            stages.append(ACTIVATIONS[activation](at @ W.mT + b))
        y = y + h * sum(c * s for c, s in zip(weights, stages, strict=True))
    return y


def data(steps: int = 5, d: int = 3, batch: tuple[int, ...] = (4,)) -> list[Tensor]:
    shapes = ((*batch, d), (steps, d, d), (steps, d), (steps,))
    return [(0.5 * torch.randn(shape, dtype=torch.float64)).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_value_and_three_orders_are_those_of_autograd(activation, scheme, recompute) -> None:
    inputs = data()
    ours = residual_flow(*inputs, activation=activation, scheme=scheme, recompute=recompute)
    theirs = by_definition(*inputs, activation=activation, scheme=scheme)
    assert_equal([ours], [theirs])
    assert_equal(derivatives(ours, inputs, 3), derivatives(theirs, inputs, 3))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_gradients_of_both_orders_are_those_of_differences(activation, scheme) -> None:
    inputs = data(steps=3, d=2, batch=(2,))

    def flow(*inputs: Tensor) -> Tensor:
        return residual_flow(*inputs, activation=activation, scheme=scheme)

    assert torch.autograd.gradcheck(flow, inputs, rtol=1e-6)
    assert torch.autograd.gradgradcheck(flow, inputs, rtol=1e-6)


def test_a_matrix_and_a_step_shared_by_all_steps_collect_the_gradients_of_all() -> None:
    y, weight, bias, _ = data(steps=4)
    W = weight[0].detach().requires_grad_()
    h = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = (y, W, bias, h)
    ours = residual_flow(y, W.expand(4, -1, -1), bias, h)
    theirs = by_definition(y, W.expand(4, -1, -1), bias, h.expand(4), "tanh", "euler")
    assert_equal(derivatives(ours, inputs, 2), derivatives(theirs, inputs, 2))


def test_steps_of_length_zero_stand_still_and_still_have_a_gradient() -> None:
    y, weight, bias, _ = data()
    h = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    inputs = (y, weight, bias, h)
    ours, theirs = residual_flow(*inputs), by_definition(*inputs, "tanh", "euler")
    assert torch.equal(ours, y)
    assert_equal(derivatives(ours, inputs, 2), derivatives(theirs, inputs, 2))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pullback_is_the_transpose_of_the_pushforward(scheme) -> None:
    """⟨p, DΦ v⟩ = ⟨DΦᵀp, v⟩, with DΦ v from the loop."""
    y, weight, bias, step = (part.detach() for part in data())
    v, p = torch.randn(2, *y.shape, dtype=torch.float64)
    _, pushed = torch.autograd.functional.jvp(lambda at: by_definition(at, weight, bias, step, "tanh", scheme), y, v)
    y.requires_grad_()
    (pulled,) = torch.autograd.grad(residual_flow(y, weight, bias, step, scheme=scheme), y, p)
    assert (p * torch.as_tensor(pushed)).sum().item() == pytest.approx((pulled * v).sum().item(), rel=1e-12)


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_error_falls_with_the_order_of_the_scheme(scheme, order) -> None:
    y, weight, bias, _ = (part.detach() for part in data(steps=1))

    def at_time_one(steps: int) -> Tensor:
        return residual_flow(y, weight.expand(steps, -1, -1), bias.expand(steps, -1), 1 / steps, scheme=scheme)

    exact = residual_flow(y, weight.expand(4096, -1, -1), bias.expand(4096, -1), 1 / 4096, scheme="rk4")
    coarse, fine = ((at_time_one(steps) - exact).abs().max() for steps in (32, 64))
    assert (coarse / fine).log2().item() == pytest.approx(order, abs=0.3)


def test_every_way_to_batch_gives_the_same() -> None:
    y, weight, bias, step = (part.detach() for part in data(batch=(2, 3)))
    flow = residual_flow(y, weight, bias, step)
    assert flow.shape == y.shape
    assert_equal([flow[1, 2]], [residual_flow(y[1, 2], weight, bias, step)], 1e-14)
    of_one = torch.func.vmap(lambda at: residual_flow(at, weight, bias, step))
    assert_equal([of_one(y)], [flow], 1e-14)
    loop = torch.autograd.functional.jacobian(
        lambda at: by_definition(at, weight, bias, step, "tanh", "euler"), y[0, 0]
    )
    for recompute in (False, True):
        of_kind = partial(residual_flow, weight=weight, bias=bias, step=step, recompute=recompute)
        assert_equal([torch.func.jacrev(of_kind)(y[0, 0])], [loop])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_networks_can_be_batched_too(scheme) -> None:
    y = torch.randn(4, 3, dtype=torch.float64)
    inputs = [
        torch.stack(parts).detach().requires_grad_() for parts in zip(*(data()[1:] for _ in range(2)), strict=True)
    ]
    ours = torch.func.vmap(lambda W, b, h: residual_flow(y, W, b, h, scheme=scheme))(*inputs)
    theirs = torch.stack([by_definition(y, W, b, h, "tanh", scheme) for W, b, h in zip(*inputs, strict=True)])
    assert_equal([ours], [theirs])
    assert_equal(derivatives(ours, inputs, 1), derivatives(theirs, inputs, 1))


def test_no_steps_change_nothing() -> None:
    y = torch.randn(2, 3)
    for recompute in (False, True):
        assert torch.equal(residual_flow(y, torch.zeros(0, 3, 3), torch.zeros(0, 3), recompute=recompute), y)


def test_recomputing_keeps_of_the_order_of_the_root_of_the_steps() -> None:
    def kept(recompute: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        y, weight, bias, step = data(steps=64, batch=(100,))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            residual_flow(y, weight, bias, step, recompute=recompute)
        return sum(sizes.values())

    assert kept(True) < 0.25 * kept(False)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_layer_that_lifts_has_the_derivatives_of_autograd(activation) -> None:
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 4, 3), (5, 3), (5,))]
    y, weight, bias = inputs
    ours, theirs = lift(*inputs, activation=activation), ACTIVATIONS[activation](y @ weight.mT + bias)
    assert_equal([ours], [theirs])
    assert_equal(derivatives(ours, inputs, 2), derivatives(theirs, inputs, 2))
    if activation != "relu":
        assert torch.autograd.gradgradcheck(lambda *inputs: lift(*inputs, activation=activation), inputs, rtol=1e-6)


def test_float32_stays_float32() -> None:
    y, weight, bias, step = (part.detach() for part in data())
    single = residual_flow(y.float(), weight.float(), bias.float(), step.float())
    assert single.dtype == torch.float32
    assert_equal([single.double()], [residual_flow(y, weight, bias, step)], 1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": torch.zeros(5, 3, 2)}, r"weight must be of shape \(steps, 3, 3\)"),
        ({"bias": torch.zeros(4, 3)}, r"bias must be of shape \(5, 3\)"),
        ({"weight": torch.zeros(5, 3, 3, dtype=torch.float64)}, "one dtype"),
        ({"step": torch.zeros(4)}, r"step must be one number or of shape \(5,\)"),
        ({"activation": "sine"}, "activation"),
        ({"scheme": "midpoint"}, "scheme"),
    ],
)
def test_bad_input_is_named(changed, message) -> None:
    inputs = {"y": torch.zeros(4, 3), "weight": torch.zeros(5, 3, 3), "bias": torch.zeros(5, 3)} | changed
    with pytest.raises((ValueError, TypeCheckError), match=message):
        residual_flow(**inputs)
