"""A dual active-set method for strictly convex quadratic programs, one instance after the other.

    minimise x'Qx/2 + p'x  subject to  A x = b (nu),  G x <= h (lam >= 0),  lower <= x <= upper

With Q = U'U, t = U x and m_i = U'^-1 r_i for a row r_i this is the search for the point t nearest to -U'^-1 p in a
polyhedron with normals m_i. The working set W starts with the equalities. The multipliers that make its rows tight
solve (m_i'm_j) y = right-hand side over W; rows for which they have the wrong sign leave one by one, at the first
zero on the way there; where none has, the most violated row enters. The Gram matrix of W is kept as L D L', to which
a row is appended, and from which one is taken, in quadratic time.

Rows are numbered: those of A, those of G, then every variable, with both its bounds. A singular Q, dependent rows
and whatever else this does not suit is left for the interior-point loop: `done` says which are solved.

Source: Goldfarb and Idnani (1983), A numerically stable dual method; in the form with L D L' Arnstroem, Bemporad and
Axehill (2022), A dual active-set solver for embedded quadratic programming.
"""

from math import inf, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled, inlined
from .dense import (
    backward,
    diagonal,
    dot,
    factorise,
    forward,
    forward_columns,
    largest,
    row_times,
    subtract_rows,
)
from .instance import Array, instance

PIVOT = 1e-12  # of its diagonal entry: below it Q counts as singular
DEPENDENT = 1e-11  # of its squared length: the least that a row must add to the span of W
VIOLATION = 1e-11  # of the terms of a row: below it the row holds
WEAK = 1e-9  # slack or multiplier, in natural units, that counts as zero
REFINEMENTS = 3
ROUNDING = 1e-14
UPPER, LOWER, EQUAL, OUTSIDE = 1, -1, 0, 2


class Found(NamedTuple):
    """What is written, rows as in `Program`; w: 0 on active rows, inf on others.

    Given: U, the factor of each Q or one for all, and whether Q is regular.
    """

    x: Array
    nu: Array
    lam: Array
    w: Array
    U: Array
    regular: NDArray[np.bool_]
    iterations: NDArray[np.int64]
    done: NDArray[np.bool_]
    degenerate: NDArray[np.bool_]


class Work(NamedTuple):
    """Arrays of one thread. Y: the m_i of W, by rows; MT: all m_i of A and G, by columns; half: L^-1 (-bound)."""

    MT: Array
    length: Array
    value: Array
    Y: Array
    L: Array
    D: Array
    half: Array
    index: NDArray[np.int64]
    side: NDArray[np.int8]
    bound: Array
    y: Array
    target: Array
    lower: Array
    upper: Array
    v: Array
    t: Array
    x: Array
    residual: Array


@compiled
def factorise_range(start, stop, Q, U, regular):
    """U'U = Q for the instances start <= i < stop; U is nan where Q is singular or indefinite."""
    for i in range(start, stop):
        regular[i] = factorise(Q[i], U[i], Q.shape[1], PIVOT)
        if not regular[i]:
            U[i] = nan


@compiled
def solve_range(start, stop, program, bounds, warm, found):
    """Solve the instances start <= i < stop.

    warm: (batch, m + n), the side (see UPPER) of rows to start with, 0 for none; or without columns.
    """
    n, q, m = program.p.shape[1], program.b.shape[1], program.G.shape[1]
    work = workspace(n, q + m, n * (bounds.lower or bounds.upper))
    own = len(found.U) > 1 or len(program.A) > 1 or len(program.G) > 1
    for i in range(start, stop):
        one, U = instance(program, i), found.U[i * (len(found.U) > 1)]
        found.done[i] = False
        if not found.regular[i * (len(found.U) > 1)]:
            continue
        if own or i == start:
            project(one, U, work)
        k = -1
        if limits(one, bounds, work):
            k, found.iterations[i] = search(one, U, work, warm[i])
        if k >= 0:
            refine(one, U, work, k)
            found.degenerate[i] = record(one, bounds, work, k, found.x[i], found.nu[i], found.lam[i], found.w[i])
            found.done[i] = True


