"""The certificate of `solvers.certificate` for a quadratic program, compiled; it shares nothing with the solvers."""

from math import exp, inf, log

import numpy as np

from .compiled import compiled
from .dense import row_times
from .instance import instance

FLOOR = 1e-5


@compiled
def certify_range(start, stop, program, bounds, x, nu, lam, found):
    """Write the five residuals of the instances start <= i < stop into found (batch, 5)."""
    n = program.p.shape[1]
    pull_A, pull_J, left = np.empty(n), np.empty(n), np.empty(n)
    for i in range(start, stop):
        certify(instance(program, i), bounds, x[i], nu[i], lam[i], pull_A, pull_J, left, found[i])


@compiled
def certify(one, bounds, x, nu, lam, pull_A, pull_J, left, found):
    """The residuals of one instance; pull_A, pull_J and left are room for n numbers."""
    Q, p, A, b, G, d = one
    n, q, m = len(p), len(b), len(G)
    pull_A[:] = 0.0
    pull_J[:] = 0.0
    reach = 1.0
    for j in range(n):
        reach = larger(reach, 1.0 + abs(x[j]))
    primal = sign = product = total = 0.0
    for r in range(q):
        size, value = 0.0, 0.0
        for j in range(n):
            value += A[r, j] * x[j]
            pull_A[j] += A[r, j] * nu[r]
            size = max(size, abs(A[r, j]))
        primal = larger(primal, abs(value - b[r]) / max(abs(value), abs(b[r]), FLOOR * unit(size) * reach))
    for r in range(m):
        size, value = 0.0, 0.0
        for j in range(n):
            value += G[r, j] * x[j]
            pull_J[j] += G[r, j] * lam[r]
            size = max(size, abs(G[r, j]))
        primal, sign, product, total = row(value, d[r], lam[r], unit(size), reach, primal, sign, product, total)
    for side in range(bounds.lower + bounds.upper):
        direction = -1.0 if bounds.lower and side == 0 else 1.0
        for j in range(n):
            r = m + n * side + j
            pull_J[j] += direction * lam[r]
            primal, sign, product, total = row(direction * x[j], d[r], lam[r], 1.0, reach, primal, sign, product, total)
    cost = largest_p = curved = linear = 0.0
    for j in range(n):
        gradient = row_times(Q, j, x, n)
        largest_p = larger(largest_p, abs(p[j]))
        curved += 0.5 * gradient * x[j]
        linear += p[j] * x[j]
        left[j] = gradient + p[j] + pull_A[j] + pull_J[j]
        pull_A[j] = max(abs(gradient), abs(p[j]), abs(pull_A[j]), abs(pull_J[j]))
        cost = larger(cost, pull_A[j])
    if not largest_p > 0:
        cost = larger(cost, 1.0)
    stationarity = 0.0
    for j in range(n):
        stationarity = larger(stationarity, abs(left[j]) / max(pull_A[j], FLOOR * cost))
    found[0] = stationarity
    found[1] = primal
    found[2] = sign / cost
    found[3] = product / (cost * reach)
    found[4] = abs(total) / larger(larger(abs(curved), abs(linear)), cost)


@compiled
def row(value, d, lam, size, reach, primal, sign, product, total):
    """One inequality, with the largest violation, wrong sign and product so far, and the sum of the products."""
    slack = d - value
    term = lam * slack if lam != 0 else 0.0
    side = 0.0 if abs(d) == inf else abs(d)
    violation = -slack / max(abs(value), side, FLOOR * size * reach) if not slack > 0 else 0.0
    wrong = -lam * size if not lam > 0 else 0.0
    return larger(primal, violation), larger(sign, wrong), larger(product, abs(term)), total + term


@compiled
def larger(a, b):
    """The maximum; nan if one of the two is."""
    return b if b > a or b != b else a


@compiled
def unit(size):
    """The size of a row, one for an empty one."""
    return size if size > 0 else 1.0


@compiled
def certify_bundle_range(start, stop, rows, d, x, lam, found):
    """The same for entropy bundles: rows (batch, k, n + 1) are [g_i, -1], d = -o, x = (y, t)."""
    k, n = rows.shape[1], rows.shape[2] - 1
    pull = np.empty(n)
    for i in range(start, stop):
        t, pull[:] = x[i, n], 0.0
        reach, primal, sign, product, total, weight = 1.0 + abs(t), 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(n):
            reach = larger(reach, 1.0 + abs(x[i, j]))
        for r in range(k):
            size, value = 1.0, -t
            for j in range(n):
                value += rows[i, r, j] * x[i, j]
                pull[j] += rows[i, r, j] * lam[i, r]
                size = max(size, abs(rows[i, r, j]))
            weight += lam[i, r]
            primal, sign, product, total = row(value, d[i, r], lam[i, r], size, reach, primal, sign, product, total)
        stationarity, cost, value = abs(1.0 - weight), max(1.0, abs(weight)), 0.0
        for j in range(n):
            y = x[i, j]
            low, high = log(y), log(1.0 - y)
            value += (y * low if y > 0 else 0.0) + ((1.0 - y) * high if y < 1 else 0.0)
            cost = larger(cost, abs(pull[j]))
            if 0 < y < 1:
                cost = larger(cost, abs(low - high))
            stationarity = larger(stationarity, abs(y - 1.0 / (1.0 + exp(pull[j]))))
        found[i, 0] = stationarity / cost
        found[i, 1] = primal
        found[i, 2] = sign / cost
        found[i, 3] = product / (cost * reach)
        found[i, 4] = abs(total) / larger(larger(abs(value), abs(t)), cost)


@compiled
def asymmetry_range(start, stop, Q, found):
    """max |Q - Q'| / max |Q| of the instances start <= i < stop, in blocks that stay in the cache; ignores nan."""
    n, block = Q.shape[1], 16
    for i in range(start, stop):
        difference = most = 0.0
        for first in range(0, n, block):
            for second in range(0, first + 1, block):
                for j in range(first, min(first + block, n)):
                    for l in range(second, min(second + block, n)):
                        difference = max(difference, abs(Q[i, j, l] - Q[i, l, j]))
                        most = max(most, max(abs(Q[i, j, l]), abs(Q[i, l, j])))
        found[i] = difference / most if 0 < difference < inf else 0.0
