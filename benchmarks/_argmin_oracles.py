"""The minima of the random problems by Clarabel, from cone programs that are built here from the weights alone.

Every layer is read off by probing with unit vectors, every unit is a variable z ≥ g(v):

    lines        z ≥ s v + o                           softplus      exp(v - z) + exp(-z) ≤ 1
    squareplus   |(v, 2)| ≤ 2z - v                     squared_relu  r ≥ 0, r ≥ v, r² ≤ z
    elu          z ≥ t - 1 + b,  t ≥ exp(a),  v ≤ a + b,  a ≤ 0 ≤ b
    log-sum-exp  Σ exp((v_i - z) / T) ≤ 1

All of them increase, and what carries z on is not negative, so that at a minimum they hold with equality.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

import icnn

from ._argmin_cases import Array, Case, Feasible, Phi

CLARABEL: Any = importlib.import_module("clarabel")  # a binary module without annotations
TOL = 1e-11
SLOPES = {"relu": 0.0, "leaky_relu": 0.01, "steeper": 0.2}
TEMPERATURE = 0.5


class Answer(NamedTuple):
    """OPTIMAL, DUAL_INFEASIBLE (unbounded below) or why there is none; the optimal values; the minimiser."""

    outcome: str
    primal: float
    dual: float
    y: Array


class Affine:
    """M v + c of the variables v of a program, of which there may be more than M has columns."""

    def __init__(self, M: Array, c: Array) -> None:
        self.M, self.c = M, c

    def __len__(self) -> int:
        return len(self.c)

    def __getitem__(self, rows: Any) -> "Affine":
        return Affine(self.M[rows], self.c[rows])

    def __add__(self, other: "Affine | Array | float") -> "Affine":
        if not isinstance(other, Affine):
            return Affine(self.M, self.c + other)
        size = max(self.M.shape[1], other.M.shape[1])
        return Affine(self.wide(size) + other.wide(size), self.c + other.c)

    def __sub__(self, other: "Affine") -> "Affine":
        return self + -1.0 * other

    def __rmul__(self, factor: float) -> "Affine":
        return Affine(factor * self.M, factor * self.c)

    def image(self, W: Array) -> "Affine":
        return Affine(W @ self.M, W @ self.c)

    def wide(self, size: int) -> Array:
        return np.pad(self.M, ((0, 0), (0, size - self.M.shape[1])))


class Program:
    """A cost to minimise over variables, subject to affine images in cones."""

    def __init__(self) -> None:
        self.size = 0
        self.parts: list[tuple[Any, Affine]] = []

    def variables(self, count: int) -> Affine:
        M = np.eye(count, self.size + count, self.size)
        self.size += count
        return Affine(M, np.zeros(count))

    def zero(self, a: Affine) -> None:
        self.parts.append((CLARABEL.ZeroConeT(len(a)), a))

    def nonnegative(self, a: Affine) -> None:
        self.parts.append((CLARABEL.NonnegativeConeT(len(a)), a))

    def norm(self, *rows: Affine) -> None:
        """The norm of all others is at most the first."""
        a = stacked(rows)
        self.parts.append((CLARABEL.SecondOrderConeT(len(a)), a))

    def exponential(self, a: Affine, t: Affine, scale: Affine | None = None) -> None:
        """scale exp(a / scale) ≤ t, entry by entry; scale 1 by default."""
        for i in range(len(a)):
            one = Affine(0 * a.M[:1], np.ones(1)) if scale is None else scale[i : i + 1]
            self.parts.append((CLARABEL.ExponentialConeT(), stacked((a[i : i + 1], one, t[i : i + 1]))))

    def minimise(self, cost: Affine, P: Array) -> tuple[str, float, float, Array]:
        """cost (one entry) + ½ v'Pv: status, primal and dual value, v."""
        settings = CLARABEL.DefaultSettings()
        settings.verbose = False
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = TOL
        settings.max_iter = 400
        wide = np.zeros((self.size, self.size))
        wide[: len(P), : len(P)] = P
        A = sp.csc_matrix(-np.concatenate([a.wide(self.size) for _, a in self.parts]))
        b = np.concatenate([a.c for _, a in self.parts])
        cones = [cone for cone, _ in self.parts]
        P_upper = sp.csc_matrix(np.triu(wide))
        found = CLARABEL.DefaultSolver(P_upper, cost.wide(self.size)[0], A, b, cones, settings).solve()
        return str(found.status), found.obj_val + cost.c[0], found.obj_val_dual + cost.c[0], np.array(found.x)