@compiled
def workspace(n, rows, bounds):
    """Room for one instance."""
    most = min(n, rows + bounds) + 1
    return Work(
        np.empty((n, rows)),
        np.empty(rows),
        np.empty(rows),
        np.empty((most, n)),
        np.empty((most, most)),
        np.empty(most),
        np.empty(most),
        np.empty(most, np.int64),
        np.empty(rows + bounds, np.int8),
        np.empty(most),
        np.empty(most),
        np.empty(most),
        np.empty(bounds),
        np.empty(bounds),
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty(n),
    )


@inlined
def limits(one, bounds, work):
    """lower and upper of the variables, infinite where there is none; False if they cross."""
    n, m = len(one.p), len(one.G)
    crossed = False
    for j in range(len(work.lower)):
        work.lower[j] = -one.d[m + j] if bounds.lower else -inf
        work.upper[j] = one.d[m + n * bounds.lower + j] if bounds.upper else inf
        crossed |= work.lower[j] > work.upper[j]
    return not crossed


@inlined
def project(one, U, work):
    """The m_i of A and G, and their lengths."""
    n, q, m = len(one.p), len(one.b), len(one.G)
    MT, length = work.MT, work.length
    for i in range(n):
        for j in range(q):
            MT[i, j] = one.A[j, i]
        for j in range(m):
            MT[i, q + j] = one.G[j, i]
    forward_columns(U, MT, n, q + m)
    for j in range(q + m):
        length[j] = 0.0
    for i in range(n):
        for j in range(q + m):
            length[j] += MT[i, j] * MT[i, j]
    for j in range(q + m):
        length[j] = sqrt(length[j])


@inlined
def search(one, U, work, warm):
    """(size of the final working set, or -1 without success; iterations)."""
    n, limit = len(one.p), 10 * (len(one.p) + len(work.side)) + 20
    work.v[:n] = one.p
    forward(U, work.v, n, 0)
    k = begin(one, U, work, warm)
    for step in range(limit if k >= 0 else 0):
        for i in range(k):
            work.target[i] = work.half[i] / work.D[i]
        back_through(work.L, work.target, k)
        leaving = blocking(work, k)
        if leaving >= 0:
            k = remove(work, k, leaving)
            continue
        work.y[:k] = work.target[:k]
        row, side = most_violated(one, U, work, k)
        if row < 0:
            return k, step + 1
        force = 0.0
        while not append(one, U, work, k, row, side):
            leaving, reach = exchange(work, k, side)
            if leaving < 0:
                return -1, step + 1
            force += reach
            k = remove(work, k, leaving)
        work.y[k] = side * force
        k += 1
    return -1, limit


@inlined
def begin(one, U, work, warm):
    """The equalities enter, then the rows of a warm start that do not depend on them; the size of W, or -1."""
    q, m = len(one.b), len(one.G)
    work.side[:] = OUTSIDE
    k = 0
    for equal in (True, False):
        for row in range(len(work.side) if equal or len(warm) > 0 else 0):
            j = row - q - m
            if row < q or (j >= 0 and work.lower[j] == work.upper[j]):
                wanted, side = equal, EQUAL
            else:
                side = warm[row - q] if len(warm) > 0 else EQUAL
                wanted = side != EQUAL and not equal and abs(right_hand_side(one, work, row, side)) < inf
            if wanted:
                if append(one, U, work, k, row, side):
                    k += 1
                elif equal:
                    return -1
    return k


@inlined
def append(one, U, work, k, row, side):
    """Row number `row` enters W at position k with multiplier zero; False if it depends on W (target: how)."""
    n, q, m = len(one.p), len(one.b), len(one.G)
    new, L, D = work.Y[k], work.L, work.D
    if row < q + m:
        for i in range(n):
            new[i] = work.MT[i, row]
    else:
        new[:] = 0.0
        new[row - q - m] = 1.0
        forward(U, new, n, row - q - m)
    length = dot(new, new, n)
    target = work.target
    left = length
    for i in range(k):
        target[i] = dot(work.Y[i], new, n)
    for i in range(k):
        target[i] -= dot(L[i], target, i)
    for i in range(k):
        L[k, i] = target[i] / D[i]
        left -= L[k, i] * target[i]
    if k == n or not left > DEPENDENT * length:
        for i in range(k):
            target[i] = L[k, i]
        back_through(L, target, k)
        return False
    L[k, k] = 1.0
    D[k] = left
    work.index[k], work.side[row] = row, side
    work.bound[k] = right_hand_side(one, work, row, side) + dot(new, work.v, n)
    work.half[k] = -work.bound[k] - dot(L[k], work.half, k)
    work.y[k] = 0.0
    return True


