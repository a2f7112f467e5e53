"""Residual networks as discrete optimal control: a sweep of the state forward, a sweep of the costate back.

Derivation. A step Φ(y) = y + h σ(Wy + b) has, with z = Wy + b and s = σ(z), the differential

    dΦ = dy + h σ′(z) ∘ (dW y + W dy + db) + dh s.

A loss of what follows has dl = ⟨p, dΦ⟩ with the costate p = ∂l/∂Φ, a column like y. Put the differential in and move
every factor to the other side of the inner product, ⟨p, σ′ ∘ v⟩ = ⟨σ′ ∘ p, v⟩ and ⟨u, W v⟩ = ⟨Wᵀu, v⟩ = tr(vᵀWᵀu):

    dl = ⟨p + h Wᵀq, dy⟩ + ⟨h q yᵀ, dW⟩ + ⟨h q, db⟩ + ⟨p, s⟩ dh    with q = σ′(z) ∘ p.

A gradient is what stands beside its differential, so it has the shape of the parameter: q yᵀ that of W. It is Wᵀ and
not W because W took dy into the space of z, and q, which lives there, must come back to the space of y; for a
rectangular W nothing else fits. The rules are the same for a vector dy and a matrix dW: "replace d(·) by 1" is for
scalars only, "take what multiplies it in the inner product" is for all. Over K steps

    p_k = p_{k+1} + h_k W_kᵀ q_k,    W̄_k = h_k q_k y_kᵀ,    b̄_k = h_k q_k,    h̄_k = ⟨p_{k+1}, s_k⟩,

the equation ṗ = -∂ℋ/∂y of the Hamiltonian ℋ(y, p, u) = ⟨p, σ(Wy + b)⟩ with the control u = (W, b), discretised so
that the gradient of the discrete problem is exact. With the stages of a Runge-Kutta scheme (a, b),

    z_i = y + h Σ_{j<i} a_ij s_j,    s_i = σ(W z_i + b),    Φ = y + h Σ_i b_i s_i,

the same rules give, from the last stage to the first,

    q_i = σ′ ∘ (b_i p + Σ_{j>i} a_ji r_j),    r_i = h Wᵀ q_i,    p ← p + Σ_i r_i,

the costate of the partner scheme a*_ij = b_j - b_j a_ji / b_i: together they are a symplectic partitioned scheme.

What is kept between the sweeps is s alone. σ′ is known from it, and the states come back, y_k = y_{k+1} - h Σ b_i s_i,
each with a rounding error of the size of the largest state: half of what a state and its s would take. To be
differentiated in turn, the sweep back must see how s came from the inputs, and sweeps forward once more.

Sources: Benning, Celledoni, Ehrhardt, Owren, Schönlieb 2019, "Deep learning as optimal control problems", section 3;
Sanz-Serna 2016, "Symplectic Runge-Kutta schemes for adjoint equations"; Hager 2000.
"""

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .activations import ActivationName, activation_named