def stacked(rows: Any) -> Affine:
    size = max(a.M.shape[1] for a in rows)
    return Affine(np.concatenate([a.wide(size) for a in rows]), np.concatenate([a.c for a in rows]))


def oracle(case: Case, index: int) -> Answer:
    """What Clarabel says of one instance."""
    program, n = Program(), len(case.sets[index].lower)
    y = program.variables(n)
    cost = epigraph(program, case, case.context(index), y) + y.image(case.slope(index)[None])
    P = curvature(case.f, n)
    confine(program, y, case.sets[index])
    extra, cost = regularise(program, y, cost, case.phis[index])
    status, primal, dual, found = program.minimise(cost, P + extra)
    outcomes = {"Solved": "OPTIMAL", "AlmostSolved": "OPTIMAL", "DualInfeasible": "DUAL_INFEASIBLE"}
    return Answer(outcomes.get(status, status), primal, dual, found[:n])


def epigraph(program: Program, case: Case, x: Tensor | None, y: Affine) -> Affine:
    """f without its quadratic term, as one entry."""
    f, z, held = case.f, None, None
    step_size = f.step if isinstance(f, icnn.ResidualICNN) else None
    steps = f.given(x).steps  # pyright: ignore[reportFunctionMemberAccess]
    above = BOUNDS[case.activation]
    for number, step in enumerate(steps):
        W_z, W_y, b = probed(step, held, f.y_shape)
        v = y.image(W_y) + b.numpy().ravel()
        v = v if z is None else v + z.image(W_z)
        if number == len(steps) - 1:
            return top(program, case, v)
        image = above(program, v)
        z = image if z is None or step_size is None else z + step_size * image
        held = torch.zeros(b.shape[:-1] if case.activation == "maxout" else b.shape, dtype=torch.float64)
    raise AssertionError("a network has layers")


def top(program: Program, case: Case, v: Affine) -> Affine:
    if case.network == "MaxAffine":
        return largest(program, v, len(v))
    if case.network == "LogSumExp":
        return softest(program, v)
    return v if case.f.output is None else BOUNDS[case.activation](program, v)


@torch.no_grad()
def probed(step: Any, z: Tensor | None, y_shape: tuple[int, ...]) -> tuple[Array, Array, Tensor]:
    """W_z, W_y and b of a layer."""
    origin = torch.zeros(y_shape, dtype=torch.float64)
    b = step(z, origin)

    def columns(images: list[Tensor]) -> Array:
        return torch.stack([(image - b).flatten() for image in images], -1).numpy()

    W_y = columns([step(z, e) for e in torch.eye(origin.numel()).double().reshape(-1, *y_shape)])
    if z is None:
        return W_y[:, :0], W_y, b
    return columns([step(e, origin) for e in torch.eye(z.numel()).double().reshape(-1, *z.shape)]), W_y, b


@torch.no_grad()
def curvature(f: icnn.ConvexNetwork, n: int) -> Array:
    """Q of ½ y'Qy, by polarisation."""
    if f.quadratic is None:
        return np.zeros((n, n))
    q, axes = f.quadratic(torch.zeros(1).double()), torch.eye(n).double().reshape(-1, *f.y_shape)
    sums = torch.stack([torch.stack([q(a + b) - q(a - b) for b in axes]) for a in axes])
    return (0.5 * sums).numpy()


