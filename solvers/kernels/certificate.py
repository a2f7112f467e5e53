"""The certificate of `solvers.certificate` for a quadratic program, compiled; it shares nothing with the solvers."""

from math import exp, inf, log

import numpy as np

from .compiled import compiled
from .dense import row_times


@compiled
def certify_range(start, stop, program, bounds, x, nu, lam, found):
    """Write the five residuals of the instances start <= i < stop into found (batch, 5)."""
    Q, p, A, b, G, d = program
    n, q, m = p.shape[1], b.shape[1], G.shape[1]
    lower, upper = m, m + n * bounds.lower
    pull_A, pull_J = np.empty(n), np.empty(n)
    for i in range(start, stop):
        Qi, Ai, Gi = Q[i * (len(Q) > 1)], A[i * (len(A) > 1)], G[i * (len(G) > 1)]
        xi, di, lam_i = x[i], d[i], lam[i]
        pull_A[:] = 0.0
        pull_J[:] = 0.0
        reach = 1.0
        for j in range(n):
            reach = larger(reach, 1.0 + abs(xi[j]))
        primal = sign = product = total = 0.0
        for r in range(q):
            size, value = 0.0, -b[i, r]
            for j in range(n):
                value += Ai[r, j] * xi[j]
                pull_A[j] += Ai[r, j] * nu[i, r]
                size = max(size, abs(Ai[r, j]))
            primal = larger(primal, abs(value) / unit(size))
        for r in range(m):
            size, slack = 0.0, di[r]
            for j in range(n):
                slack -= Gi[r, j] * xi[j]
                pull_J[j] += Gi[r, j] * lam_i[r]
                size = max(size, abs(Gi[r, j]))
            size = unit(size)
            primal, sign, product, total = row(slack, lam_i[r], size, primal, sign, product, total)
        for j in range(n * bounds.lower):
            pull_J[j] -= lam_i[lower + j]
            slack = di[lower + j] + xi[j]
            primal, sign, product, total = row(slack, lam_i[lower + j], 1.0, primal, sign, product, total)
        for j in range(n * bounds.upper):
            pull_J[j] += lam_i[upper + j]
            slack = di[upper + j] - xi[j]
            primal, sign, product, total = row(slack, lam_i[upper + j], 1.0, primal, sign, product, total)
        linear = stationarity = curved = value = largest_p = terms = 0.0
        for j in range(n):
            gradient = row_times(Qi, j, xi, n)
            stationarity = larger(stationarity, abs(gradient + p[i, j] + pull_A[j] + pull_J[j]))
            largest_p = larger(largest_p, abs(p[i, j]))
            terms = larger(larger(terms, abs(gradient)), larger(abs(pull_A[j]), abs(pull_J[j])))
            curved += 0.5 * gradient * xi[j]
            linear += p[i, j] * xi[j]
        cost = larger(terms, largest_p)
        if not largest_p > 0:
            cost = larger(cost, 1.0)
        value = larger(larger(abs(curved), abs(linear)), cost)
        found[i, 0] = stationarity / cost
        found[i, 1] = primal / reach
        found[i, 2] = sign / cost
        found[i, 3] = product / (cost * reach)
        found[i, 4] = abs(total) / value


@compiled
def row(slack, lam, size, primal, sign, product, total):
    """One inequality, with the largest violation, wrong sign and product so far, and the sum of the products."""
    term = lam * slack if lam != 0 else 0.0
    violation = -slack / size if not slack > 0 else 0.0
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
        for r in range(k):
            size, slack = 1.0, d[i, r] + t
            for j in range(n):
                slack -= rows[i, r, j] * x[i, j]
                pull[j] += rows[i, r, j] * lam[i, r]
                size = max(size, abs(rows[i, r, j]))
            weight += lam[i, r]
            primal, sign, product, total = row(slack, lam[i, r], size, primal, sign, product, total)
        stationarity, cost, value = abs(1.0 - weight), max(1.0, abs(weight)), 0.0
        for j in range(n):
            y = x[i, j]
            low, high = log(y), log(1.0 - y)
            value += (y * low if y > 0 else 0.0) + ((1.0 - y) * high if y < 1 else 0.0)
            cost = larger(cost, abs(pull[j]))
            if 0 < y < 1:
                cost = larger(cost, abs(low - high))
            reach = larger(reach, 1.0 + abs(y))
            stationarity = larger(stationarity, abs(y - 1.0 / (1.0 + exp(pull[j]))))
        found[i, 0] = stationarity / cost
        found[i, 1] = primal / reach
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
