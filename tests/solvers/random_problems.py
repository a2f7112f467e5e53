"""Random QPs and LPs of every kind, deterministic by seed, with what is known about each by construction.

A feasible instance is built around a KKT point: x and the multipliers are drawn first and the data made to
fit, so the optimal value is known whatever is degenerate, singular or redundant. An infeasible one holds rows
of which a combination reads 0 <= -margin; an unbounded one a recession direction along which the cost falls
by a margin; a non-convex one a direction of negative curvature within A x = b, and a KKT point, the trap. Bad
scaling comes last, by powers of two and so without rounding: it is the same problem in other units.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

import icnn

Array = NDArray[np.float64]
SHAPES = ((), (7,), (2, 3))
TRAITS = ("singular", "redundant", "degenerate", "fixed", "scaled")
OUTCOMES = {"OPTIMAL": 0.66, "PRIMAL_INFEASIBLE": 0.14, "DUAL_INFEASIBLE": 0.14, "NONCONVEX": 0.06}


@dataclass(frozen=True)
class Layout:
    """What all instances of a batch share: sizes, and which groups there are."""

    n: int
    m: int
    q: int
    lower: bool
    upper: bool
    curvature: str  # "full", "diagonal" or "none" (an LP)

    def permits(self, trait: str) -> bool:
        return {
            "singular": self.curvature != "none" and self.n > 1,
            "redundant": self.q > 1,
            "degenerate": self.m > 0 and self.m + self.q > self.n,
            "fixed": self.lower and self.upper and self.n > 1,
            "scaled": True,
            "OPTIMAL": True,
            "PRIMAL_INFEASIBLE": bool(contradictions(self)),
            "DUAL_INFEASIBLE": True,
            "NONCONVEX": self.curvature != "none",
        }[trait]


@dataclass(frozen=True)
class Data:
    """min x'Qx/2 + p'x  s.t.  G x <= h,  A x = b,  lower <= x <= upper; absent: empty or infinite."""

    Q: Array  # (n, n), or its diagonal (n,)
    p: Array
    G: Array
    h: Array
    A: Array
    b: Array
    lower: Array
    upper: Array

    @property
    def hessian(self) -> Array:
        return self.Q if self.Q.ndim == 2 else np.diag(self.Q)

    def objective(self, x: Array) -> float:
        return float(0.5 * x @ self.hessian @ x + self.p @ x)

    def size(self, x: Array) -> float:
        """The terms of the objective without their signs: what its rounding errors are relative to."""
        return float(0.5 * abs(x) @ abs(self.hessian) @ abs(x) + abs(self.p) @ abs(x))

    def violation(self, x: Array) -> float:
        """Largest violation of a constraint, relative to the terms of its row (and at least to 1)."""
        rows = np.concatenate((self.G, self.A, -np.eye(len(x)), np.eye(len(x))))
        right = np.concatenate((self.h, self.b, -self.lower, self.upper))
        excess = np.maximum(rows @ x - right, 0.0)
        equal = slice(len(self.h), len(self.h) + len(self.b))
        excess[equal] = abs(self.A @ x - self.b)
        scale = 1.0 + abs(rows) @ abs(x) + np.where(np.isfinite(right), abs(right), 0.0)
        return float((excess / scale).max())


@dataclass(frozen=True)
class Units:
    """x = columns * x', rows of G and A multiplied, cost multiplied; all powers of two."""

    columns: Array
    G_rows: Array
    A_rows: Array
    cost: float

    def rescale(self, data: Data) -> Data:
        c = self.columns
        Q = data.Q * (c if data.Q.ndim == 1 else c[:, None]) * c
        G, A = self.G_rows[:, None] * data.G * c, self.A_rows[:, None] * data.A * c
        h, b = self.G_rows * data.h, self.A_rows * data.b
        return Data(self.cost * Q, self.cost * c * data.p, G, h, A, b, data.lower / c, data.upper / c)


@dataclass(frozen=True)
class Instance:
    """One problem, in plain units and in its own, with its outcome by construction."""

    plain: Data
    units: Units
    x: Array
    outcome: str
    traits: frozenset[str]

    @cached_property
    def data(self) -> Data:
        return self.units.rescale(self.plain)

    @property
    def objective(self) -> float:
        return self.units.cost * self.plain.objective(self.x)

    @property
    def size(self) -> float:
        return self.units.cost * self.plain.size(self.x)


