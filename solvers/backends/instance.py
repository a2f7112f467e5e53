"""One sparse program as numpy and scipy see it, and the certificate of a point of it.

    minimise x'Qx/2 + p'x   subject to   A x = b (nu),   J x <= d (lam >= 0),   J = [G; -I; I],  d = [h; -lower; upper]

An absent row has d = inf. Vectors over the rows of J have m + 2n entries whatever bounds were given.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Vector = np.ndarray
CSR = Any  # sparse.csr_array: the annotations of scipy do not tell its formats apart
SWEEPS = 3
PRIMAL_REGULARISATION = 1e-10
DUAL_REGULARISATION = 1e-8
FLOOR = 1e-5


@dataclass(frozen=True, eq=False)
class Instance:
    """The data of one program in float64: Q (n, n) symmetric, A (q, n), G (m, n) in CSR; lower, upper may be inf."""

    Q: CSR
    p: Vector
    A: CSR
    b: Vector
    G: CSR
    h: Vector
    lower: Vector
    upper: Vector

    @cached_property
    def d(self) -> Vector:
        return np.concatenate((self.h, -self.lower, self.upper))

    @cached_property
    def present(self) -> Vector:
        """The rows of J that constrain something."""
        return np.isfinite(self.d)

    @cached_property
    def held(self) -> Vector:
        """The bounds of fixed variables, lower = upper: equalities whose multiplier may have any sign."""
        pair = self.lower == self.upper
        return np.concatenate((np.zeros(len(self.h), bool), pair, pair))

    @property
    def finite(self) -> bool:
        """No nan anywhere, inf only where it means that a row is absent."""
        whole = (self.Q.data, self.p, self.A.data, self.b, self.G.data)
        rows_make_sense = not (np.isnan(self.d) | np.isneginf(self.d)).any()
        return rows_make_sense and all(np.isfinite(part).all() for part in whole)

    @cached_property
    def AT(self) -> CSR:
        return self.A.T

    @cached_property
    def GT(self) -> CSR:
        return self.G.T

    def push(self, x: Vector) -> Vector:
        """J x."""
        return np.concatenate((self.G @ x, -x, x))

    def pull(self, lam: Vector) -> Vector:
        """J'lam."""
        rows, lower, upper = self.split(lam)
        return self.GT @ rows - lower + upper

    def split(self, rows: Vector) -> tuple[Vector, Vector, Vector]:
        """The parts of a vector over the rows of J that belong to G, lower, upper."""
        m, n = self.G.shape
        return rows[:m], rows[m : m + n], rows[m + n :]

    @cached_property
    def row_sizes(self) -> tuple[Vector, Vector]:
        """The largest entry of each row of A and of J, 1 for a zero row."""
        ones = np.ones(2 * len(self.p))
        return unit(row_max(self.A)), np.concatenate((unit(row_max(self.G)), ones))

    @cached_property
    def units(self) -> "Units":
        return measure_units(self)


@dataclass(frozen=True, eq=False)
class Units:
    """Natural units of columns, of rows (of A, then of J) and of the cost: what is called small is so in these."""

    column: Vector
    row: Vector
    cost: float

    @property
    def rho(self) -> Vector:
        return PRIMAL_REGULARISATION * self.cost / np.square(self.column)

    @property
    def delta(self) -> Vector:
        return DUAL_REGULARISATION * np.square(self.row) / self.cost


def measure_units(program: Instance) -> Units:
    """Units from a few sweeps of Ruiz equilibration of [Q R'; R 0], R = [A; G]."""
    Q, A, G = program.Q, program.A, program.G
    Q_rows, rows = rows_of(Q), np.concatenate((rows_of(A), len(program.b) + rows_of(G)))
    columns = np.concatenate((A.indices, G.indices))
    Q_size, R_size = np.abs(Q.data), np.abs(np.concatenate((A.data, G.data)))
    column, row = np.ones(len(program.p)), np.ones(len(program.b) + len(program.h))

    def curvature() -> Vector:
        return largest_by(Q_rows, Q_size * column[Q.indices], len(column)) * column

    for _ in range(SWEEPS):
        size = R_size * column[columns] * row[rows]
        across = np.maximum(curvature(), largest_by(columns, size, len(column)))
        column, row = column / np.sqrt(unit(across)), row / np.sqrt(unit(largest_by(rows, size, len(row))))
    cost = max(np.max(curvature()), np.max(np.abs(program.p) * column))
    return Units(column, np.concatenate((1 / row, column, column)), float(cost) or 1.0)


def certificate(program: Instance, x: Vector, nu: Vector, lam: Vector) -> Vector:
    """The five residuals of `icnn.solvers.certificate`, same definitions, from sparse data: shape (5,)."""
    gradient, pull_A, pull_J = program.Q @ x, program.AT @ nu, program.pull(lam)
    slack = program.d - program.push(x)
    linear = largest(program.p)
    cost = max(linear, largest(gradient), largest(pull_A), largest(pull_J))
    cost = cost if linear > 0 else max(cost, 1.0)
    size = 1 + largest(x)
    row_A, row_J = program.row_sizes
    products = np.multiply(lam, slack, out=np.zeros_like(lam), where=lam != 0)
    value = max(0.5 * abs(x @ gradient), abs(x @ program.p), cost)
    held, pushed = program.A @ x, program.push(x)
    own = np.abs((gradient, program.p, pull_A, pull_J)).max(0)
    own_A = np.abs((held, program.b)).max(0)
    own_J = np.abs((pushed, np.where(np.isinf(program.d), 0.0, program.d))).max(0)
    violation = max(
        largest((held - program.b) / np.maximum(own_A, FLOOR * row_A * size)),
        largest(np.minimum(slack, 0) / np.maximum(own_J, FLOOR * row_J * size)),
    )
    return np.array(
        (
            largest((gradient + program.p + pull_A + pull_J) / np.maximum(own, FLOOR * cost)),
            violation,
            largest(np.minimum(lam, 0) * row_J) / cost,
            largest(products) / (cost * size),
            abs(products.sum()) / value,
        )
    )


def rows_of(M: CSR) -> Vector:
    """The row of each stored entry."""
    return np.repeat(np.arange(M.shape[0]), np.diff(M.indptr))


def row_max(M: CSR) -> Vector:
    """The largest entry of each row."""
    return largest_by(rows_of(M), np.abs(M.data), M.shape[0])


def largest_by(index: Vector, size: Vector, count: int) -> Vector:
    """The largest non-negative size under each index, 0 where there is none."""
    out = np.zeros(count)
    np.maximum.at(out, index, size)
    return out


def largest(v: Vector) -> float:
    """max |v_i|, 0 when there is none; keeps nan."""
    return float(np.abs(v).max()) if v.size else 0.0


def unit(size: Vector) -> Vector:
    """A size that can be divided by: 1 for 0."""
    return np.where(size > 0, size, 1.0)
