"""Noisy-or counts in the log domain: a sum over rows of one minus a product, and its gradient in one pass.

Derivation. With z_ij = α I_ij + β D_ij and F = σ(z), row i escapes all its factors with probability

    m_i = Π_j (1 - F_ij),    log m_i = -Σ_j softplus(z_ij),    s = N - Σ_i m_i = Σ_i -expm1(log m_i),

for 1 - σ(z) = exp(-softplus(z)). The sum of thousands of logarithms is an ordinary number where the product is zero to
every float. As softplus′ = σ, the differentials are

    d log m_i = -Σ_j F_ij dz_ij,    dm_i = m_i d log m_i,    ds = Σ_i m_i Σ_j F_ij dz_ij,
    dz_ij = I_ij dα + D_ij dβ + α dI_ij + β dD_ij,

and a gradient is what stands beside its differential, of the shape of the parameter:

    ∂s/∂α = Σ_i m_i Σ_j F_ij I_ij,    ∂s/∂β = Σ_i m_i Σ_j F_ij D_ij,    ∂s/∂I_ij = α m_i F_ij,    ∂s/∂D_ij = β m_i F_ij.

The sums over j are finished when log m_i is: a row that has been read once has given its share of s and of both slopes,
and nothing of it has to be kept for the sweep back.

Second order. Let (p, a, b) come back to (s, ∂s/∂α, ∂s/∂β). With t = aI + bD and r_i = Σ_j F_ij t_ij the form to be
differentiated is φ = Σ_i p (1 - m_i) + m_i r_i, and with F′ = F(1 - F)

    dφ = Σ_ij w_ij dz_ij + m_i F_ij (a dI_ij + b dD_ij)    with w_ij = m_i F_ij (p - r_i + (1 - F_ij) t_ij),

so that w I and w D, summed, go to α and β, αw + a m F to I and βw + b m F to D. It needs m_i and r_i before w_ij, hence
reads each block of rows twice.

-log m_i is convex in (α, β), a sum of softplus of forms linear in them, with the Hessian Σ_j F′_ij v vᵀ ⪰ 0 for
v = (I_ij, D_ij). The count itself is neither convex nor concave.

Source: Pearl 1988, "Probabilistic Reasoning in Intelligent Systems", section 4.3.2 (the noisy-or gate).
"""

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .blocks import Dense, Layout, Level, Ragged


def noisy_or_count(
    alpha: float | Float[Tensor, "..."],
    beta: float | Float[Tensor, "..."],
    I: Float[Tensor, "..."],
    D: Float[Tensor, "..."],
    offsets: Int[Tensor, "..."] | None = None,
    groups: Int[Tensor, "..."] | None = None,
) -> Float[Tensor, "..."]:
    """The expected number of rows with an event, s = N - Σ_i Π_j (1 - σ(α I_ij + β D_ij)), its adjoint in closed form.

    The event comes to row i through each of its factors j independently, with probability σ(α I_ij + β D_ij). Computed
    by logarithms, so that thousands of factors do not underflow, and by blocks of rows: what is needed beside the
    inputs is a few megabytes, forward and backward, however many factors there are.

    alpha, beta: α and β, numbers or tensors that broadcast to *batch.
    I, D: (*batch, N, J), whose leading dimensions broadcast too (in place, unless over some only of several); or, with
        offsets, the values of all rows, (values,).
    offsets: (N + 1,), integers: row i has the values from offsets[i] up to offsets[i + 1].
    groups: (G + 1,), integers, beside offsets: group g has the rows from groups[g] up to groups[g + 1], and its own
        count, α and β: *batch is (G,). Without groups all rows are one, and *batch is ().
    Returns s, (*batch,), differentiable in α, β, I and D to any order. Neither the gradient nor the Hessian in (α, β)
    keeps anything of the size of I; the gradient in I and D takes its own size, and what is beyond what autograd takes.
    Where the gradient in I or D is not wanted, give them detached: no custom function can see what is asked for.
    Raises ValueError for wrong shapes, for other dtypes than one of float32 and float64, and for offsets or groups that
    do not rise from 0 to the end.
    """
    _check_values(I, D, ragged=offsets is not None)
    a, b = (_parameter(name, x, I) for name, x in (("alpha", alpha), ("beta", beta)))
    if offsets is None:
        if groups is not None:
            raise ValueError("groups are of ragged rows: give offsets too, or I and D with a batch dimension")
        batch, (N, J) = _broadcast(a.shape, b.shape, I.shape[:-2], D.shape[:-2]), I.shape[-2:]
        layout = Dense((math.prod(batch), N, J))
        I, D = (part.expand(*batch, N, J).reshape(layout.shape) for part in (I, D))
    else:
        layout = _ragged(offsets, groups, len(I))
        batch = () if groups is None else (len(groups) - 1,)
        _check_counts(a, b, batch)
    a, b = (x.expand(batch).reshape(-1) for x in (a, b))
    if torch.is_grad_enabled() and any(part.requires_grad for part in (a, b, I, D)):
        return _Count.apply(a, b, I, D, layout)[0].reshape(batch)
    return _sweep(a, b, I, D, layout, slopes=False)[0].reshape(batch)


