"""Residual networks as discrete optimal control: a sweep of the state forward, a sweep of the costate back.

Derivation. A step Φ(y) = y + h σ(Wy + b) has, with z = Wy + b and s = σ(z), the differential

    dΦ = dy + h σ′(z) ∘ (dW y + W dy + db) + dh s.

A loss of what follows has dl = ⟨p, dΦ⟩ with the costate p = ∂l/∂Φ, a column like y. Put the differential in and move
every factor to the other side of the inner product, ⟨p, σ′ ∘ v⟩ = ⟨σ′ ∘ p, v⟩ and ⟨u, W v⟩ = ⟨Wᵀu, v⟩ = tr(vᵀWᵀu):

    dl = ⟨p + Wᵀq, dy⟩ + ⟨q yᵀ, dW⟩ + ⟨q, db⟩ + ⟨p, s⟩ dh    with q = h σ′(z) ∘ p.

A gradient is what stands beside its differential, so it has the shape of the parameter: q yᵀ that of W. It is Wᵀ and
not W because W took dy into the space of z, and q, which lives there, must come back to the space of y; for a
rectangular W nothing else fits. The rules are the same for a vector dy and a matrix dW: "replace d(·) by 1" is for
scalars only, "take what multiplies it in the inner product" is for all. Over K steps

    p_k = p_{k+1} + W_kᵀ q_k,    W̄_k = q_k y_kᵀ,    b̄_k = q_k,    h̄_k = ⟨p_{k+1}, s_k⟩,

the equation ṗ = -∂ℋ/∂y of the Hamiltonian ℋ(y, p, u) = ⟨p, σ(Wy + b)⟩ with the control u = (W, b), discretised so
that the gradient of the discrete problem is exact. With the stages of a Runge-Kutta scheme (a, b),

    z_i = y + h Σ_{j<i} a_ij s_j,    s_i = σ(W z_i + b),    Φ = y + h Σ_i b_i s_i,

the same rules give, from the last stage to the first,

    q_i = σ′ ∘ h (b_i p + Σ_{j>i} a_ji r_j),    r_i = Wᵀ q_i,    p ← p + Σ_i r_i,

the costate of the partner scheme a*_ij = b_j - b_j a_ji / b_i: together they are a symplectic partitioned scheme.

What is kept between the sweeps is s alone. σ′ is known from it, and the states come back, y_k = y_{k+1} - h Σ b_i s_i,
each with a rounding error of the size of the largest state: half of what a state and its s would take.

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
from torch.utils.checkpoint import checkpoint

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
        O(√K) memory instead of O(K). Not below torch.func.
    Returns y_K, like y; differentiable in y, W, b and h to any order (of relu: what autograd gives).
    To differentiate in y alone, give the others detached: no custom function can see that their gradients, which
    autograd would leave out, are not asked for.
    Raises ValueError for an unknown activation or scheme, and for wrong shapes or dtypes.
    Source: Benning, Celledoni, Ehrhardt, Owren, Schönlieb 2019, equations (3) to (9).
    """
    h = torch.as_tensor(step, dtype=y.dtype, device=y.device)
    _check(y, weight, bias, h, activation, scheme)
    steps, state = weight.shape[0], y.reshape(-1, y.shape[-1])
    controls = (weight, bias, h.expand(steps))
    if not steps:
        return y
    if not recompute:
        return _flow(state, *controls, activation, scheme).reshape(y.shape)
    length = max(1, math.isqrt(steps))
    for part in zip(*(control.split(length) for control in controls), strict=True):
        state = checkpoint(_flow, state, *part, activation, scheme, use_reentrant=False)
    return state.reshape(y.shape)


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


def _flow(y: Tensor, weight: Tensor, bias: Tensor, step: Tensor, activation: str, scheme: str) -> Tensor:
    return _Flow.apply(y, weight, bias, step, activation, _SCHEMES[scheme])[0]


class _Flow(torch.autograd.Function):
    """(y_K, s of every stage of every step): the stages are outputs, so that autograd knows them in a second sweep."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y, weight, bias, step, activation, scheme):
        value = activation_named(activation).value
        kept: list[Tensor] = []
        for W, b, h in zip(weight, bias, step, strict=True):
            stages: list[Tensor] = []
            for a in scheme.a:
                stages.append(value(torch.addmm(b, _moved(y, h, a, stages), W.mT)))
            y = _moved(y, h, scheme.b, stages)
            kept += stages
        return y, *kept

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, weight, _, step, ctx.activation, ctx.scheme = inputs
        ctx.save_for_backward(weight, step, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, p, *kept_bar):
        weight, step, y, *kept = ctx.saved_tensors
        slope, (a, b) = activation_named(ctx.activation).slope, ctx.scheme
        wants_controls = any(ctx.needs_input_grad[1:4])
        count, controls = len(b), []
        p = torch.zeros_like(y) if p is None else p
        for k in reversed(range(len(weight))):
            W, h = weight[k], step[k]
            stages, stages_bar = (part[count * k : count * (k + 1)] for part in (kept, kept_bar))
            qs, rs = _pulled_back(p, W, h, (a, b), stages, stages_bar, slope)
            if wants_controls:
                y = _moved(y, -h, b, stages)
                controls.append(_control_gradients(p, y, h, (a, b), stages, qs, rs))
            p = p + sum(rs[1:], rs[0])
        if not wants_controls:
            return p, *[None] * 5
        return p, *(torch.stack(part) for part in zip(*reversed(controls), strict=True)), None, None


def _moved(y: Tensor, h: Tensor, coefficients: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """y + h Σ c_i s_i."""
    for c, s in zip(coefficients, stages, strict=True):
        if c:
            y = torch.addcmul(y, h, s, value=c)
    return y


def _pulled_back(p, W, h, scheme, stages, stages_bar, slope) -> tuple[list[Tensor], list[Tensor]]:
    """(q_i, r_i) of the stages of one step; stages_bar holds what comes back to the stages by themselves, or None."""
    a, b = scheme
    qs, rs = [p] * len(b), [p] * len(b)
    for i in reversed(range(len(b))):
        s_bar = h * b[i] * p
        for j in range(i + 1, len(b)):
            if a[j][i]:
                s_bar = torch.addcmul(s_bar, h, rs[j], value=a[j][i])
        if stages_bar[i] is not None:
            s_bar = s_bar + stages_bar[i]
        qs[i] = slope(stages[i]) * s_bar
        rs[i] = qs[i] @ W
    return qs, rs


def _control_gradients(p, y, h, scheme, stages, qs, rs) -> tuple[Tensor, Tensor, Tensor]:
    """(W̄, b̄, h̄) of one step from y."""
    a, b = scheme
    W_bar, b_bar, h_bar = y.new_zeros(y.shape[-1], y.shape[-1]), y.new_zeros(y.shape[-1]), _along(p, b, stages)
    for i, (q, r, row) in enumerate(zip(qs, rs, a, strict=True)):
        W_bar = torch.addmm(W_bar, q.mT, _moved(y, h, row, stages[:i]))
        b_bar = b_bar + q.sum(0)
        h_bar = h_bar + _along(r, row, stages[:i])
    return W_bar, b_bar, h_bar


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
        q = activation_named(ctx.activation).slope(s) * p
        return q @ weight, q.mT @ y, q.sum(0), None
