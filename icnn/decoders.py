"""From probabilities of labels to a set of labels: by a level, by a number, or by the F that is to be expected."""

from math import ceil, exp, inf, log, pi
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

DIGITS = 36.0  # of the quadrature, natural ones: a relative error of some e^-36
TIE = 1e-12  # relative: sets that differ by less are equally good


class ExpectedF(NamedTuple):
    """The set that maximises the expected F, (*batch, L) of bool, and its expected F, (*batch,)."""

    labels: Tensor
    value: Tensor


def threshold(p: Float[Tensor, "*batch L"], level: float | Tensor = 0.5) -> Bool[Tensor, "*batch L"]:
    """The labels with pⱼ ≥ level.

    p: (*batch, L), any real scores. level: a number, or a tensor that broadcasts with p, such as one level per label.
    """
    return p >= level


def top_k(p: Float[Tensor, "*batch L"], k: int) -> Bool[Tensor, "*batch L"]:
    """The k labels with the largest p; of equal ones those that come first.

    p: (*batch, L), any real scores. Raises ValueError unless 0 ≤ k ≤ L.
    """
    if not 0 <= k <= p.shape[-1]:
        raise ValueError(f"k is {k}, expected 0 <= k <= {p.shape[-1]}, the number of labels")
    return _largest(p, torch.as_tensor(k, device=p.device))


def expected_f1(p: Float[Tensor, "*batch L"], beta: float = 1.0, zero_division: float = 0.0) -> ExpectedF:
    """The set of labels s that maximises the expected F of a row whose labels y are independent, yⱼ ~ Bernoulli(pⱼ).

        maximise over s in {0, 1}ᴸ   E F(s, y),    F(s, y) = (1 + β²) sᵀy / (|s| + β² |y|)

    The best set of k labels is that of the k largest p. For it, with the exponential sum 1/c = ∫ e^{−cτ} dτ,

        E F = (1 + β²) ∫₀^∞ e^{−kτ} Π_j (1 − pⱼ + pⱼu) Σ_{i ≤ k} pᵢu / (1 − pᵢ + pᵢu) dτ,    u = e^{−β²τ},

    which one sweep over the nodes τ of a quadrature gives for all k at once. Every term is positive: nothing cancels,
    and E F has no larger relative error than the quadrature has at 1/c, 1e-14. The time grows as L log L.

    p: (*batch, L), probabilities; the work is done in float64. beta: β > 0; 1 is F1.
    zero_division: F where s and y are both empty, as in scikit-learn's `f1_score(average="samples")`.
    Returns an `ExpectedF`; of sets that are equally good the smallest, and of equal p the labels that come first.
    Raises ValueError for a p out of [0, 1], for beta or zero_division out of range.
    Source: Lewis 1995 (k largest); Ye, Chai, Lee, Chieu, Optimizing F-measure: a tale of two approaches, ICML 2012
        (the problem, in quadratic time); Braess, Hackbusch, Approximation of 1/x by exponential sums, 2005.
    """
    _check(p, beta, zero_division)
    value = _expected_f(p.double().sort(dim=-1, descending=True, stable=True).values, beta, zero_division)
    best = value.amax(-1, keepdim=True)
    size = (value >= best * (1 - TIE)).byte().argmax(-1, keepdim=True)
    return ExpectedF(_largest(p, size), value.gather(-1, size).squeeze(-1).to(p.dtype))


@torch.no_grad()
def best_threshold(
    p: Float[Tensor, "n L"], labels: Bool[Tensor, "n L"], beta: float = 1.0, zero_division: float = 0.0
) -> float:
    """The level for `threshold` that maximises the mean over the rows of F(p ≥ level, labels), of all levels.

    p: (n, L), probabilities. labels: (n, L), the truth of a validation set. beta, zero_division: as in `expected_f1`.
    Returns a level in the middle between two of the p; inf where no label at all is best.
    Raises ValueError as `expected_f1`, and for labels of another shape.
    """
    _check(p, beta, zero_division)
    if labels.shape != p.shape:
        raise ValueError(f"labels has shape {tuple(labels.shape)}, expected that of p, {tuple(p.shape)}")
    order = p.argsort(dim=-1, descending=True)
    hits = labels.gather(-1, order).double().cumsum(-1)
    size, truth = torch.arange(1, p.shape[-1] + 1, device=p.device), labels.sum(-1, keepdim=True)
    score = (1 + beta**2) * hits / (size + beta**2 * truth)
    none = (truth == 0).double() * zero_division
    gain = score - torch.cat((none, score[:, :-1]), -1)
    level, rank = p.gather(-1, order).flatten().sort(descending=True)
    total = torch.cat((none.sum().reshape(1), none.sum() + gain.flatten()[rank].cumsum(0)))
    total[1:-1].masked_fill_(level[1:] == level[:-1], -inf)  # equal p enter together
    best = int(total.argmax())
    above, below = (level.new_tensor([end]) for end in (inf, 0.0))
    upper, lower = torch.cat((above, level)), torch.cat((level, below))
    middle = (upper[best] + lower[best]) / 2
    return float(middle if middle > lower[best] else upper[best])


def _largest(p: Tensor, size: Tensor) -> Tensor:
    """The labels of the `size` largest p of each row; size (*batch, 1) or a number."""
    order = p.argsort(dim=-1, descending=True, stable=True)
    chosen = (torch.arange(p.shape[-1], device=p.device) < size).expand(p.shape)
    return torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, chosen)


@torch.no_grad()
def _expected_f(p: Tensor, beta: float, zero_division: float) -> Tensor:
    """E F of the first k labels for k = 0, ..., L, (*batch, L + 1); p in descending order."""
    absent, size = 1 - p, torch.arange(1, p.shape[-1] + 1, dtype=p.dtype, device=p.device)
    total = torch.zeros_like(p)
    for node, weight in _exponential_sum(1 + beta**2, (1 + beta**2) * p.shape[-1]):
        hit = p * exp(-(beta**2) * node)
        factor = absent + hit
        product = factor.log().sum(-1, keepdim=True).exp()
        total += (hit / factor).cumsum(-1) * (-node * size).exp() * (weight * product)
    empty = zero_division * absent.prod(-1, keepdim=True)
    return torch.cat((empty, (1 + beta**2) * total), -1)


def _exponential_sum(least: float, most: float) -> list[tuple[float, float]]:
    """Nodes τ and weights w with 1/c = Σ w e^{−cτ} for c in [least, most]: the trapezoidal rule in x = log τ."""
    first, last, step = -DIGITS - log(most), log(1.2 * DIGITS / least), pi**2 / DIGITS
    return [(exp(first + i * step), step * exp(first + i * step)) for i in range(ceil((last - first) / step) + 1)]


def _check(p: Tensor, beta: float, zero_division: float) -> None:
    if p.shape[-1:].numel() == 0 or p.ndim == 0:
        raise ValueError(f"p has shape {tuple(p.shape)}, expected (*batch, L) with L > 0")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p has entries in [{float(p.min())}, {float(p.max())}], expected probabilities in [0, 1]")
    if not 0 < beta < inf:
        raise ValueError(f"beta is {beta}, expected a positive number")
    if not 0 <= zero_division <= 1:
        raise ValueError(f"zero_division is {zero_division}, expected a number in [0, 1]")