def _check_values(I: Tensor, D: Tensor, *, ragged: bool) -> None:
    if I.dtype not in (torch.float32, torch.float64) or I.dtype != D.dtype:
        raise ValueError(f"I and D must both be of float32 or of float64; got {I.dtype} and {D.dtype}")
    if ragged and not I.ndim == D.ndim == 1:
        raise ValueError(f"I and D must be of shape (values,) where offsets are given; got {_shapes(I, D)}")
    if not ragged and min(I.ndim, D.ndim) < 2:
        raise ValueError(f"I and D must be of shape (*batch, N, J) without offsets; got {_shapes(I, D)}")
    if I.shape[-2:] != D.shape[-2:]:
        raise ValueError(f"I and D must have the same rows and factors; got {_shapes(I, D)}")


def _shapes(*parts: Tensor) -> str:
    return " and ".join(str(tuple(part.shape)) for part in parts)


def _ragged(offsets: Tensor, groups: Tensor | None, values: int) -> Ragged:
    _check_offsets("offsets", offsets, values, "values")
    rows = len(offsets) - 1
    if groups is None:
        return Ragged(offsets, offsets.new_tensor([0, rows]))
    _check_offsets("groups", groups, rows, "rows")
    return Ragged(offsets, groups)


def _check_offsets(name: str, offsets: Tensor, end: int, of: str) -> None:
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must be a row of int32 or int64; got {tuple(offsets.shape)} of {offsets.dtype}")
    if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
        ends = f"goes from {int(offsets[0])} to {int(offsets[-1])}"
        raise ValueError(f"{name} must go from 0 to the number of {of}, {end}, never falling; it {ends}")


def _parameter(name: str, value: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(value, Tensor) and value.dtype != like.dtype:
        raise ValueError(f"{name} must be of the dtype of I and D, {like.dtype}; got {value.dtype}")
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError as error:
        found = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"alpha, beta and the batches of I and D must broadcast; got {found}") from error


def _check_counts(alpha: Tensor, beta: Tensor, batch: tuple[int, ...]) -> None:
    for name, x in (("alpha", alpha), ("beta", beta)):
        if x.shape not in ((), batch):
            raise ValueError(f"{name} must be one number or of shape {batch}, one for each group; got {tuple(x.shape)}")


class _Count(torch.autograd.Function):
    """(s, ∂s/∂α, ∂s/∂β): the slopes are outputs, so that autograd knows them in a second sweep."""

    generate_vmap_rule = True

    @staticmethod
    def forward(alpha, beta, I, D, layout):
        return _sweep(alpha, beta, I, D, layout, slopes=True)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.layout = inputs
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, p, a, b):
        alpha, beta, I, D, s_alpha, s_beta = ctx.saved_tensors
        wants_values = any(ctx.needs_input_grad[2:4])
        if a is None and b is None and not wants_values:
            return p * s_alpha, p * s_beta, None, None, None
        p, a, b = (torch.zeros_like(s_alpha) if bar is None else bar for bar in (p, a, b))
        return *_pulled_back(p, a, b, alpha, beta, I, D, ctx.layout, wants_values), None