@inlined
def right_hand_side(one, work, row, side):
    """Where a row is tight."""
    q, m = len(one.b), len(one.G)
    if row < q:
        return one.b[row]
    if row < q + m:
        return one.d[row - q]
    return work.upper[row - q - m] if side == UPPER else work.lower[row - q - m]


@inlined
def back_through(L, z, k):
    """z <- L'^-1 z."""
    for i in range(k - 1, 0, -1):
        for j in range(i):
            z[j] -= L[i, j] * z[i]


@inlined
def gram_solve(L, D, z, k):
    """z <- (L D L')^-1 z."""
    for i in range(1, k):
        z[i] -= dot(L[i], z, i)
    for i in range(k):
        z[i] /= D[i]
    back_through(L, z, k)


@inlined
def blocking(work, k):
    """Move y towards target until a multiplier would change sign; its position, or -1 if none does."""
    y, target = work.y, work.target
    scale = 1e-13 * largest(target, k)
    reach, leaving = 1.0, -1
    for i in range(k):
        side = work.side[work.index[i]]
        if side * target[i] < -scale:
            share = y[i] / (y[i] - target[i])
            if share < reach:
                reach, leaving = share, i
    if leaving >= 0:
        for i in range(k):
            y[i] += reach * (target[i] - y[i])
    return leaving


@inlined
def exchange(work, k, side):
    """A row that depends on W enters: m = sum target_i m_i. The position of the row that must leave, or -1; and s.

    Along y - s side target, with s side for the new row, t stays where it is and the dual objective rises.
    """
    reach, leaving = inf, -1
    for i in range(k):
        s = work.side[work.index[i]]
        fall = s * side * work.target[i]
        if fall > 1e-12:
            share = s * work.y[i] / fall
            if share < reach:
                reach, leaving = share, i
    if leaving >= 0:
        for i in range(k):
            work.y[i] -= side * reach * work.target[i]
    return leaving, reach


@inlined
def remove(work, k, position):
    """The row at this position leaves W: L D L' of the rest by a rank-one update. The new size of W."""
    L, D, Y = work.L, work.D, work.Y
    n = Y.shape[1]
    work.side[work.index[position]] = OUTSIDE
    column = work.target
    for i in range(position + 1, k):
        column[i - 1] = L[i, position]
    alpha = D[position]
    for i in range(position, k - 1):
        for j in range(position):
            L[i, j] = L[i + 1, j]
        for j in range(position, i):
            L[i, j] = L[i + 1, j + 1]
        L[i, i] = 1.0
        D[i] = D[i + 1]
        for j in range(n):
            Y[i, j] = Y[i + 1, j]
        work.index[i], work.bound[i], work.y[i] = work.index[i + 1], work.bound[i + 1], work.y[i + 1]
    for j in range(position, k - 1):
        z = column[j]
        old = D[j]
        D[j] = old + alpha * z * z
        beta = alpha * z / D[j]
        alpha *= old / D[j]
        for i in range(j + 1, k - 1):
            column[i] -= z * L[i, j]
            L[i, j] += beta * column[i]
    for i in range(position, k - 1):
        work.half[i] = -work.bound[i] - dot(L[i], work.half, i)
    return k - 1