class _Scheme(NamedTuple):
    """An explicit Runge-Kutta scheme: for each stage the weights of those before it, and the weights of the step."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


_SCHEMES = MappingProxyType(
    {
        "euler": _Scheme(((),), (1.0,)),
        "heun": _Scheme(((), (1.0,)), (1 / 2, 1 / 2)),
        "rk4": _Scheme(((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    }
)


def residual_flow(
    y: Float[Tensor, "*batch d"],
    weight: Float[Tensor, "..."],
    bias: Float[Tensor, "..."],
    step: float | Float[Tensor, "..."] = 1.0,
    *,
    activation: ActivationName = "tanh",
    scheme: Literal["euler", "heun", "rk4"] = "euler",
    recompute: bool = False,
) -> Float[Tensor, "*batch d"]:
    """The state after K steps of a residual network, y ← y + h_k σ(W_k y + b_k), with its adjoint in closed form.

    y: (*batch, d), the states to begin with.
    weight, bias: W_k and b_k, (K, d, d) and (K, d); one W for all steps is W.expand(K, d, d).
    step: h_k, (K,), or one for all; may be learned.
    activation: σ, elementwise: "tanh", "sigmoid", "relu", "softplus" or "identity".
    scheme: the Runge-Kutta scheme that steps through ẏ = σ(W_k y + b_k): "euler" is the residual network itself;
        "heun" and "rk4" have two and four stages.
    recompute: keep the states of √K steps and compute the others again in the sweep back: a second sweep forward for
        O(√K) memory instead of O(K).
    Returns y_K, like y; differentiable in y, W, b and h to any order (of relu: what autograd gives).
    To differentiate in y alone, give the others detached: no custom function can see that their gradients, which
    autograd would leave out, are not asked for.
    Raises ValueError for an unknown activation or scheme, and for wrong shapes or dtypes.
    Source: Benning, Celledoni, Ehrhardt, Owren, Schönlieb 2019, equations (3) to (9).
    """
    h = torch.as_tensor(step, dtype=y.dtype, device=y.device)
    _check(y, weight, bias, h, activation, scheme)
    steps = len(weight)
    if not steps:
        return y
    parts = [(weight, bias, h.expand(steps))]
    if recompute:
        parts = zip(*(control.split(math.isqrt(steps)) for control in parts[0]), strict=True)
    state = y if y.ndim == 2 else y.reshape(-1, y.shape[-1])
    for part in parts:
        state = _Flow.apply(state, *part, activation, _SCHEMES[scheme], not recompute)[0]
    return state if y.ndim == 2 else state.reshape(y.shape)


def lift(
    y: Float[Tensor, "*batch d"],
    weight: Float[Tensor, "..."],
    bias: Float[Tensor, "..."],
    *,
    activation: ActivationName = "tanh",
) -> Float[Tensor, "*batch m"]:
    """A layer without the identity, σ(Wy + b) with any W: into the space of a residual network, or out of it.

    Its costate goes back as Wᵀ(σ′ ∘ p), of the shape of y; the gradient of W is (σ′ ∘ p) yᵀ.

    y: (*batch, d). weight: (m, d). bias: (m,). activation: as of residual_flow.
    Returns (*batch, m), differentiable to any order.
    Raises ValueError for an unknown activation and for wrong shapes or dtypes.
    """
    d = y.shape[-1]
    if weight.ndim != 2 or weight.shape[1] != d:
        raise ValueError(f"weight must be of shape (m, {d}) for this y; got {tuple(weight.shape)}")
    _check_layer(y, weight, bias, activation)
    return _Lift.apply(y.reshape(-1, d), weight, bias, activation).reshape(*y.shape[:-1], -1)


def _check(y: Tensor, weight: Tensor, bias: Tensor, step: Tensor, activation: str, scheme: str) -> None:
    d = y.shape[-1]
    if weight.ndim != 3 or weight.shape[1:] != (d, d):
        raise ValueError(f"weight must be of shape (steps, {d}, {d}) for this y; got {tuple(weight.shape)}")
    _check_layer(y, weight, bias, activation)
    if step.shape not in ((), weight.shape[:1]):
        raise ValueError(f"step must be one number or of shape {tuple(weight.shape[:1])}; got {tuple(step.shape)}")
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme is one of {', '.join(map(repr, _SCHEMES))}; got {scheme!r}")


def _check_layer(y: Tensor, weight: Tensor, bias: Tensor, activation: str) -> None:
    if bias.shape != weight.shape[:-1]:
        raise ValueError(f"bias must be of shape {tuple(weight.shape[:-1])} for this weight; got {tuple(bias.shape)}")
    if not y.dtype == weight.dtype == bias.dtype:
        raise ValueError(f"y, weight and bias must have one dtype; got {y.dtype}, {weight.dtype}, {bias.dtype}")
    activation_named(activation)


class _Flow(torch.autograd.Function):
    """(y_K, s of every stage of every step, if they are kept)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y, weight, bias, step, activation, scheme, keep):
        return _swept(y, weight, bias, step, activation, scheme, keep)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.activation, ctx.scheme, _ = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # of the stages

    @staticmethod
    def backward(ctx, p, *_):
        if p is None:
            return (None,) * 7
        start, weight, bias, step, y, *kept = ctx.saved_tensors
        scheme, pull, count = ctx.scheme, activation_named(ctx.activation).pull, len(ctx.scheme.b)
        if torch.is_grad_enabled() or not kept:  # to be differentiated in turn, or not kept
            y, *kept = _swept(start, weight, bias, step, ctx.activation, scheme, keep=True)
        wants_controls, wants_step, controls = any(ctx.needs_input_grad[1:4]), ctx.needs_input_grad[3], []
        for W, h in zip(reversed(weight.unbind()), reversed(step.unbind()), strict=True):
            kept, stages = kept[:-count], kept[-count:]
            hW = h * W
            qs, rs = _pulled_back(p, hW, scheme, stages, pull)
            if wants_controls:
                y = _moved(y, -h, scheme.b, stages)
                h_bar = (_step_gradient(p, scheme, stages, rs),) if wants_step else ()
                controls.append((*_layer_gradients(y, h, scheme, stages, qs), *h_bar))
            p = torch.addmm(sum(rs, p), qs[-1], hW)
        if not wants_controls:
            return p, *[None] * 6
        gradients = [torch.stack(part) for part in zip(*reversed(controls), strict=True)]
        return p, *gradients, *[None] * (6 - len(gradients))


