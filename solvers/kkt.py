"""The KKT operator, factorised once and used by Newton steps, polishing and every adjoint.

    M = [ H   A'   J'       ]
        [ A   0    0        ]      w = s / lam  on the rows of J = [G; -I; I]                            (2)
        [ J   0   -diag(w)  ]

w = 0 holds a row as an equality (a row in the active set); w = inf drops it: its multiplier is zero. Between
the two, w is what an interior iterate has.

Factorised is M + diag(rho, -delta): a small regularisation, in the units of each row and column, with which
singular H, redundant rows of A and dependent active rows need no special case. `solve` removes its effect by
iterative refinement against M itself (the proximal method of multipliers on the Newton system). Where M is
singular the limit on a consistent right-hand side has no component in the null space, so that solve(M z)
projects z onto the range of M: `range_part` rests on that, and through it singularity is noticed and the
minimum-norm solution (in the norm of rho and delta) is found.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .linalg import largest, mv, tmv
from .program import Bounds, Program, is_diagonal, rows_mv, rows_tmv, split_rows, symmetric_mv

PRIMAL_REGULARISATION = 1e-10
DUAL_REGULARISATION = 1e-8
ROUNDING = 1e-14
REFINEMENTS = 12
ACCURACY = 1e-13


@dataclass(frozen=True, eq=False)
class KKT(ABC):
    """M with its factor. Vectors z = (x, nu, lam) are single tensors (*batch, n + q + rows)."""

    H: Tensor
    A: Tensor
    G: Tensor
    bounds: Bounds
    w: Tensor
    rho: Tensor
    delta: Tensor
    factor: Tensor

    @classmethod
    def factorise(cls, H: Tensor, A: Tensor, G: Tensor, bounds: Bounds, w: Tensor, rho: Tensor, delta: Tensor) -> "KKT":
        """Factorise M; rho (*batch, n) and delta (*batch, q + rows) from `Units`."""
        empty = w[..., :0]
        kkt = cls(H, A, G, bounds, w, rho, delta, empty)
        return cls(H, A, G, bounds, w, rho, delta, kkt._factorise())

    @abstractmethod
    def _factorise(self) -> Tensor: ...

    @abstractmethod
    def _backsolve(self, r: Tensor) -> Tensor:
        """The solution of the regularised system; r is zero on dropped rows."""

    @property
    def kept(self) -> Tensor:
        return torch.isfinite(self.w)

    @property
    def weight(self) -> Tensor:
        """1 / (delta + w) over the rows of A and J: zero on dropped rows."""
        return torch.cat((self.w.new_zeros(self.A.shape[:-1]), self.w), -1).add(self.delta).reciprocal()

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, nu, lam = z.split([self.A.shape[-1], self.A.shape[-2], self.w.shape[-1]], -1)
        return x, nu, lam

    def apply(self, z: Tensor) -> Tensor:
        """M z, with -1 on the diagonal of dropped rows."""
        x, nu, lam = self.split(z)
        top = symmetric_mv(self.H, x) + tmv(self.A, nu) + rows_tmv(self.G, self.bounds, lam * self.kept)
        w = self.w.masked_fill(~self.kept, 1.0)
        return torch.cat((top, mv(self.A, x), self.kept * rows_mv(self.G, self.bounds, x) - w * lam), -1)

    def step(self, r: Tensor) -> Tensor:
        """M^-1 r to the accuracy of the regularisation: enough for a Newton step, whose error the next one mends."""
        return self._backsolve(self._drop(r))

    def solve(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """M^-1 r refined to rounding, and the relative residual that is left, shape (*batch,)."""
        r = self._drop(r)
        scale = self._size(r).clamp_min(torch.finfo(r.dtype).tiny)
        z = self._backsolve(r)
        residual = r - self.apply(z)
        error = self._size(residual) / scale
        for _ in range(REFINEMENTS):
            if not (error > ACCURACY).any():
                break
            z_new = z + self._backsolve(residual)
            residual_new = r - self.apply(z_new)
            error_new = self._size(residual_new) / scale
            better = (error_new < 0.5 * error).unsqueeze(-1)
            if not better.any():
                break
            z, residual = torch.where(better, z_new, z), torch.where(better, residual_new, residual)
            error = torch.where(better.squeeze(-1), error_new, error)
        return z, error

    def range_part(self, z: Tensor) -> Tensor:
        """The projection of z onto the range of M, along its null space; z itself where M is regular."""
        return self.solve(self.apply(z))[0]

    def minimum_norm_solve(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The minimum-norm least-squares solution of M z = r, and the relative residual of its consistent part."""
        z, error = self.solve(self.range_part(self._drop(r)))
        return self.range_part(z), error

    def singular(self) -> Tensor:
        """Whether M has a null space, (*batch,): a fixed generic vector loses a part under `range_part`."""
        size = self.A.shape[-1] + self.delta.shape[-1]
        generic = torch.arange(1, size + 1, dtype=self.w.dtype, device=self.w.device).sin()
        unit = torch.cat((self.rho, self.delta), -1).rsqrt()
        z = self._drop(generic * unit)
        lost = (z - self.range_part(z)) / unit
        return largest(lost) > 1e-4

    def _drop(self, r: Tensor) -> Tensor:
        x, nu, lam = self.split(r)
        return torch.cat((x, nu, lam.masked_fill(~self.kept, 0.0)), -1)

    def _size(self, r: Tensor) -> Tensor:
        """A norm of a right-hand side in which every row and column has its own unit."""
        return largest(r * torch.cat((self.rho, self.delta), -1).rsqrt())


