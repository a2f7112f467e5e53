"""The quadratic model of the dual over the simplex, minimised exactly by active sets.

    minimise_d  d'Hd/2 - b'd   subject to   lam + d >= 0,  1'd = 1 - 1'lam,       H = C diag(w) C' over some of the cuts

At the solution the cuts that the model foresees, b - Hd, are t where lam + d > 0 and at most t elsewhere.
"""

import math
from typing import NamedTuple

import numpy as np

from .bundle_cuts import gram, total
from .compiled import compiled

RIDGE = 1e-14
PIVOT = 1e-14
TINY = 1e-300
ROUNDING = 1e-13
BLOCK_ROUNDS = 12


class Model(NamedTuple):
    """minimise d'Hd/2 - b'd with lam + d on the simplex, over the cuts in rows; lower triangle of H.

    inside: where lam + d may be positive; chosen: the numbers of these; R'R = H there; x, u: for solving.
    """

    rows: np.ndarray
    H: np.ndarray
    b: np.ndarray
    lam: np.ndarray
    d: np.ndarray
    inside: np.ndarray
    chosen: np.ndarray
    R: np.ndarray
    x: np.ndarray
    u: np.ndarray


@compiled
def allocate_model(k):
    """Room for a model of k cuts."""
    square, rows, numbers = np.zeros((2, k + 4, k + 4)), np.zeros((5, k + 4)), np.zeros((2, k + 4), np.int64)
    inside = np.zeros(k + 4, np.bool_)
    return Model(numbers[0], square[0], rows[0], rows[1], rows[2], inside, numbers[1], square[1], rows[3], rows[4])


@compiled
def make_model(cuts, at, t, error, model):
    """The model at a point over the cuts that carry weight or rise near t or above it; returns their number.

    A multiple of 11' is added to H: on the simplex it changes nothing, and H, singular there in general, is not.
    inside, the first guess, is right where H is diagonal and t is the level.
    """
    rows, H, count = model.rows, model.H, 0
    for i in range(cuts.m):
        if at.lam[i] > 0 or at.v[i] > t - error:
            rows[count] = i
            count += 1
    padded = (count + 3) // 4 * 4
    rows[count:padded] = cuts.m
    gram(cuts.C, at.w, rows, padded, H)
    shift = 0.0
    for a in range(count):
        shift += H[a, a] / count
    shift = shift if shift > 0 else max(error, TINY)
    for a in range(count):
        model.b[a] = at.v[rows[a]] - t
        model.lam[a] = at.lam[rows[a]]
        model.inside[a] = model.lam[a] * H[a, a] + model.b[a] > 0
        for c in range(a):
            H[a, c] += shift
        H[a, a] += shift + RIDGE * H[a, a]
    return count


@compiled
def cholesky(H, chosen, count, R):
    """Upper R with R'R = H over the chosen; returns the smallest pivot, relative to its diagonal.

    A pivot that is lost in rounding becomes PIVOT, and the rest of its row, which is as small in a semidefinite
    matrix, zero: noise does not grow.
    """
    for a in range(count):
        for b in range(a, count):
            R[a, b] = H[chosen[b], chosen[a]]
    least = 1.0
    for a in range(count):
        top, diagonal = R[a], H[chosen[a], chosen[a]]
        share = max(top[a], 0.0) / diagonal
        least = min(least, share)
        if share < PIVOT:
            top[a] = math.sqrt(PIVOT * diagonal)
            top[a + 1 : count] = 0.0
            continue
        top[a] = math.sqrt(top[a])
        for c in range(a + 1, count):
            top[c] *= 1.0 / top[a]
        for b in range(a + 1, count):
            below, factor = R[b], top[b]
            for c in range(b, count):
                below[c] -= factor * top[c]
    return least