@inlined
def most_violated(one, U, work, k):
    """(row, side) of the largest violation at t = -v - sum y_i m_i, or (-1, 0)."""
    n, q, m = len(one.p), len(one.b), len(one.G)
    t, value = work.t, work.value
    for i in range(n):
        t[i] = -work.v[i]
    subtract_rows(t, work.Y, work.y, k, 0, n)
    value[:] = 0.0
    subtract_rows(value, work.MT, t, n, 0, q + m)
    reach = sqrt(dot(t, t, n))
    worst, row, side = 0.0, -1, 0
    for j in range(q, q + m):
        violation = -value[j] - one.d[j - q]
        unit = work.length[j]
        larger = violation > worst * unit and violation > VIOLATION * (unit * reach + abs(one.d[j - q]))
        if larger and work.side[j] == OUTSIDE:
            worst, row, side = violation / unit, j, UPPER
    if len(work.lower) > 0:
        x = work.x
        for i in range(n):
            x[i] = t[i]
        backward(U, x, n)
        for j in range(n):
            over, under = x[j] - work.upper[j], work.lower[j] - x[j]
            violation = max(over, under)
            unit = 1.0 / sqrt(diagonal(one.Q, j))
            bound = work.upper[j] if over > under else work.lower[j]
            larger = violation > worst * unit and violation > VIOLATION * (unit * reach + abs(bound))
            if larger and work.side[q + m + j] == OUTSIDE:
                worst, row, side = violation / unit, q + m + j, (UPPER if over > under else LOWER)
    return row, side


@inlined
def refine(one, U, work, k):
    """x from t, then Newton steps on the optimality conditions of W until rounding."""
    n, q, m = len(one.p), len(one.b), len(one.G)
    x, r, target = work.x, work.residual, work.target
    for i in range(n):
        x[i] = work.t[i]
    backward(U, x, n)
    before = inf
    for _ in range(REFINEMENTS):
        size = largest(one.p, n)
        for i in range(n):
            r[i] = -one.p[i] - row_times(one.Q, i, x, n)
        for i in range(k):
            row, y = work.index[i], work.y[i]
            if row < q:
                for j in range(n):
                    r[j] -= y * one.A[row, j]
                gap = dot(one.A[row], x, n)
            elif row < q + m:
                for j in range(n):
                    r[j] -= y * one.G[row - q, j]
                gap = dot(one.G[row - q], x, n)
            else:
                r[row - q - m] -= y
                gap = x[row - q - m]
            target[i] = gap - right_hand_side(one, work, row, work.side[row])
        error = largest(r, n)
        if error >= 0.5 * before or error <= ROUNDING * size:
            break
        before = error
        forward(U, r, n, 0)
        for i in range(k):
            target[i] += dot(work.Y[i], r, n)
        gram_solve(work.L, work.D, target, k)
        subtract_rows(r, work.Y, target, k, 0, n)
        backward(U, r, n)
        for i in range(n):
            x[i] += r[i]
        for i in range(k):
            work.y[i] += target[i]


@inlined
def record(one, bounds, work, k, x, nu, lam, w):
    """Write the solution; whether a row is weakly active: slack and multiplier both vanish. It is then held.

    A slack is measured in units of |m| and against |t|, a multiplier in units of 1/|m| and against |t| and |v|.
    """
    n, q, m = len(one.p), len(one.b), len(one.G)
    of_t, of_v = sqrt(dot(work.t, work.t, n)), sqrt(dot(work.v, work.v, n))
    little_slack, little_force = WEAK * (of_t + WEAK * of_v), WEAK * max(of_t, of_v)
    x[:] = work.x
    lam[:] = 0.0
    w[:] = inf
    degenerate = False
    for i in range(k):
        row, y = work.index[i], work.y[i]
        side = work.side[row]
        if row < q:
            nu[row] = y
            continue
        place = row - q
        if row >= q + m:
            upward = side == UPPER or (side == EQUAL and y > 0)
            place += n * bounds.lower if upward else 0
            y = y if upward else -y
        lam[place], w[place] = y, 0.0
        degenerate |= side != EQUAL and y * sqrt(dot(work.Y[i], work.Y[i], n)) <= little_force
    for j in range(m):
        if w[j] != 0 and one.d[j] + work.value[q + j] <= little_slack * work.length[q + j]:
            w[j] = 0.0
            degenerate = True
    for j in range(len(work.lower)):
        unit = little_slack / sqrt(diagonal(one.Q, j))
        if work.lower[j] == work.upper[j]:
            continue
        if bounds.lower and w[m + j] != 0 and x[j] - work.lower[j] <= unit:
            w[m + j] = 0.0
            degenerate = True
        place = m + j + n * bounds.lower
        if bounds.upper and w[place] != 0 and work.upper[j] - x[j] <= unit:
            w[place] = 0.0
            degenerate = True
    return degenerate
