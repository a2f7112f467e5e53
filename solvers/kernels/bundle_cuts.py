"""The cuts of a bundle in columns of cache lines, and the passes over them: every loop over n is vectorised.

Matrices have their columns padded with zeros to a multiple of LANES and their rows to a multiple of four, which are
taken together: one load of a column serves four rows.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from .compiled import compiled

LOG2E = 1.4426950408889634
LN2_HIGH = 6.93147180369123816490e-01  # 32 bits: k * LN2_HIGH is exact
LN2_LOW = 1.90821492927058770002e-10
LAST_EXPONENT = 708.0
LANES = 32
TILE = 512  # of columns: a product of that many numbers in [1, 2] does not overflow
FAR = 1e4  # z of a column that is not there: y = 0


class Cuts(NamedTuple):
    """The m present cuts relative to g, one of them, which has this offset: C (then zero rows), p.

    size: the largest |C_i|_1 + |p_i|; present: their numbers.
    """

    C: np.ndarray
    g: np.ndarray
    p: np.ndarray
    present: np.ndarray
    m: int
    offset: float
    size: float


@compiled
def allocate(k, n):
    """Room for the cuts of an instance."""
    width = (n + LANES - 1) // LANES * LANES
    return Cuts(np.zeros((k + 4, width)), np.zeros(width), np.zeros(k + 4), np.zeros(k + 4, np.int64), 0, 0.0, 0.0)


@compiled
def read(G, o, n, room):
    """The present cuts relative to the one with the smallest entries."""
    C, g, p, present, m, _, _ = room
    base, least = 0, np.inf
    for i in range(len(o)):
        if o[i] != -np.inf:
            row, out = G[i], C[m]
            for j in range(n):
                out[j] = row[j]
            size = abs(o[i]) + length(out)
            if size < least:
                base, least = m, size
            present[m], p[m] = i, o[i]
            m += 1
    offset, largest_size = p[base], 0.0
    copy(C[base], g)
    for a in range(m):
        p[a] -= offset
        subtract(g, C[a])
        largest_size = max(largest_size, abs(p[a]) + length(C[a]))
    C[m : m + 4] = 0.0
    g[n:] = FAR
    return Cuts(C, g, p, present, m, offset, largest_size)


@compiled
def copy(x, out):
    """out = x."""
    for j in range(len(out)):
        out[j] = x[j]


@compiled
def subtract(x, out):
    """out -= x."""
    for j in range(len(out)):
        out[j] -= x[j]


@intrinsic
def as_float(_typing, _bits):
    """The float64 with the bits of an int64."""

    def generate(context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), generate


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def exp_minus(a):
    """exp(-a) for a >= 0, to an ulp or so; zero beyond 708.

    exp(r) 2^-k, |r| <= log(2)/2, by the Taylor polynomial: without branches, tables or calls, so that loops over it
    vectorise.
    """
    b = min(a, LAST_EXPONENT)
    k = math.floor(b * LOG2E + 0.5)
    r = (k * LN2_HIGH - b) + k * LN2_LOW
    e = 1 / 6227020800.0
    e = e * r + 1 / 479001600.0
    e = e * r + 1 / 39916800.0
    e = e * r + 1 / 3628800.0
    e = e * r + 1 / 362880.0
    e = e * r + 1 / 40320.0
    e = e * r + 1 / 5040.0
    e = e * r + 1 / 720.0
    e = e * r + 1 / 120.0
    e = e * r + 1 / 24.0
    e = e * r + 1 / 6.0
    e = e * r + 0.5
    e = e * r + 1.0
    e = e * r + 1.0
    e = e * as_float((1023 - np.int64(k)) << 52)  # pyright: ignore[reportCallIssue]
    return e if a <= LAST_EXPONENT else 0.0


@compiled
def sigmoids(z, y, w):
    """y = sigmoid(-z), w = y(1 - y); returns sum softplus(-z), with one logarithm for a tile."""
    total = 0.0
    for start in range(0, len(z), TILE):
        part_z, part_y, part_w = z[start : start + TILE], y[start : start + TILE], w[start : start + TILE]
        linear, product = 0.0, 1.0
        for j in range(len(part_z)):
            e = exp_minus(abs(part_z[j]))
            q = 1.0 / (1.0 + e)
            product *= 1.0 + e
            linear += max(-part_z[j], 0.0)
            part_y[j] = e * q if part_z[j] >= 0.0 else q
            part_w[j] = e * q * q
        total += linear + math.log(product)
    return total


@compiled
def combine(C, lam, rows, count, out):
    """out += sum of lam_i times row rows[i]; count is made a multiple of four by rows of weight zero."""
    for i in range(0, count, 4):
        a, b, c, d = lam[i], lam[i + 1], lam[i + 2], lam[i + 3]
        A, B, D, E = C[rows[i]], C[rows[i + 1]], C[rows[i + 2]], C[rows[i + 3]]
        for j in range(len(out)):
            out[j] += (a * A[j] + b * B[j]) + (c * D[j] + d * E[j])


@compiled
def dots(C, y, m, out):
    """C y for the first m rows."""
    for i in range(0, m, 4):
        A, B, D, E = C[i], C[i + 1], C[i + 2], C[i + 3]
        a = b = c = d = 0.0
        for j in range(len(y)):
            a += A[j] * y[j]
            b += B[j] * y[j]
            c += D[j] * y[j]
            d += E[j] * y[j]
        out[i], out[i + 1], out[i + 2], out[i + 3] = a, b, c, d


@compiled
def gram(C, w, rows, count, H):
    """Lower triangle of H = C diag(w) C' over the rows, in blocks of four by four that stay in registers."""
    for first in range(0, count, 4):
        A, B, D, E = C[rows[first]], C[rows[first + 1]], C[rows[first + 2]], C[rows[first + 3]]
        for second in range(0, first + 4, 4):
            P, Q, S, T = C[rows[second]], C[rows[second + 1]], C[rows[second + 2]], C[rows[second + 3]]
            ap = aq = as_ = at = bp = bq = bs = bt = 0.0
            dp = dq = ds = dt = ep = eq = es = et = 0.0
            for j in range(len(w)):
                a, b, d, e = w[j] * A[j], w[j] * B[j], w[j] * D[j], w[j] * E[j]
                p, q, s, t = P[j], Q[j], S[j], T[j]
                ap += a * p
                aq += a * q
                as_ += a * s
                at += a * t
                bp += b * p
                bq += b * q
                bs += b * s
                bt += b * t
                dp += d * p
                dq += d * q
                ds += d * s
                dt += d * t
                ep += e * p
                eq += e * q
                es += e * s
                et += e * t
            H[first, second : second + 4] = ap, aq, as_, at
            H[first + 1, second : second + 4] = bp, bq, bs, bt
            H[first + 2, second : second + 4] = dp, dq, ds, dt
            H[first + 3, second : second + 4] = ep, eq, es, et


@compiled
def length(x):
    """|x|_1."""
    value = 0.0
    for j in range(len(x)):
        value += abs(x[j])
    return value


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def largest(x, n):
    """max |x_j|; anything where some are not numbers."""
    value = 0.0
    for j in range(n):
        value = max(value, abs(x[j]))
    return value


@compiled
def total(x, count):
    """1'x."""
    value = 0.0
    for i in range(count):
        value += x[i]
    return value
