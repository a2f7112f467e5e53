"""An interior-point method for bundles with steep cuts:

    minimise t - H(y)   subject to   C y + p + s = t,   s >= 0 (lam),   y >= 0 (lower),   u = 1 - y >= 0 (upper)

with  log(y/u) + g + C'lam = lower - upper.  y is a variable of its own: where the cuts are so steep that the dual is
nearly piecewise linear, the bounds of y carry them, as in a linear program, until the entropy decides what they leave.
"""

import math
from typing import NamedTuple

import numpy as np

from .bundle_cuts import allocate, combine, copy, dots, gram, read, total
from .bundle_model import allocate_model, backsolve, cholesky
from .compiled import compiled

TO_BOUNDARY = 0.99
LEAST_MU = 1e-16
LEAST_STEP = 1e-8


class Box(NamedTuple):
    """Columns of the interior point: y, its distance u to 1, their multipliers, a step, and second-order terms."""

    y: np.ndarray
    u: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    dy: np.ndarray
    d_lower: np.ndarray
    d_upper: np.ndarray
    bend_lower: np.ndarray
    bend_upper: np.ndarray
    r: np.ndarray
    w: np.ndarray
    pull: np.ndarray


class Slack(NamedTuple):
    """Rows of the interior point: s = t - v, lam, a step, second-order terms, the violation of s = t - v."""

    s: np.ndarray
    lam: np.ndarray
    ds: np.ndarray
    dlam: np.ndarray
    bend: np.ndarray
    off: np.ndarray
    ones: np.ndarray


@compiled
def interior_range(start, stop, G, o, n, max_iter, lam, iterations):
    """For some instances: lam, and iterations go on from those given."""
    k = G.shape[1]
    room, model = allocate(k, n), allocate_model(k)
    c, r = np.zeros((12, room.g.size)), np.zeros((7, k + 4))
    box = Box(c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11])
    rows = Slack(r[0], r[1], r[2], r[3], r[4], r[5], r[6])
    for i in range(start, stop):
        lam[i] = 0.0
        cuts = read(G[i], o[i], n, room)
        if cuts.m > 1:
            iterations[i] += interior(cuts, n, lam[i], box, rows, model, max_iter - iterations[i])


@compiled
def interior(cuts, n, lam, box, rows, model, budget):
    """Mehrotra's predictor-corrector; y a variable of its own, log(y/u) + z(lam) = lower - upper. Returns iterations.

    The bounds of y carry the steep cuts, as in a linear program, until the entropy decides what they leave. At the
    end lam is zero where the slack is the larger of the two.
    """
    t = start_inside(cuts, n, box, rows, model)
    iterations = 0
    while iterations < budget:
        mu = product(cuts.m, n, box, rows, 0.0)
        if mu < LEAST_MU:
            break
        iterations += 1
        linearise(cuts, n, t, box, rows, model)
        box.bend_lower[:] = 0.0
        box.bend_upper[:] = 0.0
        rows.bend[:] = 0.0
        direction(cuts, n, 0.0, box, rows, model)
        reach = longest(cuts.m, n, box, rows)
        after = product(cuts.m, n, box, rows, reach)
        for j in range(n):
            box.bend_lower[j] = box.d_lower[j] * box.dy[j]
            box.bend_upper[j] = -box.d_upper[j] * box.dy[j]
        for i in range(cuts.m):
            rows.bend[i] = rows.dlam[i] * rows.ds[i]
        direction(cuts, n, mu * min(max(after / mu, 0.0), 1.0) ** 3, box, rows, model)
        reach = longest(cuts.m, n, box, rows)
        t += step_inside(cuts, n, TO_BOUNDARY * reach if reach < 1 else 1.0, box, rows, model)
        if reach < LEAST_STEP:
            break
    for i in range(cuts.m):
        lam[cuts.present[i]] = rows.lam[i] if rows.lam[i] * cuts.size > rows.s[i] else 0.0
    return iterations


@compiled
def start_inside(cuts, n, box, rows, model):
    """y in the middle, equal lam, multipliers and slacks of the size of z and of what v differs; returns t."""
    m = cuts.m
    for i in range(len(model.rows)):
        model.rows[i], rows.lam[i] = min(i, m), 1.0 / m if i < m else 0.0
    copy(cuts.g, box.r)
    combine(cuts.C, rows.lam, model.rows, m, box.r)
    box.y[:] = 0.5
    box.u[:] = 0.5
    dots(cuts.C, box.y, m, rows.off)
    size = 1.0
    for j in range(n):
        size += abs(box.r[j]) / n
    for j in range(n):
        box.lower[j], box.upper[j] = max(box.r[j], 0.0) + size, max(-box.r[j], 0.0) + size
    highest, lowest = -np.inf, np.inf
    for i in range(m):
        rows.off[i] += cuts.p[i]
        highest, lowest = max(highest, rows.off[i]), min(lowest, rows.off[i])
    t = highest + max(highest - lowest, m * size)
    for i in range(m):
        rows.s[i] = t - rows.off[i]
    return t


