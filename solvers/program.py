"""The canonical program that the solver, the certificate and the adjoint share.

    minimise_x  phi(x) + p'x    subject to   A x = b  (nu),   J x <= d  (lam >= 0),                     (1)

with J = [G; -I; I] and d = [h; -lower; upper]: simple bounds are rows of J with identity structure, kept
implicit. Every datum is a tensor with the leading batch dimensions; an absent group has zero rows.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from .linalg import mv, stack, tmv

BLOCK = 2**17


class Bounds(NamedTuple):
    """Which simple bounds stand below G in J."""

    lower: bool
    upper: bool


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


class NegativeEntropy(ABC):
    """phi(y, t) = -H(y) of y in the domain of the entropy; the last coordinate t has no curvature.

    The entropy also knows, in closed form, its conjugate  phi*(-z) = -min_y phi(y) + z'y  and the minimiser y(z).
    """

    constant_hessian: ClassVar[bool] = False
    bounds: ClassVar[Bounds]
    """Which faces the domain has, beside its equalities; y stays off them by itself."""

    def value(self, Q: Tensor, x: Tensor) -> Tensor:
        return self.of(x[..., :-1]).sum(-1)

    def gradient(self, Q: Tensor, x: Tensor) -> Tensor:
        return pad(self.slope(x[..., :-1]), (0, 1))

    def hessian(self, Q: Tensor, x: Tensor) -> Tensor:
        variance = self.variance(x[..., :-1]).clamp_min(torch.finfo(x.dtype).tiny)
        return pad(variance.log().neg().exp(), (0, 1))  # unlike that of 1 / y, its derivative never squares 1 / y

    def stationarity(self, x: Tensor, gradient: Tensor, dual: Tensor) -> Tensor:
        return torch.cat((x[..., :-1] - self.from_slope(-dual[..., :-1]), dual[..., -1:]), -1)

    @abstractmethod
    def of(self, y: Tensor) -> Tensor:
        """The negative entropy of every coordinate, with finite slopes where y rounds to a face of the domain."""

    @abstractmethod
    def slope(self, y: Tensor) -> Tensor:
        """The derivative of every coordinate of `of`."""

    @abstractmethod
    def from_slope(self, slope: Tensor) -> Tensor:
        """The y with that slope."""

    @abstractmethod
    def variance(self, y: Tensor) -> Tensor:
        """One over the second derivative."""

    @abstractmethod
    def conjugate(self, z: Tensor) -> Tensor:
        """phi*(-z), (*batch,)."""

    @abstractmethod
    def minimiser(self, z: Tensor) -> Tensor:
        """y(z), the gradient of the conjugate at -z."""

    @abstractmethod
    def multiplier(self, z: Tensor) -> Tensor:
        """nu of the equalities of the domain, (*batch, q): slope(y(z)) + z + A'nu = 0."""

    @abstractmethod
    def covariance(self, G: Tensor, y: Tensor) -> Tensor:
        """G (d y / d (-z)) G', (*batch, k, k): the covariance of G Y where Y has mean y."""


class BoxEntropy(NegativeEntropy):
    """phi(y, t) = sum y log y + (1 - y) log(1 - y) on 0 <= y <= 1: coordinates are Bernoulli, y(z) = sigmoid(-z)."""

    bounds: ClassVar[Bounds] = Bounds(True, True)

    def of(self, y: Tensor) -> Tensor:
        return _times_log(y) + _times_log(1 - y)

    def slope(self, y: Tensor) -> Tensor:
        return torch.logit(y)

    def from_slope(self, slope: Tensor) -> Tensor:
        return torch.sigmoid(slope)

    def variance(self, y: Tensor) -> Tensor:
        return y * (1 - y)

    def conjugate(self, z: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-z).sum(-1)

    def minimiser(self, z: Tensor) -> Tensor:
        return torch.sigmoid(-z)

    def multiplier(self, z: Tensor) -> Tensor:
        return z[..., :0]

    def covariance(self, G: Tensor, y: Tensor) -> Tensor:
        return weighted_gram(G.mT, self.variance(y))


class SimplexEntropy(NegativeEntropy):
    """phi(y, t) = sum y log y on y >= 0, 1'y = 1 (nu): one class of n, y(z) = softmax(-z), nu = logsumexp(-z) - 1."""

    bounds: ClassVar[Bounds] = Bounds(True, False)

    def of(self, y: Tensor) -> Tensor:
        return _times_log(y)

    def slope(self, y: Tensor) -> Tensor:
        return y.log() + 1

    def from_slope(self, slope: Tensor) -> Tensor:
        return (slope - 1).exp()

    def variance(self, y: Tensor) -> Tensor:
        return y

    def conjugate(self, z: Tensor) -> Tensor:
        return torch.logsumexp(-z, -1)

    def minimiser(self, z: Tensor) -> Tensor:
        return torch.softmax(-z, -1)

    def multiplier(self, z: Tensor) -> Tensor:
        return torch.logsumexp(-z, -1, keepdim=True) - 1

    def covariance(self, G: Tensor, y: Tensor) -> Tensor:
        return weighted_gram((G - mv(G, y).unsqueeze(-1)).mT, y)


def _times_log(y: Tensor) -> Tensor:
    return torch.special.xlogy(y, y.clamp_min(torch.finfo(y.dtype).tiny))


@dataclass(frozen=True)
class EntropyConjugate:
    """phi(lam) = phi*(-(g + G'lam)), phi* the conjugate of the entropy.

    Q holds G (k, n) with g (n) as one row more below it.
    """

    constant_hessian: ClassVar[bool] = False

    entropy: NegativeEntropy

    def value(self, Q: Tensor, x: Tensor) -> Tensor:
        return self.entropy.conjugate(self._slope(Q, x))

    def gradient(self, Q: Tensor, x: Tensor) -> Tensor:
        return -mv(Q[..., :-1, :], self._minimiser(Q, x))

    def hessian(self, Q: Tensor, x: Tensor) -> Tensor:
        return self.entropy.covariance(Q[..., :-1, :], self._minimiser(Q, x))

    def stationarity(self, x: Tensor, gradient: Tensor, dual: Tensor) -> Tensor:
        return gradient + dual

    def _slope(self, Q: Tensor, x: Tensor) -> Tensor:
        return Q[..., -1, :] + tmv(Q[..., :-1, :], x)

    def _minimiser(self, Q: Tensor, x: Tensor) -> Tensor:
        return self.entropy.minimiser(self._slope(Q, x))


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