def confine(program: Program, y: Affine, feasible: Feasible) -> None:
    low, up = np.isfinite(feasible.lower), np.isfinite(feasible.upper)
    program.nonnegative(y[low] + -feasible.lower[low])
    program.nonnegative(-1.0 * y[up] + feasible.upper[up])
    program.nonnegative(-1.0 * y.image(feasible.G) + feasible.h)
    program.zero(y.image(feasible.A) + -feasible.b)
    if np.isfinite(feasible.radius):
        program.norm(Affine(np.zeros((1, 1)), np.array([feasible.radius])), y + -feasible.centre)


def regularise(program: Program, y: Affine, cost: Affine, phi: Phi) -> tuple[Array, Affine]:
    """What φ adds to P, and the cost with the rest of it."""
    n = len(y)
    if phi.kind != "entropy":
        tilt = y.image(-phi.weight * phi.centre[None]) + 0.5 * phi.weight * phi.centre @ phi.centre
        return phi.weight * np.eye(n), cost + tilt
    p = (y + -phi.origin).image(np.diag(np.broadcast_to(1 / phi.size, n)))
    for share in [p] if phi.size.ndim == 0 else [p, -1.0 * p + 1.0]:
        u = program.variables(n)  # u ≤ -p log p
        program.exponential(u, Affine(np.zeros((n, 1)), np.ones(n)), share)
        cost = cost + u.image(np.full((1, n), -phi.weight))
    return np.zeros((n, n)), cost


def lined(slope: float) -> Callable[[Program, Affine], Affine]:
    def above(program: Program, v: Affine) -> Affine:
        z = program.variables(len(v))
        program.nonnegative(z - v)
        program.nonnegative(z - slope * v)
        return z

    return above


def largest(program: Program, v: Affine, pieces: int = 3) -> Affine:
    z = program.variables(len(v) // pieces)
    for piece in range(pieces):
        program.nonnegative(z - v[piece::pieces])
    return z


def softest(program: Program, v: Affine) -> Affine:
    z, t = program.variables(1), program.variables(len(v))
    program.exponential((1 / TEMPERATURE) * (v - z.image(np.ones((len(v), 1)))), t)
    program.nonnegative(t.image(-np.ones((1, len(v)))) + 1.0)
    return z


def softplus(program: Program, v: Affine) -> Affine:
    z, s, t = (program.variables(len(v)) for _ in range(3))
    program.exponential(v - z, s)
    program.exponential(-1.0 * z, t)
    program.nonnegative(-1.0 * (s + t) + 1.0)
    return z


def squareplus(program: Program, v: Affine) -> Affine:
    z = program.variables(len(v))
    for i in range(len(v)):
        one = slice(i, i + 1)
        program.norm(2.0 * z[one] - v[one], v[one], Affine(np.zeros((1, 1)), np.array([2.0])))
    return z


def squared_relu(program: Program, v: Affine) -> Affine:
    r, z = program.variables(len(v)), program.variables(len(v))
    program.nonnegative(r)
    program.nonnegative(r - v)
    for i in range(len(v)):  # 4r² + (z - 1)² ≤ (z + 1)²
        one = slice(i, i + 1)
        program.norm(z[one] + 1.0, 2.0 * r[one], z[one] + -1.0)
    return z


def elu(program: Program, v: Affine) -> Affine:
    a, b, t = (program.variables(len(v)) for _ in range(3))
    program.nonnegative(-1.0 * a)
    program.nonnegative(b)
    program.nonnegative(a + b - v)
    program.exponential(a, t)
    return t + b + -1.0


BOUNDS: dict[str, Callable[[Program, Affine], Affine]] = {
    **{name: lined(slope) for name, slope in SLOPES.items()},
    "maxout": largest,
    "softplus": softplus,
    "squareplus": squareplus,
    "squared_relu": squared_relu,
    "elu": elu,
}