@dataclass(frozen=True)
class Batch:
    """Instances of one layout under one batch shape."""

    seed: int
    shape: tuple[int, ...]
    layout: Layout
    instances: tuple[Instance, ...]

    def problem(self) -> icnn.QP:
        return pose([instance.data for instance in self.instances], self.layout, self.shape)

    def alone(self, index: int) -> icnn.QP:
        return pose([self.instances[index].data], self.layout, ())


def pose(data: list[Data], layout: Layout, shape: tuple[int, ...]) -> icnn.QP:
    """The problem as a user states it, absent groups as None."""
    m, q = layout.m, layout.q
    present = {"G": m, "h": m, "A": q, "b": q, "lower": layout.lower, "upper": layout.upper}
    stacked = {f.name: np.stack([getattr(d, f.name) for d in data]) for f in fields(Data)}
    tensors = {name: torch.from_numpy(a.reshape(*shape, *a.shape[1:])) for name, a in stacked.items()}
    groups = {name: tensors[name] if there else None for name, there in present.items()}
    if layout.curvature == "none":
        return icnn.LP(tensors["p"], **groups)
    return icnn.QP(tensors["Q"], tensors["p"], **groups)


def batches(count: int, seed: int = 0) -> Iterator[Batch]:
    """Batches from consecutive seeds until they hold at least `count` problems."""
    made = 0
    while made < count:
        batch = generate(seed)
        yield batch
        made, seed = made + len(batch.instances), seed + 1