class FullKKT(KKT):
    """LU of the whole matrix: the reference."""

    def _dense(self) -> Tensor:
        H = torch.diag_embed(self.H) if is_diagonal(self.H, self.w) else self.H
        eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device).expand_as(H)
        J = torch.cat([self.G] + [-eye] * self.bounds.lower + [eye] * self.bounds.upper, -2)
        R = torch.cat((self.A, J * self.kept.unsqueeze(-1)), -2)
        w = torch.cat((torch.zeros_like(self.A[..., 0]), self.w.masked_fill(~self.kept, 1.0)), -1)
        M = torch.cat((torch.cat((H, R.mT), -1), torch.cat((R, -torch.diag_embed(w)), -1)), -2)
        return M + torch.diag_embed(torch.cat((self.rho, -self.delta), -1))

    def _factorise(self) -> Tensor:
        LU, pivots = torch.linalg.lu_factor(self._dense())
        return torch.cat((LU, pivots.unsqueeze(-1).to(LU.dtype)), -1)

    def _backsolve(self, r: Tensor) -> Tensor:
        LU, pivots = self.factor[..., :-1], self.factor[..., -1].to(torch.int32)
        return torch.linalg.lu_solve(LU, pivots, r.unsqueeze(-1)).squeeze(-1)


class PrimalKKT(KKT):
    """Cholesky of K = H + rho + J' diag(1/(delta + w)) J, n x n, then of the Schur complement of A, q x q.

    Both are blocks of one triangular factor F of the quasi-definite system that is left once J is eliminated:

        [ K   A'   ]        [ 1   0 ]          F = [ L   0 ]      K = L L',  L Z = A',
        [ A  -delta]  =  F  [ 0  -1 ]  F',         [ Z'  S ]      S S' = Z'Z + delta.

    A'A is added to K, in natural units, which on A x = b changes nothing and steadies programs whose curvature
    comes from A alone.
    """

    def _factorise(self) -> Tensor:
        weight_A, weight_G, diagonal = _split_weight(self)
        K = (self.G * weight_G.unsqueeze(-1)).mT @ self.G
        if is_diagonal(self.H, self.w):
            diagonal = diagonal + self.H
        else:
            K = K + self.H
        if self.A.shape[-2]:
            K = K + (self.A * (DUAL_REGULARISATION * weight_A).unsqueeze(-1)).mT @ self.A
        K.diagonal(dim1=-2, dim2=-1).add_(diagonal + self.rho).mul_(1 + ROUNDING)
        L = cholesky(K)
        return self._border(L, weight_A.reciprocal()) if self.A.shape[-2] else L

    def _border(self, L: Tensor, delta: Tensor) -> Tensor:
        Z = torch.linalg.solve_triangular(L, self.A.mT, upper=False)
        S = Z.mT @ Z
        S.diagonal(dim1=-2, dim2=-1).add_(delta).mul_(1 + ROUNDING)
        top = torch.nn.functional.pad(L, (0, self.A.shape[-2]))
        return torch.cat((top, torch.cat((Z.mT, cholesky(S)), -1)), -2)

    def _backsolve(self, r: Tensor) -> Tensor:
        r_x, r_A, r_J = self.split(r)
        weight_A, weight_J = self.weight.split([r_A.shape[-1], r_J.shape[-1]], -1)
        pull = weight_J * r_J
        top = r_x + rows_tmv(self.G, self.bounds, pull) + tmv(self.A, DUAL_REGULARISATION * weight_A * r_A)
        F = self.factor
        half = torch.linalg.solve_triangular(F, torch.cat((top, r_A), -1).unsqueeze(-1), upper=False)
        half[..., r_x.shape[-1] :, :].neg_()
        x, nu = (
            torch.linalg.solve_triangular(F.mT, half, upper=True).squeeze(-1).split([r_x.shape[-1], r_A.shape[-1]], -1)
        )
        return torch.cat((x, nu, weight_J * rows_mv(self.G, self.bounds, x) - pull), -1)