def _swept(y, weight, bias, step, activation, scheme, keep) -> tuple[Tensor, ...]:
    """(y_K, s of every stage of every step, if they are kept)."""
    value, kept = activation_named(activation).value, []
    for W_T, b, h in zip(weight.mT, bias, step, strict=True):
        stages: list[Tensor] = []
        for a in scheme.a:
            stages.append(value(torch.addmm(b, _moved(y, h, a, stages) if a else y, W_T)))
        y = _moved(y, h, scheme.b, stages)
        if keep:
            kept += stages
    return y, *kept


def _moved(y: Tensor, h: Tensor, coefficients: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """y + h Σ c_i s_i."""
    for c, s in zip(coefficients, stages, strict=True):
        if c:
            y = torch.addcmul(y, h, s, value=c)
    return y


def _pulled_back(p, hW, scheme, stages, pull) -> tuple[list[Tensor], list[Tensor]]:
    """(q_i, r_i) of the stages of one step, from the last; without r of the first, which no stage needs."""
    a, b = scheme
    qs, rs = [], []
    for i in reversed(range(len(b))):
        v = p if b[i] == 1 else b[i] * p
        for r, row in zip(rs, reversed(a), strict=False):
            if row[i]:
                v = torch.add(v, r, alpha=row[i])
        qs.append(pull(v, stages[i]))
        if i:
            rs.append(qs[-1] @ hW)
    return qs, rs


def _layer_gradients(y, h, scheme, stages, qs) -> tuple[Tensor, Tensor]:
    """(W̄, b̄) of one step from y."""
    W_bar, b_bar = qs[-1].mT @ y, qs[-1].sum(0)
    for q, row in zip(qs, scheme.a[:0:-1], strict=False):
        W_bar = torch.addmm(W_bar, q.mT, _moved(y, h, row, stages[: len(row)]))
        b_bar = b_bar + q.sum(0)
    return h * W_bar, h * b_bar


def _step_gradient(p, scheme, stages, rs) -> Tensor:
    """h̄ of one step."""
    costates, rows = (p, *rs), (scheme.b, *scheme.a[:0:-1])
    return sum((_along(r, row, stages[: len(row)]) for r, row in zip(costates, rows, strict=True)), p.new_zeros(()))


def _along(p: Tensor, coefficients: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """⟨p, Σ c_i s_i⟩."""
    terms = (c * torch.dot(p.flatten(), s.flatten()) for c, s in zip(coefficients, stages, strict=True) if c)
    return sum(terms, p.new_zeros(()))


class _Lift(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y, weight, bias, activation):
        return activation_named(activation).value(torch.addmm(bias, y, weight.mT))

    @staticmethod
    def setup_context(ctx, inputs, output):
        y, weight, _, ctx.activation = inputs
        ctx.save_for_backward(y, weight, output)

    @staticmethod
    def backward(ctx, p):
        y, weight, s = ctx.saved_tensors
        q = activation_named(ctx.activation).pull(p, s)
        return q @ weight, q.mT @ y, q.sum(0), None
