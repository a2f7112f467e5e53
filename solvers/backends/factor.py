"""The KKT operator of an active set, sparse, factorised once for polishing and every adjoint.

    M = [ Q    A'   J_S' ]
        [ A    0    0    ]      S the active rows of J                                                    (2)
        [ J_S  0    0    ]

Factorised is M + diag(rho, -delta), which is quasi-definite: it has an LDL' for every ordering, without pivoting.
`solve` removes the effect of the regularisation by iterative refinement against M. Where M is singular, solve(M z)
projects z onto the range of M; see `icnn.solvers.kkt`, of which this is the sparse counterpart.
"""

import importlib.util
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from .instance import CSR, Instance, Vector, largest, rows_of

REFINEMENTS = 12
ACCURACY = 1e-13
LOST = 1e-4


class Factor(Protocol):
    """A factorised matrix."""

    def solve(self, r: Vector, /) -> Vector: ...


def ldl(upper: CSR) -> Factor:
    """Factorise a quasi-definite matrix, given its upper triangle in CSC: by qdldl where it is installed, else LU.

    LU takes about twice the time.
    """
    if importlib.util.find_spec("qdldl") is not None:
        import qdldl

        try:
            return qdldl.Solver(upper, upper=True)
        except RuntimeError:  # a pivot that rounding has made zero
            pass
    whole: CSR = upper + sparse.triu(upper, 1).T
    return splu(sparse.csc_matrix(whole), permc_spec="MMD_AT_PLUS_A", options=dict(SymmetricMode=True))


@dataclass(frozen=True, eq=False)
class SparseKKT:
    """M with its factor. Vectors are (x, nu, lam on the active rows), one array of length n + q + |S|."""

    program: Instance
    active: Vector
    lower: CSR
    upper: CSR
    diagonal: Vector
    unit: Vector
    factor: Factor

    @classmethod
    def factorise(cls, program: Instance, active: Vector) -> "SparseKKT":
        """Factorise M with the rows of J in the mask `active`, shape (m + 2n,)."""
        n, q = len(program.p), len(program.b)
        regularisation = np.concatenate((program.units.rho, program.units.delta))
        kept = np.concatenate((np.ones(n + q, bool), active))
        regularisation = regularisation[kept]
        lower = lower_triangle(program, active)
        upper, ends = lower.T, lower.indptr[1:] - 1
        shifted = lower.data.copy()
        shifted[ends] += np.where(np.arange(len(ends)) < n, regularisation, -regularisation)
        factor = ldl(sparse.csc_array((shifted, lower.indices, lower.indptr), shape=lower.shape))
        return cls(program, active, lower, upper, lower.data[ends], np.sqrt(regularisation), factor)

    def join(self, x: Vector, nu: Vector, rows: Vector) -> Vector:
        """One vector from (x, nu, rows of J): of the rows only the active ones."""
        return np.concatenate((x, nu, rows[self.active]))

    def split(self, z: Vector) -> tuple[Vector, Vector, Vector]:
        """(x, nu, rows of J), zero on the rows that are not active."""
        n, q = len(self.program.p), len(self.program.b)
        rows = np.zeros(len(self.active))
        rows[self.active] = z[n + q :]
        return z[:n], z[n : n + q], rows

    def apply(self, z: Vector) -> Vector:
        """M z."""
        return self.lower @ z + self.upper @ z - self.diagonal * z

    def solve(self, r: Vector) -> tuple[Vector, float]:
        """M^-1 r refined to rounding, and the relative residual that is left."""
        scale = max(self._size(r), np.finfo(r.dtype).tiny)
        z = self.factor.solve(r)
        residual = r - self.apply(z)
        error = self._size(residual) / scale
        for _ in range(REFINEMENTS):
            if not error > ACCURACY:
                break
            z_new = z + self.factor.solve(residual)
            residual = r - self.apply(z_new)
            error_new = self._size(residual) / scale
            if not error_new < 0.5 * error:
                break
            z, error = z_new, error_new
        return z, error

    def range_part(self, z: Vector) -> Vector:
        """The projection of z onto the range of M, along its null space; z itself where M is regular."""
        return self.solve(self.apply(z))[0]

    def minimum_norm_solve(self, r: Vector) -> tuple[Vector, float]:
        """The minimum-norm least-squares solution of M z = r, and the relative residual of its consistent part."""
        z, error = self.solve(self.range_part(r))
        return self.range_part(z), error

    def singular(self) -> bool:
        """Whether M has a null space: a fixed generic vector loses a part under `range_part`."""
        z = np.sin(np.arange(1, len(self.unit) + 1)) / self.unit
        return largest((z - self.range_part(z)) * self.unit) > LOST

    def _size(self, r: Vector) -> float:
        """A norm of a right-hand side in which every row and column has its own unit."""
        return largest(r / self.unit)


def lower_triangle(program: Instance, active: Vector) -> CSR:
    """The lower triangle of M by rows, with its whole diagonal stored, at the end of each row."""
    n, q = len(program.p), len(program.b)
    Q, A, G = program.Q, program.A, program.G
    Q_rows, G_rows = rows_of(Q), rows_of(G)
    on_G, on_lower, on_upper = program.split(active)
    below, kept = Q_rows >= Q.indices, on_G[G_rows]
    low, up = np.flatnonzero(on_lower), np.flatnonzero(on_upper)
    first = n + q + int(on_G.sum())
    size = first + len(low) + len(up)
    rows = (
        Q_rows[below],
        n + rows_of(A),
        n + q - 1 + np.cumsum(on_G)[G_rows[kept]],
        np.arange(first, size),
        np.arange(size),
    )
    columns = (Q.indices[below], A.indices, G.indices[kept], low, up, np.arange(size))
    values = (Q.data[below], A.data, G.data[kept], -np.ones(len(low)), np.ones(len(up)), np.zeros(size))
    entries = (np.concatenate(rows), np.concatenate(columns).astype(np.int32))
    return sparse.coo_array((np.concatenate(values), entries), shape=(size, size)).tocsr()