@compiled
def backsolve(R, count, x):
    """x = (R'R)^-1 x."""
    for a in range(count):
        top = R[a]
        x[a] /= top[a]
        for b in range(a + 1, count):
            x[b] -= top[b] * x[a]
    for a in range(count - 1, -1, -1):
        top, value = R[a], x[a]
        for b in range(a + 1, count):
            value -= top[b] * x[b]
        x[a] = value / top[a]


@compiled
def entry(H, i, j):
    """H_ij, from the lower triangle."""
    return H[i, j] if i > j else H[j, i]


@compiled
def on_face(model, count):
    """d with lam + d zero outside, of any sign inside, that minimises the model: (t, size of the face, least pivot)."""
    _, H, v, lam, d, inside, chosen, R, x, u = model
    size, missing, centre = 0, 0.0, 0.0
    for i in range(count):
        d[i] = -lam[i]
        if inside[i]:
            chosen[size] = i
            centre += v[i]
            size += 1
        else:
            missing += lam[i]
    centre /= size
    for a in range(size):
        i = chosen[a]
        x[a] = v[i] - centre
        u[a] = 1.0
        if missing > 0:
            for j in range(count):
                if not inside[j]:
                    x[a] += lam[j] * entry(H, i, j)
    least = cholesky(H, chosen, size, R)
    backsolve(R, size, x)
    backsolve(R, size, u)
    weight = total(u, size)
    t = (total(x, size) - missing) / weight
    for a in range(size):
        x[a] -= t * u[a]
    drift = (total(x, size) - missing) / weight
    for a in range(size):
        d[chosen[a]] = x[a] - drift * u[a]
    return t + centre, size, least


@compiled
def slack(model, count, i, t):
    """t less the value of cut i that the model foresees: negative where it must come inside."""
    value = t - model.b[i]
    for j in range(count):
        value += model.d[j] * entry(model.H, i, j)
    return value


@compiled
def minimise_model(model, count):
    """Block pivoting, all wrong cuts changing sides at once, while it gets on; else one at a time.

    Returns the least pivot on the last face, or -1 where d is of no use.
    """
    _, H, v, lam, d, inside, _, _, x, _ = model
    rounding = 0.0
    for i in range(count):
        rounding = max(rounding, ROUNDING * (abs(v[i]) + H[i, i]))
    fewest, patience = count + 1, 3
    for _ in range(BLOCK_ROUNDS):
        t, _, least = on_face(model, count)
        wrong = 0
        for i in range(count):
            x[i] = lam[i] + d[i] if inside[i] else slack(model, count, i, t) + rounding
            wrong += x[i] < 0
        if wrong == 0:
            return least
        patience -= wrong >= fewest
        if patience == 0:
            break
        fewest = min(wrong, fewest)
        for i in range(count):
            inside[i] = inside[i] != (x[i] < 0)
    return one_at_a_time(model, count, rounding)


@compiled
def one_at_a_time(model, count, rounding):
    """The primal active-set method from the vertex of the highest cut: every change lowers the model."""
    _, _, v, lam, d, inside, chosen, _, _, _ = model
    at = np.zeros(count)
    inside[:count] = False
    entering = 0
    for i in range(1, count):
        entering = i if v[i] > v[entering] else entering
    at[entering] = 1.0
    inside[entering] = True
    for _ in range(6 * count + 10):
        t, size, least = on_face(model, count)
        step, blocking = 1.0, -1
        for a in range(size):
            i = chosen[a]
            target = lam[i] + d[i]
            if target < 0 and at[i] < step * (at[i] - target):
                step, blocking = at[i] / (at[i] - target), i
        for a in range(size):
            i = chosen[a]
            at[i] = max(at[i] + step * (lam[i] + d[i] - at[i]), 0.0)
        if blocking >= 0:
            at[blocking] = 0.0
            inside[blocking] = False
            continue
        lowest, entering = -rounding, -1
        for i in range(count):
            below = 0.0 if inside[i] else slack(model, count, i, t)
            if below < lowest:
                lowest, entering = below, i
        if entering < 0:
            return least
        inside[entering] = True
    return -1.0