@compiled
def product(m, n, box, rows, reach):
    """The mean complementarity product a step further."""
    value = 0.0
    for j in range(n):
        dy = reach * box.dy[j]
        value += (box.lower[j] + reach * box.d_lower[j]) * (box.y[j] + dy)
        value += (box.upper[j] + reach * box.d_upper[j]) * (box.u[j] - dy)
    for i in range(m):
        value += (rows.lam[i] + reach * rows.dlam[i]) * (rows.s[i] + reach * rows.ds[i])
    return value / (2 * n + m)


@compiled
def linearise(cuts, n, t, box, rows, model):
    """Residuals, the diagonal w that eliminates y, and the factor of  C diag(w) C' + diag(s/lam)."""
    m, H = cuts.m, model.H
    copy(cuts.g, box.r)
    combine(cuts.C, rows.lam, model.rows, m, box.r)
    for j in range(n):
        box.r[j] += math.log(box.y[j] / box.u[j])
    for j in range(n):
        y, u = box.y[j], box.u[j]
        box.w[j] = y * u / (1.0 + box.lower[j] * u + box.upper[j] * y)
    dots(cuts.C, box.y, m, rows.off)
    gram(cuts.C, box.w, model.rows, (m + 3) // 4 * 4, H)
    shift = 0.0
    for i in range(m):
        rows.off[i] += cuts.p[i] + rows.s[i] - t
        shift += H[i, i] / m
    for a in range(m):
        for c in range(a):
            H[a, c] += shift
        H[a, a] += shift + rows.s[a] / rows.lam[a]
        model.chosen[a] = a
        rows.ones[a] = 1.0
    cholesky(H, model.chosen, m, model.R)
    backsolve(model.R, m, rows.ones)


@compiled
def direction(cuts, n, mu, box, rows, model):
    """The Newton step towards products mu, less the second-order terms; 1'dlam = 0."""
    m, right = cuts.m, model.x
    for j in range(n):
        to_lower, to_upper = (mu - box.bend_lower[j]) / box.y[j], (mu - box.bend_upper[j]) / box.u[j]
        box.pull[j] = box.w[j] * (box.r[j] - to_lower + to_upper)
    dots(cuts.C, box.pull, m, right)
    for i in range(m):
        rows.dlam[i] = rows.off[i] - right[i] + (mu - rows.bend[i]) / rows.lam[i] - rows.s[i]
    backsolve(model.R, m, rows.dlam)
    dt = total(rows.dlam, m) / total(rows.ones, m)
    for i in range(m):
        rows.dlam[i] -= dt * rows.ones[i]
        rows.ds[i] = (mu - rows.bend[i] - rows.s[i] * rows.dlam[i]) / rows.lam[i] - rows.s[i]
    box.dy[:] = 0.0
    combine(cuts.C, rows.dlam, model.rows, m, box.dy)
    for j in range(n):
        dy = box.dy[j] = -box.pull[j] - box.w[j] * box.dy[j]
        box.d_lower[j] = (mu - box.bend_lower[j] - box.lower[j] * dy) / box.y[j] - box.lower[j]
        box.d_upper[j] = (mu - box.bend_upper[j] + box.upper[j] * dy) / box.u[j] - box.upper[j]


@compiled
def longest(m, n, box, rows):
    """The longest step, at most 1, that leaves all of them positive."""
    fastest = 1.0
    for j in range(n):
        fastest = max(fastest, -box.dy[j] / box.y[j], box.dy[j] / box.u[j])
        fastest = max(fastest, -box.d_lower[j] / box.lower[j], -box.d_upper[j] / box.upper[j])
    for i in range(m):
        fastest = max(fastest, -rows.ds[i] / rows.s[i], -rows.dlam[i] / rows.lam[i])
    return 1.0 / fastest


@compiled
def step_inside(cuts, n, reach, box, rows, model):
    """Takes the step; returns that of t."""
    m, dt = cuts.m, 0.0
    dots(cuts.C, box.dy, m, model.x)
    for j in range(n):
        box.y[j] += reach * box.dy[j]
        box.u[j] -= reach * box.dy[j]
        box.lower[j] += reach * box.d_lower[j]
        box.upper[j] += reach * box.d_upper[j]
    for i in range(m):
        dt += (model.x[i] + rows.ds[i] + rows.off[i]) / m
        rows.lam[i] += reach * rows.dlam[i]
        rows.s[i] += reach * rows.ds[i]
    return reach * dt