def generate(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    shape = SHAPES[rng.integers(len(SHAPES))]
    layout = draw_layout(rng, shape)
    instances = tuple(draw_instance(rng, layout) for _ in range(math.prod(shape)))
    return Batch(seed, shape, layout, instances)


def draw_layout(rng: Generator, shape: tuple[int, ...]) -> Layout:
    n = int(rng.integers(1, 61))
    curvature = str(rng.choice(["full", "diagonal", "none"], p=[0.5, 0.25, 0.25]))
    if curvature == "diagonal" and shape and n == shape[-1]:
        n += 1  # a (n, n) stack of diagonals would be read as one matrix
    m = int(rng.random() < 0.7) * int(rng.integers(1, 2 * n + 2))
    q = int(rng.random() < 0.6) * int(rng.integers(1, max(2, n // 2) + 1))
    lower, upper = [(False, False), (True, False), (False, True), (True, True)][rng.choice(4, p=[0.2, 0.15, 0.15, 0.5])]
    if curvature == "none" and not (m or lower or upper):
        m = n
    return Layout(n, m, q, lower, upper, curvature)


def draw_instance(rng: Generator, layout: Layout) -> Instance:
    outcomes = [name for name in OUTCOMES if layout.permits(name)]
    weights = np.array([OUTCOMES[name] for name in outcomes])
    outcome = str(rng.choice(outcomes, p=weights / weights.sum()))
    chance = dict.fromkeys(TRAITS, 0.5) | {"scaled": 0.25}
    traits = frozenset(t for t in TRAITS if layout.permits(t) and rng.random() < chance[t])
    data, x = plant(rng, layout, outcome, traits)
    if outcome == "PRIMAL_INFEASIBLE":
        data = contradict(rng, layout, data)
    units = draw_units(rng, layout, "scaled" in traits)
    return Instance(data, units, x, outcome, traits)


def plant(rng: Generator, layout: Layout, outcome: str, traits: frozenset[str]) -> tuple[Data, Array]:
    """Data around a KKT point x: feasible, and optimal unless a direction was opened or bent."""
    n, x = layout.n, rng.normal(size=layout.n)
    fixed = draw_fixed(rng, n) if "fixed" in traits else np.zeros(n, bool)
    direction = draw_direction(rng, fixed) if outcome in ("DUAL_INFEASIBLE", "NONCONVEX") else np.zeros(n)
    Q = draw_hessian(rng, layout, "singular" in traits, direction)
    A = draw_equalities(rng, layout, "redundant" in traits)
    A = clean(A - np.outer(A @ direction, direction) / max(direction @ direction, 1e-300))
    G, s, lam = draw_inequalities(rng, layout, "degenerate" in traits)
    gap, z = draw_bounds(rng, layout, fixed, "degenerate" in traits)
    if outcome == "DUAL_INFEASIBLE":
        fall = np.maximum(G @ direction, 0) + rng.uniform(0, 1, len(G)) * (rng.random(len(G)) < 0.5)
        G = clean(G - np.outer(fall, direction) / (direction @ direction))
        gap = np.where(np.stack((direction < 0, direction > 0)), np.inf, gap)
    if outcome == "NONCONVEX":
        Q = bend(rng, Q, direction)
    z = np.where(np.isfinite(gap), z, 0.0)
    Qx = Q @ x if Q.ndim == 2 else Q * x
    p = -(Qx + A.T @ rng.normal(size=len(A)) + G.T @ lam - z[0] + z[1])
    if outcome == "DUAL_INFEASIBLE":
        p = p - (p @ direction / (direction @ direction) + rng.uniform(0.1, 1)) * direction
    return Data(Q, p, G, G @ x + s, A, A @ x, x - gap[0], x + gap[1]), x


def clean(matrix: Array) -> Array:
    """Without the rounding errors that stand where a projection leaves zero."""
    return np.where(abs(matrix) < 1e-14, 0.0, matrix)


def draw_fixed(rng: Generator, n: int) -> NDArray[np.bool_]:
    """Some variables, at least one, not all."""
    fixed = rng.random(n) < 0.3
    one, other = rng.choice(n, 2, replace=False)
    fixed[one], fixed[other] = True, False
    return fixed


def draw_direction(rng: Generator, fixed: NDArray[np.bool_]) -> Array:
    """Not along a fixed variable, and zero in half of the others."""
    keep = ~fixed & (rng.random(len(fixed)) < 0.5)
    keep[rng.choice(np.flatnonzero(~fixed))] = True
    return np.where(keep, rng.uniform(0.5, 1.5, len(fixed)) * rng.choice([-1, 1], len(fixed)), 0.0)


def draw_hessian(rng: Generator, layout: Layout, singular: bool, direction: Array) -> Array:
    """Positive semidefinite, and flat along the direction."""
    n = layout.n
    if layout.curvature != "full":
        diagonal = rng.uniform(0.1, 2, n) * (layout.curvature == "diagonal") * (direction == 0)
        return diagonal * (rng.random(n) < 0.5) if singular else diagonal
    rank = int(rng.integers(n)) if singular else n
    root = rng.normal(size=(n, rank)) / math.sqrt(n)
    ridge = 0.0 if singular else 10 ** rng.uniform(-2, -0.5)
    flat = np.eye(n) - np.outer(direction, direction) / max(direction @ direction, 1e-300)
    Q = clean(flat @ (root @ root.T + ridge * np.eye(n)) @ flat)
    return 0.5 * (Q + Q.T)


def bend(rng: Generator, Q: Array, direction: Array) -> Array:
    """A Hessian with direction'Q direction < 0 (Q is flat there)."""
    drop = rng.uniform(0.1, 1)
    if Q.ndim == 1:
        return Q - drop * (direction != 0)
    return Q - drop * np.outer(direction, direction) / (direction @ direction)


def draw_equalities(rng: Generator, layout: Layout, redundant: bool) -> Array:
    A = rng.normal(size=(layout.q, layout.n))
    if redundant:
        kept = int(rng.integers(1, layout.q))
        A[kept:] = rng.normal(size=(layout.q - kept, kept)) @ A[:kept] / math.sqrt(kept)
    return A


def draw_inequalities(rng: Generator, layout: Layout, degenerate: bool) -> tuple[Array, Array, Array]:
    """G, slacks, multipliers; at a degenerate vertex all rows are active, some weakly, one repeated."""
    m = layout.m
    G, active = rng.normal(size=(m, layout.n)), rng.random(m) < (1.0 if degenerate else 0.4)
    lam = np.where(active, rng.uniform(0.05, 1, m), 0.0)
    if degenerate:
        lam *= rng.random(m) > 0.33
        G[-1] = 2 * G[0]
    return G, np.where(active, 0.0, rng.uniform(0.05, 1, m)), lam


def draw_bounds(rng: Generator, layout: Layout, fixed: NDArray[np.bool_], degenerate: bool) -> tuple[Array, Array]:
    """Distances to (lower, upper), infinite where there is no bound, and their multipliers; both (2, n)."""
    n = layout.n
    there = np.array([[layout.lower], [layout.upper]]) & (rng.random((2, n)) < 0.7)
    gap = np.where(there, rng.uniform(0.05, 2, (2, n)), np.inf)
    active = there & (rng.random((2, n)) < (0.6 if degenerate else 0.3))
    active[1] &= ~active[0]
    z = np.where(active, rng.uniform(0.05, 1, (2, n)), 0.0)
    if degenerate:
        z *= rng.random((2, n)) > 0.33
    pull = rng.normal(size=n)
    gap = np.where(fixed | active, 0.0, gap)
    return gap, np.where(fixed, np.stack((np.maximum(pull, 0), np.maximum(-pull, 0))), z)


def contradictions(layout: Layout) -> list[str]:
    """The ways in which this layout can be made infeasible."""
    ways = {
        "rows": layout.m > 1,
        "equalities": layout.q > 1,
        "row against bounds": layout.m > 0 and (layout.lower or layout.upper),
        "equality against bounds": layout.q > 0 and (layout.lower or layout.upper),
        "crossed bounds": layout.lower and layout.upper,
    }
    return [name for name, there in ways.items() if there]


def contradict(rng: Generator, layout: Layout, data: Data) -> Data:
    """Replace a row or a bound so that a combination of constraints reads 0 <= -margin."""
    ways, margin = contradictions(layout), rng.uniform(0.1, 1)
    weights = np.array([0.2 if way == "crossed bounds" else 1.0 for way in ways])
    way = str(rng.choice(ways, p=weights / weights.sum()))
    G, h, A, b = data.G.copy(), data.h.copy(), data.A.copy(), data.b.copy()
    if way == "rows":
        y = rng.uniform(0.2, 1, len(h) - 1) * (np.arange(len(h) - 1) < 5)
        G[-1], h[-1] = -y @ G[:-1], -y @ h[:-1] - margin
    elif way == "equalities":
        y = rng.normal(size=len(b) - 1) * (np.arange(len(b) - 1) < 5)
        A[-1], b[-1] = y @ A[:-1], y @ b[:-1] + margin
    elif way == "crossed bounds":
        i = int(rng.integers(layout.n))
        lower, upper = data.lower.copy(), data.upper.copy()
        lower[i], upper[i] = margin, -margin
        return replace(data, lower=lower, upper=upper)
    else:
        data, row, least = least_over_box(rng, layout, data)
        if way == "row against bounds":
            G[-1], h[-1] = row, least - margin
        else:
            A[-1], b[-1] = row, least - margin
    return replace(data, G=G, h=h, A=A, b=b)


def least_over_box(rng: Generator, layout: Layout, data: Data) -> tuple[Data, Array, float]:
    """A row and its least value between the bounds, of which one is made finite where there is none."""
    lower, upper = data.lower.copy(), data.upper.copy()
    if not (np.isfinite(lower).any() or np.isfinite(upper).any()):
        (lower if layout.lower else upper)[0] = 0.0
    row, low, up = rng.uniform(0.5, 1.5, layout.n), np.isfinite(lower), np.isfinite(upper)
    row *= np.where(low & ~(up & (rng.random(layout.n) < 0.5)), 1, -1) * (low | up)
    corner = np.where(row > 0, lower, np.where(row < 0, upper, 0.0))
    return replace(data, lower=lower, upper=upper), row, float(row @ corner)


def draw_units(rng: Generator, layout: Layout, scaled: bool) -> Units:
    """Powers of two between 1e-4 and 1e4 for columns, rows or cost, or several of them."""
    columns, rows, cost = (rng.random(3) < 0.6) & scaled

    def powers(size: int, there: bool) -> Array:
        return np.ldexp(1.0, np.rint(rng.uniform(-13, 13, size)).astype(int) * there)

    return Units(powers(layout.n, columns), powers(layout.m, rows), powers(layout.q, rows), float(powers(1, cost)[0]))
