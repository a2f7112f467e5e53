"""One KKT system per instance, the active rows as equalities: what every backward pass asks for.

    [ H  C' ] [ c_x ]   [ r_x ]
    [ C  0  ] [ c_C ] = [ r_C ]        C: the rows of A, and those of J with w = 0

With H = U'U and Y = U'^-1 C': c_C solves (Y'Y) c_C = Y'U'^-1 r_x - r_C, then c_x = U^-1 (U'^-1 r_x - Y c_C).
"""

from math import inf

import numpy as np

from .active_set import DEPENDENT
from .compiled import compiled
from .dense import backward, dot, factorise, forward, forward_columns, largest, row_times, subtract_rows
from .instance import instance

REFINEMENTS = 3
ROUNDING = 1e-13


@compiled
def solve_range(start, stop, program, bounds, U, w, c, error):
    """Solve the instances start <= i < stop; program holds (H, -r_x, A, r_A, G, r_J), as `AdjointRule` does.

    Written: c (batch, n + q + rows), zero on dropped rows; error: the relative residual, inf where C is dependent
    or U is no factor.
    """
    n, rows = program.p.shape[1], program.b.shape[1] + program.d.shape[1]
    most = min(n, rows)
    index, size = np.empty(most, np.int64), np.empty(most)
    Y, gram, V = np.empty((n, most)), np.empty((most, most)), np.empty((most, most))
    x, r, multipliers, gap = np.empty(n), np.empty(n), np.empty(most), np.empty(most)
    for i in range(start, stop):
        one, Ui = instance(program, i), U[i * (len(U) > 1)]
        c[i] = 0.0
        error[i] = inf
        k = active(one, bounds, w[i], index, size, Y)
        if k < 0 or not factorise_gram(Ui, Y, gram, V, n, k):
            continue
        x[:] = 0.0
        multipliers[:] = 0.0
        for _ in range(REFINEMENTS):
            left = residual(one, bounds, index, size, k, x, multipliers, r, gap)
            if not left < 0.5 * error[i]:
                break
            error[i] = left
            c[i, :n] = x
            for j in range(k):
                c[i, n + index[j]] = multipliers[j]
            if left <= ROUNDING:
                break
            forward(Ui, r, n, 0)
            for j in range(k):
                gap[j] = -gap[j]
            for l in range(n):
                for j in range(k):
                    gap[j] += Y[l, j] * r[l]
            forward(V, gap, k, 0)
            backward(V, gap, k)
            for l in range(n):
                r[l] -= dot(Y[l], gap, k)
            backward(Ui, r, n)
            for l in range(n):
                x[l] += r[l]
            for j in range(k):
                multipliers[j] += gap[j]


@compiled
def active(one, bounds, w, index, size, Y):
    """The number of rows of C, -1 if there are more than fit; their numbers, sizes and, as columns of Y, themselves."""
    n, q, m = len(one.p), len(one.b), len(one.G)
    k = 0
    for row in range(q + len(w)):
        if row >= q and w[row - q] != 0:
            continue
        if k == len(index):
            return -1
        index[k] = row
        size[k] = 1.0
        if row < q + m:
            source = one.A[row] if row < q else one.G[row - q]
            for l in range(n):
                Y[l, k] = source[l]
            size[k] = largest(source, n)
        else:
            Y[:, k] = 0.0
            Y[(row - q - m) % n, k] = bound_sign(bounds, row - q - m, n)
        k += 1
    return k


@compiled
def bound_sign(bounds, row, n):
    """-1 for a lower bound, 1 for an upper one."""
    return -1.0 if bounds.lower and row < n else 1.0


@compiled
def factorise_gram(U, Y, gram, V, n, k):
    """Y <- U'^-1 Y, V'V = Y'Y."""
    forward_columns(U, Y, n, k)
    for j in range(k):
        row = gram[j]
        row[:] = 0.0
        subtract_rows(row, Y, Y[:, j], n, j, k)
        for l in range(j, k):
            row[l] = -row[l]
    return factorise(gram, V, k, DEPENDENT)


@compiled
def residual(one, bounds, index, size, k, x, multipliers, r, gap):
    """What is left of both equations, in r and gap, and the larger of them relative to its terms."""
    n, q, m = len(one.p), len(one.b), len(one.G)
    scale = largest(one.p, n)
    for l in range(n):
        curved = row_times(one.Q, l, x, n)
        scale = max(scale, abs(curved))
        r[l] = -one.p[l] - curved
    reach, worst = largest(x, n), 0.0
    for j in range(k):
        row = index[j]
        wanted = one.b[row] if row < q else one.d[row - q]
        if row < q + m:
            source = one.A[row] if row < q else one.G[row - q]
            for l in range(n):
                r[l] -= multipliers[j] * source[l]
            gap[j] = wanted - dot(source, x, n)
        else:
            sign, l = bound_sign(bounds, row - q - m, n), (row - q - m) % n
            r[l] -= multipliers[j] * sign
            gap[j] = wanted - sign * x[l]
        if gap[j] != 0:
            worst = max(worst, abs(gap[j]) / (abs(wanted) + size[j] * reach))
    left = largest(r, n)
    return max(worst, left / scale if left > 0 else 0.0)
