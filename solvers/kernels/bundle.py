"""The dual of entropy bundles, compiled, one instance at a time: see `entropy_dual`.

    minimise_lam  F(lam) = sum_j softplus(-z_j) - p'lam,   z = g + C'lam,    subject to  lam >= 0,  1'lam = 1      (1)

g is one of the cuts and C, p are all of them relative to it, which changes nothing on the simplex: a small cut, and
the difference of two that nearly coincide, keep their digits. With y = sigmoid(-z) the values of the cuts at y are
v = C y + p; they are the gradient of -F, and C diag(y(1 - y)) C' is its Hessian. At the solution v = t where lam > 0
and v <= t elsewhere.

`newton` minimises the quadratic model of F exactly over the simplex and searches along the way there; only cuts
that carry weight or rise above t take part. From where F is smooth on the scale of the simplex it takes three to ten
systems, to rounding. Where cuts are so steep that F is nearly piecewise linear it may not end: then an interior-point
method (`bundle_interior`) finds the active cuts, and `newton` ends.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .bundle_cuts import allocate, combine, copy, dots, largest, read, sigmoids, total
from .bundle_interior import interior_range
from .bundle_model import allocate_model, cholesky, make_model, minimise_model
from .compiled import compiled
from .threads import array, over_batch

NEWTON_STEPS = 20
HALVINGS = 30
ARMIJO = 1e-4
ROUNDING = 2e-16
NEARLY = 1e-12
WEAK = 1e-6
DEPENDENT = 1e-10


class Dual(NamedTuple):
    """What is known of each instance; batch dimension first.

    lam (batch, k), y (batch, n), t (batch,). weak (batch, k): cuts whose multiplier and slack both vanish to rounding;
    idle (batch, k): cuts that are absent or not active (weak ones are held active); singular (batch,): active cuts are
    affinely dependent, in the norm of y(1 - y). iterations (batch,): systems factorised. done (batch,): the gap is
    below the tolerance; where it is not, the rest describes the last iterate.
    """

    lam: Tensor
    y: Tensor
    t: Tensor
    weak: Tensor
    idle: Tensor
    singular: Tensor
    iterations: Tensor
    done: Tensor


def entropy_dual(
    G: Tensor, o: Tensor, tol: float, max_iter: int, start: Tensor | None = None, n: int | None = None
) -> Dual:
    """Maximise o'lam - sum_j softplus(-(G'lam)_j) over the simplex, each instance by itself; y = sigmoid(-G'lam).

    Args:
        G: (batch, k, n) and o: (batch, k), float64 on a CPU; o = -inf where a cut is absent. Copied if not contiguous.
        tol: of the gap sum lam_i (t - g_i'y - o_i) relative to the largest of 1, |t| and |G'lam|. The answers
            are better: iterations end at rounding.
        max_iter: systems, of both methods together.
        start: (batch, k), weights >= 0 to begin with, of any sum; None: equal ones.
        n: how many columns of G count; None: all.

    An instance without cuts has lam = 0, y = 1/2, t = -inf and is done; one with data that are not finite is not.
    """
    begin = torch.ones_like(o) if start is None else start
    n = G.shape[2] if n is None else n
    dual, ended = _newton(G, o, n, tol, max_iter, begin, torch.zeros_like(o[:, 0], dtype=torch.int64))
    rest = (~(ended & dual.done) & (dual.iterations < max_iter)).nonzero().squeeze(-1)
    if not len(rest):
        return dual
    G, o, iterations = G[rest], o[rest], dual.iterations[rest]
    begin = torch.zeros_like(o)
    over_batch(interior_range, *_work(G), *map(array, (G, o)), n, max_iter, *map(array, (begin, iterations)))
    again, _ = _newton(G, o, n, tol, max_iter, begin, iterations)
    return Dual(*(whole.index_copy(0, rest, part) for whole, part in zip(dual, again, strict=True)))


def _newton(
    G: Tensor, o: Tensor, n: int, tol: float, max_iter: int, begin: Tensor, iterations: Tensor
) -> tuple[Dual, Tensor]:
    """`newton` from the given weights, and where it ended by itself; iterations go on from those given."""
    batch, k = o.shape
    lam, y, t = (torch.empty(shape, dtype=torch.float64) for shape in ((batch, k), (batch, n), (batch,)))
    weak, idle = torch.empty(2, batch, k, dtype=torch.bool)
    singular, done, ended = torch.empty(3, batch, dtype=torch.bool)
    dual = Dual(lam, y, t, weak, idle, singular, iterations, done)
    over_batch(newton_range, *_work(G), *map(array, (G, o, begin)), tol, max_iter, *map(array, (*dual, ended)))
    return dual, ended


def _work(G: Tensor) -> tuple[int, float]:
    """Instances, and operations for each."""
    batch, k, n = G.shape
    return batch, 3.0 * (k + 10) * (k * n + 100)


class Point(NamedTuple):
    """lam and what (1) makes of it: z, y, w = y(1 - y), v."""

    lam: np.ndarray
    z: np.ndarray
    y: np.ndarray
    w: np.ndarray
    v: np.ndarray


@compiled
def newton_range(start, stop, G, o, begins, tol, max_iter, lam, y, t, weak, idle, singular, iterations, done, ended):
    """`newton` for some instances, and what is to be known of its points: see `Dual`."""
    k, n = G.shape[1], y.shape[1]
    room = allocate(k, n)
    rows, columns = np.zeros((4, k + 4)), np.zeros((6, room.g.size))
    here = Point(rows[0], columns[0], columns[1], columns[2], rows[1])
    there = Point(rows[2], columns[3], columns[4], columns[5], rows[3])
    model, weakly = allocate_model(k), np.zeros(k + 4, np.bool_)
    for i in range(start, stop):
        lam[i], y[i], t[i] = 0.0, 0.5, -np.inf
        weak[i], idle[i], singular[i] = False, True, False
        done[i] = ended[i] = True
        cuts = read(G[i], o[i], n, room)
        if cuts.m == 0:
            continue
        begin(begins[i], cuts, here.lam)
        budget = min(NEWTON_STEPS, max_iter - iterations[i])
        at, systems, ended[i], least = newton(cuts, here, there, model, budget)
        iterations[i] += systems
        value, gap, any_weak = judge(cuts, n, at, weakly)
        singular[i] = not any_weak and dependent(cuts, at, model, least)
        value += cuts.offset
        for j in range(n):
            y[i, j] = at.y[j]
            value += cuts.g[j] * at.y[j]
        t[i] = value
        done[i] = gap <= 0.5 * tol * max(1.0, abs(value), largest(at.z, n))
        for a in range(cuts.m):
            cut = cuts.present[a]
            lam[i, cut], weak[i, cut] = at.lam[a], weakly[a]
            idle[i, cut] = at.lam[a] == 0 and not weakly[a]


@compiled
def newton(cuts, here, there, model, budget):
    """Newton from here.lam until v is even to rounding: (the last point, systems, ended so, least pivot or -1)."""
    value = evaluate(cuts, here, model)
    rounding = ROUNDING * cuts.size
    nearly = (NEARLY + ROUNDING * cuts.size) * cuts.size
    systems, before, step, least = 0, np.inf, 0.0, -1.0
    while True:
        t, error = unevenness(here, cuts.m)
        if error <= rounding or (step == 1.0 and 0.5 * before < error <= nearly):
            return here, systems, True, least
        if systems == budget:
            break
        before = error
        count = make_model(cuts, here, t, error, model)
        systems += 1
        least = minimise_model(model, count)
        if least < 0:
            break
        if largest(model.d, count) <= ROUNDING:
            return here, systems, True, least
        value, step = descend(cuts, model, count, value, there)
        if step == 0.0:
            break
        here, there = there, here
    return here, systems, False, least


@compiled
def unevenness(at, m):
    """t = v'lam, and how far v is from being t where lam > 0 and at most t elsewhere."""
    t, error = 0.0, 0.0
    for i in range(m):
        t += at.lam[i] * at.v[i]
    for i in range(m):
        error = max(error, abs(at.v[i] - t) if at.lam[i] > 0 else at.v[i] - t)
    return t, error


@compiled
def descend(cuts, model, count, value, there):
    """Search along d until F falls enough (Armijo), shortening by cubic interpolation; returns F and the step, or 0."""
    slope = 0.0
    for a in range(count):
        slope -= model.b[a] * model.d[a]
    rounding = 1e-15 * (abs(value) + cuts.size)
    step = 1.0
    for _ in range(HALVINGS):
        move(model, count, step, cuts.m, there.lam)
        new = evaluate(cuts, there, model)
        if new <= value + ARMIJO * step * slope + rounding:
            return new, step
        new_slope = 0.0
        for a in range(count):
            new_slope -= there.v[model.rows[a]] * model.d[a]
        bend = 3 * (value - new) / step + slope + new_slope
        root = math.sqrt(max(bend * bend - slope * new_slope, 0.0))
        share = 1 - (new_slope + root - bend) / (new_slope - slope + 2 * root)
        step *= min(max(share, 0.1), 0.6)
    return value, 0.0


@compiled
def move(model, count, step, m, lam):
    """lam + step d, on the simplex also in rounding."""
    lam[:m] = 0.0
    for a in range(count):
        lam[model.rows[a]] = max(model.lam[a] + step * model.d[a], 0.0)
    size = total(lam, m)
    for i in range(m):
        lam[i] /= size


@compiled
def evaluate(cuts, at, model):
    """F at at.lam; fills the rest of the point. Uses x and chosen of the model."""
    weights, rows, count = model.x, model.chosen, 0
    for i in range(cuts.m):
        if at.lam[i] > 0:
            rows[count], weights[count] = i, at.lam[i]
            count += 1
    padded = (count + 3) // 4 * 4
    rows[count:padded] = cuts.m
    weights[count:padded] = 0.0
    copy(cuts.g, at.z)
    combine(cuts.C, weights, rows, padded, at.z)
    value = sigmoids(at.z, at.y, at.w)
    dots(cuts.C, at.y, cuts.m, at.v)
    for i in range(cuts.m):
        at.v[i] += cuts.p[i]
        value -= cuts.p[i] * at.lam[i]
    return value


@compiled
def begin(weights, cuts, lam):
    """lam from weights of any sum; equal where they are of no use."""
    for a in range(cuts.m):
        lam[a] = max(weights[cuts.present[a]], 0.0)
    size = total(lam, cuts.m)
    useful = 0.0 < size < np.inf
    for a in range(cuts.m):
        lam[a] = lam[a] / size if useful else 1.0 / cuts.m


@compiled
def judge(cuts, n, at, weak):
    """(t, gap, whether any is weak), and which cuts are weakly active: lam and slack vanish to rounding.

    Their units are those of a quadratic of curvature c = sum w (C_i - C'lam)^2, what the slack gains as weight moves
    to cut i, and of the entropy, which is 1.
    """
    t, gap, some = -np.inf, 0.0, False
    for i in range(cuts.m):
        t = max(t, at.v[i])
    for i in range(cuts.m):
        slack, weak[i] = t - at.v[i], False
        gap += at.lam[i] * slack
        if at.lam[i] <= WEAK:
            row, c = cuts.C[i], 0.0
            for j in range(n):
                c += at.w[j] * (row[j] - (at.z[j] - cuts.g[j])) ** 2
            root = math.sqrt(c)
            small = at.lam[i] * max(1.0, root) <= WEAK and slack <= WEAK * min(c, root) + ROUNDING * cuts.size
            weak[i] = small
            some = some or small
    return t, gap, some


@compiled
def dependent(cuts, at, model, least):
    """Whether the active cuts are affinely dependent, in the norm of w; least < 0: no factor yet."""
    if least < 0:
        count = make_model(cuts, at, 0.0, -np.inf, model)
        for a in range(count):
            model.chosen[a] = a
        least = cholesky(model.H, model.chosen, count, model.R)
    return least <= DEPENDENT
