"""The canonical program that the solver, the certificate and the adjoint share.

    minimise_x  phi(x) + p'x    subject to   A x = b  (nu),   J x <= d  (lam >= 0),                     (1)

with J = [G; -I; I] and d = [h; -lower; upper]: simple bounds are rows of J with identity structure, kept
implicit. Every datum is a tensor with the leading batch dimensions; an absent group has zero rows.
"""

from functools import reduce
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .linalg import mv, stack, tmv

BLOCK = 2**17


@runtime_checkable
class Phi(Protocol):
    """The curved part of the objective; Q is whatever data it has."""

    constant_hessian: ClassVar[bool]

    def value(self, Q: Tensor, x: Tensor) -> Tensor: ...
    def gradient(self, Q: Tensor, x: Tensor) -> Tensor: ...
    def hessian(self, Q: Tensor, x: Tensor) -> Tensor:
        """Matrix (*batch, n, n), or its diagonal (*batch, n)."""
        ...

    def stationarity(self, x: Tensor, gradient: Tensor, dual: Tensor) -> Tensor:
        """From grad phi(x): a residual that vanishes where it is -dual, well scaled also where phi is steep."""
        ...


class Quadratic:
    """phi(x) = x'Qx / 2; Q is a symmetric matrix or a diagonal."""

    constant_hessian: ClassVar[bool] = True

    def value(self, Q: Tensor, x: Tensor) -> Tensor:
        return 0.5 * (x * self.gradient(Q, x)).sum(-1)

    def gradient(self, Q: Tensor, x: Tensor) -> Tensor:
        return symmetric_mv(Q, x)

    def hessian(self, Q: Tensor, x: Tensor) -> Tensor:
        return Q

    def stationarity(self, x: Tensor, gradient: Tensor, dual: Tensor) -> Tensor:
        return gradient + dual


class NegativeEntropy:
    """phi(y, t) = sum y log y + (1 - y) log(1 - y); the last coordinate t has no curvature."""

    constant_hessian: ClassVar[bool] = False

    def value(self, Q: Tensor, x: Tensor) -> Tensor:
        y = x[..., :-1]
        return (torch.special.xlogy(y, y) + torch.special.xlogy(1 - y, 1 - y)).sum(-1)

    def gradient(self, Q: Tensor, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(torch.logit(x[..., :-1]), (0, 1))

    def hessian(self, Q: Tensor, x: Tensor) -> Tensor:
        y = x[..., :-1]
        tiny = torch.finfo(y.dtype).tiny
        return torch.nn.functional.pad((y * (1 - y)).clamp_min(tiny).reciprocal(), (0, 1))

    def stationarity(self, x: Tensor, gradient: Tensor, dual: Tensor) -> Tensor:
        y = x[..., :-1] - torch.sigmoid(-dual[..., :-1])
        return torch.cat((y, dual[..., -1:]), -1)


class EntropyConjugate:
    """phi(lam) = sum_j softplus(-(g + G'lam)_j), the conjugate of the entropy at -(g + G'lam).

    Q holds G (k, n) with g (n) as one row more below it.
    """

    constant_hessian: ClassVar[bool] = False

    def value(self, Q: Tensor, x: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-self._slope(Q, x)).sum(-1)

    def gradient(self, Q: Tensor, x: Tensor) -> Tensor:
        return -mv(Q[..., :-1, :], torch.sigmoid(-self._slope(Q, x)))

    def hessian(self, Q: Tensor, x: Tensor) -> Tensor:
        y = torch.sigmoid(-self._slope(Q, x))
        return weighted_gram(Q[..., :-1, :].mT, y * (1 - y))

    def stationarity(self, x: Tensor, gradient: Tensor, dual: Tensor) -> Tensor:
        return gradient + dual

    def _slope(self, Q: Tensor, x: Tensor) -> Tensor:
        return Q[..., -1, :] + tmv(Q[..., :-1, :], x)


class Program(NamedTuple):
    """The data of (1). Shapes: p (*batch, n); A (*batch, q, n); G (*batch, m, n); d (*batch, m + bounds).

    Q, A and G may have one in place of batch dimensions: they are shared, and their gradient is summed there.
    """

    Q: Tensor
    p: Float[Tensor, "*batch n"]
    A: Float[Tensor, "*#batch q n"]
    b: Float[Tensor, "*batch q"]
    G: Float[Tensor, "*#batch m n"]
    d: Float[Tensor, "*batch rows"]


class Bounds(NamedTuple):
    """Which simple bounds stand below G in J."""

    lower: bool
    upper: bool


def rows_mv(G: Tensor, bounds: Bounds, x: Tensor) -> Tensor:
    """J x."""
    return stack(mv(G, x), *[-x] * bounds.lower, *[x] * bounds.upper)


def rows_tmv(G: Tensor, bounds: Bounds, lam: Tensor) -> Tensor:
    """J'lam."""
    lam_G, lam_lower, lam_upper = split_rows(G, bounds, lam)
    out = tmv(G, lam_G)
    if bounds.lower:
        out = out - lam_lower
    return out + lam_upper if bounds.upper else out


def split_rows(G: Tensor, bounds: Bounds, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of a vector over the rows of J that belong to G, lower, upper (zero length when absent)."""
    m, n = G.shape[-2:]
    sizes = [m, n * bounds.lower, n * bounds.upper]
    rows_G, rows_lower, rows_upper = rows.split(sizes, -1)
    return rows_G, rows_lower, rows_upper


def weighted_gram(M: Tensor, weight: Tensor) -> Tensor:
    """M' diag(weight) M, in blocks of rows whose weighted copy stays in the cache."""
    rows = max(1, BLOCK * M.shape[-2] // max(1, M.numel()))
    blocks = zip(M.split(rows, -2), weight.split(rows, -1), strict=True)
    return reduce(torch.add, ((part * w.unsqueeze(-1)).mT @ part for part, w in blocks))


def symmetric_mv(H: Tensor, x: Tensor) -> Tensor:
    """H x, H a matrix or a diagonal."""
    return H * x if is_diagonal(H, x) else tmv(H, x)


def is_diagonal(H: Tensor, x: Tensor) -> bool:
    """Whether H holds a diagonal beside vectors of the shape of x."""
    return H.dim() == x.dim()
