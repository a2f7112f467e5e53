"""`closed_form` compiled: separable quadratic programs on a box with at most one equality, and their adjoint."""

from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled, inlined
from .instance import Array, instance

WEAK = 1e-9
MAX_ITER = 100


class Found(NamedTuple):
    """What is written, as in `closed_form.solve_separable`."""

    x: Array
    nu: Array
    lam: Array
    w: Array
    iterations: NDArray[np.int64]
    done: NDArray[np.bool_]
    degenerate: NDArray[np.bool_]


@compiled
def solve_range(start, stop, program, bounds, found):
    """Solve the instances start <= i < stop."""
    n, q = program.p.shape[1], program.b.shape[1]
    lower, upper, pull = np.full(n, -inf), np.full(n, inf), np.zeros(n)
    for i in range(start, stop):
        one = instance(program, i)
        sound = True
        for j in range(n):
            lower[j] = -one.d[j] if bounds.lower else -inf
            upper[j] = one.d[n * bounds.lower + j] if bounds.upper else inf
            sound &= one.Q[j] > 0 and lower[j] <= upper[j]
        found.done[i] = sound
        if not sound:
            continue
        nu, found.iterations[i] = 0.0, 1
        if q > 0:
            nu, found.iterations[i] = multiplier(one, lower, upper)
            found.nu[i, 0] = nu
            for j in range(n):
                pull[j] = nu * one.A[0, j]
        found.degenerate[i] = record(one, bounds, lower, upper, pull, found.x[i], found.lam[i], found.w[i])


@inlined
def multiplier(one, lower, upper):
    """(nu, iterations) with a'x(nu) = b: Newton's method inside a bracket."""
    Q, p, A, b = one.Q, one.p, one.A[0], one.b[0]
    low, high, weight, value = inf, -inf, 0.0, 0.0
    for j in range(len(p)):
        weight += A[j] * A[j] / Q[j]
        value += A[j] * p[j] / Q[j]
        for bound in (lower[j], upper[j]):
            if A[j] != 0 and abs(bound) < inf:
                turn = -(p[j] + Q[j] * bound) / A[j]
                low, high = min(low, turn), max(high, turn)
    nu, below, above = -(b + value) / weight, -inf, inf
    for iteration in range(MAX_ITER):
        excess, slope = -b, 0.0
        for j in range(len(p)):
            free = -(p[j] + nu * A[j]) / Q[j]
            excess += A[j] * min(max(free, lower[j]), upper[j])
            slope += A[j] * A[j] / Q[j] if lower[j] < free < upper[j] else 0.0
        if excess > 0:
            below = nu
        elif excess < 0:
            above = nu
        else:
            return nu, iteration
        new = nu + excess / slope
        if not below <= new <= above or not abs(new) < inf:
            new = 0.5 * (max(below, low) + min(above, high))
        if abs(new - nu) <= 1e-15 * abs(nu):
            return nu, iteration
        nu = new
    return nu, MAX_ITER


@inlined
def record(one, bounds, lower, upper, pull, x, lam, w):
    """Write the solution; whether a bound is weakly active: it is then held."""
    n, Q, p = len(one.p), one.Q, one.p
    reach, most, cost = 0.0, 0.0, 0.0
    for j in range(n):
        x[j] = min(max(-(p[j] + pull[j]) / Q[j], lower[j]), upper[j])
        root = sqrt(Q[j])
        reach = max(reach, abs(x[j]) * root)
        cost = max(cost, abs(p[j]) / root)
        most = max(most, abs(Q[j] * x[j] + p[j] + pull[j]) / root)
    little_slack, little_force = WEAK * (reach + WEAK * cost), WEAK * (cost + most)
    degenerate = False
    for j in range(n):
        root, slope = sqrt(Q[j]), Q[j] * x[j] + p[j] + pull[j]
        at_lower, at_upper = (x[j] - lower[j]) * root <= little_slack, (upper[j] - x[j]) * root <= little_slack
        if lower[j] == upper[j]:
            at_lower, at_upper = slope >= 0, slope < 0
        elif (at_lower and max(slope, 0.0) <= little_force * root) or (
            at_upper and max(-slope, 0.0) <= little_force * root
        ):
            degenerate = True
        if bounds.lower:
            lam[j] = max(slope, 0.0) if x[j] <= lower[j] else 0.0
            w[j] = 0.0 if at_lower else inf
        if bounds.upper:
            place = n * bounds.lower + j
            lam[place] = max(-slope, 0.0) if x[j] >= upper[j] else 0.0
            w[place] = 0.0 if at_upper else inf
    return degenerate


@compiled
def solve_kkt_range(start, stop, program, bounds, w, c, error):
    """The KKT system of the instances start <= i < stop with the rows w = 0 as equalities, as in `adjoint`."""
    n, q = program.p.shape[1], program.b.shape[1]
    first_upper = n * bounds.lower
    for i in range(start, stop):
        one, wi, ci = instance(program, i), w[i], c[i]
        x, of_rows = ci[:n], ci[n + q :]
        slope, gap, sound = 0.0, 0.0, True
        for j in range(n):
            at_lower, at_upper = bounds.lower and wi[j] == 0, bounds.upper and wi[first_upper + j] == 0
            sound &= not (at_lower and at_upper)
            x[j] = -one.d[j] if at_lower else one.d[first_upper + j] if at_upper else -one.p[j] / one.Q[j]
            if q > 0:
                gap += one.A[0, j] * x[j]
                slope += 0.0 if at_lower or at_upper else one.A[0, j] * one.A[0, j] / one.Q[j]
        nu = 0.0
        if q > 0:
            nu = (gap - one.b[0]) / slope
            ci[n] = nu
        for j in range(n):
            at_lower, at_upper = bounds.lower and wi[j] == 0, bounds.upper and wi[first_upper + j] == 0
            pull = nu * one.A[0, j] if q > 0 else 0.0
            if not at_lower and not at_upper:
                x[j] -= pull / one.Q[j]
            force = -one.p[j] - pull - one.Q[j] * x[j]
            if bounds.lower:
                of_rows[j] = -force if at_lower else 0.0
            if bounds.upper:
                of_rows[first_upper + j] = force if at_upper else 0.0
        error[i] = 0.0 if sound and abs(nu) < inf else inf