class DualKKT(KKT):
    """Cholesky of  R (H + rho + bounds)^-1 R' + delta + w,  R = [A; G]: for diagonal H and few rows."""

    def _factorise(self) -> Tensor:
        _, weight_G, _ = _split_weight(self)
        R, curvature = self._rows(), self._curvature()
        S = (R / curvature.unsqueeze(-2)) @ R.mT
        weight = torch.cat((self.weight[..., : self.A.shape[-2]], weight_G), -1)
        S.diagonal(dim1=-2, dim2=-1).add_(weight.masked_fill(weight == 0, 1.0).reciprocal()).mul_(1 + ROUNDING)
        return cholesky(S)

    def _backsolve(self, r: Tensor) -> Tensor:
        n, q = self.A.shape[-1:], self.A.shape[-2]
        r_x, r_A, r_J = r.split([n[0], q, self.w.shape[-1]], -1)
        r_G, r_lower, r_upper = split_rows(self.G, self.bounds, r_J)
        _, w_lower, w_upper = split_rows(self.G, self.bounds, self.weight[..., q:])
        top = r_x
        if self.bounds.lower:
            top = top - w_lower * r_lower
        if self.bounds.upper:
            top = top + w_upper * r_upper
        R, curvature = self._rows(), self._curvature()
        dual = _cholesky_solve(self.factor, mv(R, top / curvature) - torch.cat((r_A, r_G), -1))
        x = (top - tmv(R, dual)) / curvature
        parts = [x, dual]
        if self.bounds.lower:
            parts.append(w_lower * (-x - r_lower))
        if self.bounds.upper:
            parts.append(w_upper * (x - r_upper))
        return torch.cat(parts, -1)

    def _rows(self) -> Tensor:
        kept = split_rows(self.G, self.bounds, self.kept)[0]
        return torch.cat((self.A, self.G * kept.unsqueeze(-1)), -2)

    def _curvature(self) -> Tensor:
        return self.H + self.rho + _split_weight(self)[2]


class Units(NamedTuple):
    """Natural units of columns (of x), rows (slacks of A and J) and cost: what is called small is so in these."""

    column: Tensor
    row: Tensor
    cost: Tensor

    @property
    def rho(self) -> Tensor:
        return PRIMAL_REGULARISATION * self.cost / self.column.square()

    @property
    def delta(self) -> Tensor:
        return DUAL_REGULARISATION * self.row.square() / self.cost

    def at(self, index: Tensor) -> "Units":
        return Units(*(unit[index] for unit in self))


def measure_units(H: Tensor, program: Program, bounds: Bounds) -> Units:
    """Units from a few sweeps of Ruiz equilibration of [H R'; R 0], R = [A; G].

    They only measure: the program itself is never scaled, since Newton steps do not depend on scaling.
    """
    R = torch.cat((program.A, program.G), -2).abs()
    column, row = torch.ones_like(program.p), torch.ones_like(R[..., 0])
    for _ in range(3):
        scaled = R * column.unsqueeze(-2) * row.unsqueeze(-1)
        size = _column_size(H, column).maximum(_max(scaled, -2))
        column, row = column * _unit(size).rsqrt(), row * _unit(_max(scaled, -1)).rsqrt()
    cost = _unit(_column_size(H, column).amax(-1).maximum(largest(program.p * column))).unsqueeze(-1)
    return Units(column, torch.cat([row.reciprocal()] + [column] * sum(bounds), -1), cost)


def cholesky(K: Tensor) -> Tensor:
    """A Cholesky factor; instances that rounding has made indefinite get a growing relative diagonal."""
    diagonal = K.diagonal(dim1=-2, dim2=-1)
    for shift in (1e-13, 1e-12, 1e-11, 1e-9, 1e-7):
        L, info = torch.linalg.cholesky_ex(K)
        failed = info > 0
        if not failed.any():
            break
        diagonal.mul_(1 + shift * failed.unsqueeze(-1))
    return L


def _split_weight(kkt: KKT) -> tuple[Tensor, Tensor, Tensor]:
    """1/(delta + w) on the rows of A and of G, and what the bounds add to the diagonal."""
    weight_A, rest = kkt.weight.split([kkt.A.shape[-2], kkt.w.shape[-1]], -1)
    weight_G, lower, upper = split_rows(kkt.G, kkt.bounds, rest)
    diagonal = torch.zeros_like(kkt.rho)
    for bound in (lower, upper):
        if bound.shape[-1]:
            diagonal = diagonal + bound
    return weight_A, weight_G, diagonal


def _cholesky_solve(L: Tensor, r: Tensor) -> Tensor:
    return torch.cholesky_solve(r.unsqueeze(-1), L).squeeze(-1)


def _max(M: Tensor, dim: int) -> Tensor:
    return M.amax(dim) if M.shape[dim] else M.sum(dim)


def _column_size(H: Tensor, column: Tensor) -> Tensor:
    """Column maxima of |H| in the units of the columns."""
    if is_diagonal(H, column):
        return H.abs() * column.square()
    return (H.abs() * column.unsqueeze(-1)).amax(-2) * column


def _unit(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, torch.ones_like(size))
