"""QPs whose solution and gradient are known: what the layers are measured on.

A dense QP is built around a KKT point with strict complementarity, and its gradient solves the KKT system of the known
active set; projections onto a box and onto the simplex have closed forms. All of this is numpy, one instance at a
time, and shares nothing with a solver. The loss is |x - target|^2 / 2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating]
Indices = NDArray[np.integer]
Data = dict[str, Tensor]
CHECKED = 8  # instances of a batch whose gradient is compared


class Point(NamedTuple):
    """A solution with its multipliers, (batch, ...); a group that is not there has zero length."""

    x: Tensor
    nu: Tensor
    lam: Tensor
    lam_lower: Tensor
    lam_upper: Tensor


@dataclass(frozen=True)
class Case:
    """min x'Qx/2 + p'x  s.t.  G x <= h,  A x = b,  lower <= x <= upper, a batch of them.

    data: by the names that `icnn.QP` gives them, float64; a vector Q is a diagonal, and data without the batch
        dimension are shared.
    wanted: the data whose gradient is asked for, all of them batched.
    expected: that gradient, at the instances `checked`.
    """

    family: str
    data: Data
    wanted: tuple[str, ...]
    target: Tensor
    exact: Point
    expected: Data

    @property
    def batch(self) -> int:
        return len(self.target)

    @property
    def n(self) -> int:
        return self.target.shape[1]

    @property
    def size(self) -> tuple[int, int, int]:
        """n and the numbers of rows of G and A."""
        m, q = (self.data[name].shape[-2] if name in self.data else 0 for name in ("G", "A"))
        return self.n, m, q

    @property
    def checked(self) -> Indices:
        return spread(self.batch)


def spread(batch: int) -> Indices:
    """Indices of at most CHECKED instances, from the first to the last."""
    return np.unique(np.linspace(0, batch - 1, CHECKED).astype(int))


def dense(n: int, m: int, q: int, batch: int, seed: int = 0) -> Case:
    """Every second inequality is active; slack or multiplier is at least 0.05."""
    rng = np.random.default_rng(seed)
    root = rng.uniform(size=(batch, n, n))
    Q = root @ root.swapaxes(1, 2) + 10 ** rng.uniform(-3, -1, (batch, 1, 1)) * np.eye(n)
    G, A = rng.normal(size=(batch, m, n)), rng.normal(size=(batch, q, n))
    x, nu, target = rng.normal(size=(batch, n)), rng.normal(size=(batch, q)), rng.normal(size=(batch, n))
    margin, active = rng.uniform(0.05, 1, (batch, m)), np.arange(m) % 2 == 0
    lam, s = np.where(active, margin, 0.0), np.where(active, 0.0, margin)
    p = -sum(np.einsum("bij,bi->bj", M, v) for M, v in ((Q, x), (G, lam), (A, nu)))
    data = {"Q": Q, "p": p, "G": G, "h": np.einsum("bij,bj->bi", G, x) + s}
    if q:
        data |= {"A": A, "b": np.einsum("bij,bj->bi", A, x)}
    gradients = [adjoint(Q[i], G[i], A[i], x[i], lam[i], nu[i], x[i] - target[i]) for i in spread(batch)]
    expected = {name: np.stack([gradient[name] for gradient in gradients]) for name in data}
    empty = np.zeros((batch, 0))
    return case("dense", data, tuple(data), target, (x, nu, lam, empty, empty), expected)


def adjoint(Q: Array, G: Array, A: Array, x: Array, lam: Array, nu: Array, x_bar: Array) -> dict[str, Array]:
    """The gradient for all data from the cotangent of x, on the active set lam > 0."""
    active, n, q = lam > 0, len(x), len(nu)
    C = np.concatenate((G[active], A))
    M = np.block([[Q, C.T], [C, np.zeros((len(C), len(C)))]])
    c = -np.linalg.solve(M, np.concatenate((x_bar, np.zeros(len(C)))))
    c_x, c_lam, c_nu = c[:n], np.zeros_like(lam), c[len(c) - q :]
    c_lam[active] = c[n : len(c) - q]
    G_bar, A_bar = (np.outer(u, c_x) + np.outer(c_u, x) for u, c_u in ((lam, c_lam), (nu, c_nu)))
    Q_bar = 0.5 * (np.outer(c_x, x) + np.outer(x, c_x))
    return {"Q": Q_bar, "p": c_x, "G": G_bar, "h": -c_lam, "A": A_bar, "b": -c_nu}


def box(n: int, batch: int, seed: int = 0) -> Case:
    """min |x - z|^2 / 2 over lower <= x <= upper: x = clip(z), about half of the bounds active."""
    rng = np.random.default_rng(seed)
    z, target = 2 * rng.normal(size=(batch, n)), rng.normal(size=(batch, n))
    lower, upper = -rng.uniform(0.2, 1.5, (batch, n)), rng.uniform(0.2, 1.5, (batch, n))
    x, empty = np.clip(z, lower, upper), np.zeros((batch, 0))
    x_bar = x - target
    expected = {"p": -x_bar * (x == z), "lower": x_bar * (z < lower), "upper": x_bar * (z > upper)}
    data = {"Q": np.ones(n), "p": -z, "lower": lower, "upper": upper}
    multipliers = empty, empty, np.maximum(lower - z, 0), np.maximum(z - upper, 0)
    return case("box", data, ("p", "lower", "upper"), target, (x, *multipliers), pick(expected, spread(batch)))


def simplex(n: int, batch: int, seed: int = 0) -> Case:
    """min |x - z|^2 / 2 over x >= 0, sum x = b: x = (z - t)^+, about half of the entries positive at n = 50."""
    rng = np.random.default_rng(seed)
    z, target = rng.normal(size=(batch, n)) * 2.5 / np.sqrt(n), rng.normal(size=(batch, n))
    b = rng.uniform(0.8, 1.2, (batch, 1))
    ordered = -np.sort(-z, 1)
    excess = (ordered.cumsum(1) - b) / np.arange(1, n + 1)
    t = np.take_along_axis(excess, (ordered > excess).sum(1, keepdims=True) - 1, 1)
    x, empty = np.maximum(z - t, 0), np.zeros((batch, 0))
    x_bar, free = x - target, x > 0
    b_bar = (x_bar * free).sum(1, keepdims=True) / free.sum(1, keepdims=True)
    expected = {"p": free * (b_bar - x_bar), "b": b_bar}
    data = {"Q": np.ones(n), "p": -z, "A": np.ones((1, n)), "b": b, "lower": np.zeros(n)}
    exact = x, t, empty, np.maximum(t - z, 0), empty
    return case("simplex", data, ("p", "b"), target, exact, pick(expected, spread(batch)))


def pick(arrays: dict[str, Array], rows: Indices) -> dict[str, Array]:
    return {name: array[rows] for name, array in arrays.items()}


def case(
    family: str,
    data: dict[str, Array],
    wanted: tuple[str, ...],
    target: Array,
    exact: tuple[Array, ...],
    expected: dict[str, Array],
) -> Case:
    """From numpy to torch."""

    def tensors(arrays: dict[str, Array]) -> Data:
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    point = Point(*(torch.from_numpy(array) for array in exact))
    return Case(family, tensors(data), wanted, torch.from_numpy(target), point, tensors(expected))


def draw(family: str, n: int, m: int, q: int, batch: int) -> Case:
    """A case of one of the FAMILIES; the projections have no m and q to choose."""
    return FAMILIES[family](n, m, q, batch)


def projection(make: Callable[[int, int], Case], n: int, m: int, q: int, batch: int) -> Case:
    return make(n, batch)


FAMILIES: dict[str, Callable[[int, int, int, int], Case]] = {
    "dense": dense,
    "box": partial(projection, box),
    "simplex": partial(projection, simplex),
}


def residual(case: Case, point: Point) -> float:
    """Largest violation of an optimality condition over the batch, each relative to its terms (and to at least 1)."""
    x, nu, lam, lam_lower, lam_upper = point
    data, Q = case.data, case.data["Q"]
    terms = [Q * x if Q.dim() == 1 else times(Q, x), data["p"].expand_as(x)]
    slacks, multipliers, equalities = [], [], []
    for matrix, right, multiplier in (("G", "h", lam), ("A", "b", nu)):
        if matrix in data:
            terms.append(times(data[matrix].mT, multiplier))
            kept = slacks if right == "h" else equalities
            kept.append((data[right] - times(data[matrix], x)) / largest(data[right]))
    if lam.shape[-1]:
        multipliers.append(lam)
    for name, multiplier, sign in (("lower", lam_lower, -1.0), ("upper", lam_upper, 1.0)):
        if name in data:
            terms.append(sign * multiplier)
            slacks.append(sign * (data[name] - x) / largest(data[name]))
            multipliers.append(multiplier)
    cost = torch.stack([largest(term) for term in terms]).amax(0)
    conditions = [torch.stack(terms).sum(0) / cost, *equalities]
    for s, u in zip(slacks, multipliers, strict=True):
        conditions += [s.clamp(max=0), u.clamp(max=0) / cost, u * s / cost]
    return float(torch.stack([condition.abs().max() for condition in conditions]).max())  # nan stays nan


def times(M: Tensor, v: Tensor) -> Tensor:
    return (M @ v.unsqueeze(-1)).squeeze(-1)


def largest(v: Tensor) -> Tensor:
    """max(1, |v|), (*batch, 1)."""
    return v.abs().amax(-1, keepdim=True).clamp_min(1.0)


def gradient_error(case: Case, gradients: Data) -> float:
    """Relative error over all the data wanted, at the checked instances."""
    rows = torch.from_numpy(case.checked)
    found = {name: gradients[name][rows] for name in case.wanted}
    if "Q" in found:
        found["Q"] = 0.5 * (found["Q"] + found["Q"].mT)
    errors = [torch.linalg.vector_norm(found[name] - case.expected[name]) for name in case.wanted]
    sizes = [torch.linalg.vector_norm(case.expected[name]) for name in case.wanted]
    return float(torch.stack(errors).norm() / torch.stack(sizes).norm())
