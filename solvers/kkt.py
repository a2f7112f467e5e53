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
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .linalg import largest, mv, outer, stack, tmv
from .program import Bounds, Program, is_diagonal, rows_mv, rows_tmv, split_rows, symmetric_mv

PRIMAL_REGULARISATION = 1e-10
DUAL_REGULARISATION = 1e-8
ROUNDING = 1e-14
REFINEMENTS = 12
SWEEPS = 3
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

    @cached_property
    def kept(self) -> Tensor:
        return torch.isfinite(self.w)

    @cached_property
    def weight_A(self) -> Tensor:
        """1 / delta over the rows of A."""
        return self.delta[..., : self.A.shape[-2]].reciprocal()

    @cached_property
    def weight_J(self) -> Tensor:
        """1 / (delta + w) over the rows of J: zero on dropped rows."""
        return (self.delta[..., self.A.shape[-2] :] + self.w).reciprocal()

    def diagonal(self) -> Tensor:
        """rho and what the bounds (and a diagonal H) add to the diagonal of H."""
        _, lower, upper = split_rows(self.G, self.bounds, self.weight_J)
        out = self.rho + lower if self.bounds.lower else self.rho
        out = out + upper if self.bounds.upper else out
        return out + self.H if is_diagonal(self.H, self.w) else out

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
        """M^-1 r to the accuracy of the regularisation, r zero on dropped rows: enough for a Newton step."""
        return self._backsolve(r)

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
        weight_G = split_rows(self.G, self.bounds, self.weight_J)[0]
        K = (self.G * weight_G.unsqueeze(-1)).mT @ self.G
        if not is_diagonal(self.H, self.w):
            K += self.H
        if self.A.shape[-2]:
            K += (self.A * (DUAL_REGULARISATION * self.weight_A).unsqueeze(-1)).mT @ self.A
        K.diagonal(dim1=-2, dim2=-1).add_(self.diagonal()).mul_(1 + ROUNDING)
        L = cholesky(K)
        return self._border(L) if self.A.shape[-2] else L

    def _border(self, L: Tensor) -> Tensor:
        n, q = self.A.shape[-1], self.A.shape[-2]
        F = L.new_zeros(*L.shape[:-2], n + q, n + q)
        F[..., :n, :n] = L
        Z = F[..., n:, :n] = torch.linalg.solve_triangular(L, self.A.mT, upper=False).mT
        S = Z @ Z.mT
        S.diagonal(dim1=-2, dim2=-1).add_(self.delta[..., :q]).mul_(1 + ROUNDING)
        F[..., n:, n:] = cholesky(S)
        return F

    def _backsolve(self, r: Tensor) -> Tensor:
        r_x, r_A, r_J = self.split(r)
        pull = self.weight_J * r_J
        top = r_x + rows_tmv(self.G, self.bounds, pull)
        if self.A.shape[-2]:
            top = top + tmv(self.A, DUAL_REGULARISATION * self.weight_A * r_A)
        half = torch.linalg.solve_triangular(self.factor, stack(top, r_A).unsqueeze(-1), upper=False)
        half[..., r_x.shape[-1] :, :].neg_()
        z = torch.linalg.solve_triangular(self.factor.mT, half, upper=True).squeeze(-1)
        x = z[..., : r_x.shape[-1]]
        return torch.cat((z, self.weight_J * rows_mv(self.G, self.bounds, x) - pull), -1)


class DualKKT(KKT):
    """Cholesky of  R (H + rho + bounds)^-1 R' + delta + w,  R = [A; G]: for diagonal H and few rows."""

    def _factorise(self) -> Tensor:
        R, kept, weight_G = self._rows(), self._kept_rows(), split_rows(self.G, self.bounds, self.weight_J)[0]
        S = (R / self.diagonal().unsqueeze(-2)) @ R.mT * outer(kept, kept)
        weight = stack(self.weight_A, weight_G)
        S.diagonal(dim1=-2, dim2=-1).add_(weight.masked_fill(weight == 0, 1.0).reciprocal()).mul_(1 + ROUNDING)
        return cholesky(S)

    def _backsolve(self, r: Tensor) -> Tensor:
        r_x, r_A, r_J = self.split(r)
        r_G, r_lower, r_upper = split_rows(self.G, self.bounds, r_J)
        _, w_lower, w_upper = split_rows(self.G, self.bounds, self.weight_J)
        top = r_x - w_lower * r_lower if self.bounds.lower else r_x
        top = top + w_upper * r_upper if self.bounds.upper else top
        R, kept, curvature = self._rows(), self._kept_rows(), self.diagonal()
        pushed = (mv(R, top / curvature) - stack(r_A, r_G)) * kept
        dual = torch.cholesky_solve(pushed.unsqueeze(-1), self.factor).squeeze(-1) * kept
        x = (top - tmv(R, dual)) / curvature
        parts = [x, dual]
        if self.bounds.lower:
            parts.append(w_lower * (-x - r_lower))
        if self.bounds.upper:
            parts.append(w_upper * (x - r_upper))
        return torch.cat(parts, -1)

    def _rows(self) -> Tensor:
        return stack(self.A, self.G, dim=-2)

    def _kept_rows(self) -> Tensor:
        kept = split_rows(self.G, self.bounds, self.kept)[0].to(self.w.dtype)
        return stack(torch.ones_like(self.weight_A), kept)


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
    scaled = stack(program.A, program.G, dim=-2).abs()
    column, row = torch.ones_like(program.p), torch.ones_like(scaled[..., 0])
    for _ in range(SWEEPS):
        by_column = _unit(_column_size(H, column).maximum(_max(scaled, -2))).rsqrt()
        by_row = _unit(_max(scaled, -1)).rsqrt()
        scaled = scaled.mul_(by_column.unsqueeze(-2)).mul_(by_row.unsqueeze(-1))
        column, row = column * by_column, row * by_row
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


def _max(M: Tensor, dim: int) -> Tensor:
    return M.amax(dim) if M.shape[dim] else M.sum(dim)


def _column_size(H: Tensor, column: Tensor) -> Tensor:
    """Column maxima of |H| in the units of the columns."""
    if is_diagonal(H, column):
        return H.abs() * column.square()
    return (H.abs() * column.unsqueeze(-1)).amax(-2) * column


def _unit(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, torch.ones_like(size))