def _sweep(alpha: Tensor, beta: Tensor, I: Tensor, D: Tensor, layout: Layout, *, slopes: bool) -> tuple[Tensor, ...]:
    """s of every group; with slopes also ∂s/∂α and ∂s/∂β."""
    totals = [_zeros(alpha.shape, alpha, beta, I, D) for _ in range(3 if slopes else 1)]
    for groups, rows, pieces in layout.blocks():
        parameters = [rows.spread(part[groups]) for part in (alpha, beta)]
        log_m, F_I, F_D = alpha.new_zeros(3).unbind()
        for at, factors in pieces:
            i, d = I[at], D[at]
            z = _form(factors, parameters, i, d)
            log_m = log_m - factors.collect(_softplus(z))
            if slopes:
                F = z.sigmoid()
                F_I, F_D = F_I + factors.collect(F * i), F_D + factors.collect(F * d)
        m = log_m.exp()
        found = (-log_m.expm1(), m * F_I, m * F_D) if slopes else (-log_m.expm1(),)
        _add(totals, groups, map(rows.collect, found))
    return tuple(totals)


def _pulled_back(p, a, b, alpha, beta, I, D, layout: Layout, wants_values: bool) -> tuple[Tensor | None, ...]:
    """(ᾱ, β̄, Ī, D̄) from what comes back to s, ∂s/∂α and ∂s/∂β."""
    everything = (p, a, b, alpha, beta, I, D)
    bars = [_zeros(alpha.shape, *everything) for _ in range(2)]
    values = [_zeros(I.shape, *everything) for _ in range(2)] if wants_values else []
    for groups, rows, pieces in layout.blocks():
        p_row, *both = (rows.spread(part[groups]) for part in (p, a, b, alpha, beta))
        directions, parameters = both[:2], both[2:]
        log_m, r = alpha.new_zeros(2).unbind()
        for at, factors in pieces:
            i, d = I[at], D[at]
            z, t = _form(factors, parameters, i, d), _form(factors, directions, i, d)
            log_m, r = log_m - factors.collect(_softplus(z)), r + factors.collect(z.sigmoid() * t)
        m, rest = log_m.exp(), p_row - r
        for at, factors in pieces:
            i, d = I[at], D[at]
            F, t = _form(factors, parameters, i, d).sigmoid(), _form(factors, directions, i, d)
            mF = factors.spread(m) * F
            w = mF * (factors.spread(rest) + (1 - F) * t)
            _add(bars, groups, (rows.collect(factors.collect(w * part)) for part in (i, d)))
            if wants_values:
                pairs = zip(parameters, directions, strict=True)
                _add(values, at, (_form(factors, pair, w, mF) for pair in pairs))
    return *bars, *(values or (None, None))


def _form(factors: Level, coefficients: Sequence[Tensor], i: Tensor, d: Tensor) -> Tensor:
    """The form in i and d with these coefficients of the rows."""
    first, second = (factors.spread(part) for part in coefficients)
    return torch.addcmul(first * i, second, d)


def _softplus(z: Tensor) -> Tensor:
    return torch.nn.functional.softplus(z, threshold=40)  # from there on z to every digit; the default stops at nine


def _zeros(shape: torch.Size, *parts: Tensor) -> Tensor:
    """Zeros to add into, which below vmap are of its batch where one of the parts is."""
    return sum((part.new_zeros(()) for part in parts), parts[0].new_zeros(())).new_zeros(shape)


def _add(totals: Sequence[Tensor], at: slice | tuple[slice, ...], parts: Iterable[Tensor]) -> None:
    """In place: small tensors that stay between large ones that go would leave the heap in fragments."""
    for total, part in zip(totals, parts, strict=True):
        total[at].add_(part)
