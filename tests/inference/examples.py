"""Small networks for the tests of inference, and what an independent solver says of them."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse as sp
import torch
from torch import Tensor

import icnn
from icnn import ConvexNetwork

CLARABEL: Any = importlib.import_module("clarabel")  # a binary module without annotations
by_bundle = partial(icnn.argmin, regularizer="entropy", method="bundle")
STEEP = {"relu": 0.0, "leaky_relu": 0.01}
NETWORKS: dict[str, Callable[..., ConvexNetwork]] = {
    "FICNN": lambda **options: icnn.FICNN(5, (8, 6), **options),
    "PICNN": lambda **options: icnn.PICNN(4, 5, (8, 6), **options),
    "ConvPICNN": lambda **options: icnn.ConvPICNN((2, 3, 3), (1, 3, 3), ((3, 2, 2),), (5,), **options),
}


def build(name: str, activation: str = "relu", seed: int = 0) -> ConvexNetwork:
    torch.manual_seed(seed)
    f = NETWORKS[name](activation=activation).double()
    with torch.no_grad():
        for parameter in f.parameters():  # more curvature than at the start of a training
            parameter.mul_(1.5)
    return f


def context(f: ConvexNetwork, *batch: int) -> Tensor | None:
    return None if f.x_shape is None else torch.randn(*batch, *f.x_shape, dtype=torch.float64)


def energy(f: ConvexNetwork, x: Tensor | None, y: Tensor) -> Tensor:
    """f(x, y) - H(y)."""
    inner = tuple(range(-len(f.y_shape), 0))
    return f.given(x)(y) + (torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)).sum(inner)


def layers(f: ConvexNetwork, x: Tensor | None) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(W_z, W_y, b) of every layer at one context, read off by probing with unit vectors."""
    steps = f.given(x).steps  # pyright: ignore[reportFunctionMemberAccess]
    origin = torch.zeros(f.y_shape, dtype=torch.float64)
    axes = torch.eye(origin.numel(), dtype=torch.float64).reshape(-1, *f.y_shape)
    found, z = [], None
    with torch.no_grad():
        for step in steps:
            b = step(z, origin)
            W_y = torch.stack([step(z, axis) - b for axis in axes]).flatten(1).mT
            W_z = torch.zeros(b.numel(), 0, dtype=torch.float64)
            if z is not None:
                units = torch.eye(z.numel(), dtype=torch.float64).reshape(-1, *z.shape)
                W_z = torch.stack([step(unit, origin) - b for unit in units]).flatten(1).mT
            found.append((W_z.numpy(), W_y.numpy(), b.flatten().numpy()))
            z = torch.zeros_like(b)
    return found


def by_cones(f: ConvexNetwork, x: Tensor | None) -> float:
    """min f - H by Clarabel, for ReLU and leaky ReLU: epigraph variables z, exponential cones for the entropy."""
    parts = layers(f, x)
    n, widths = parts[0][1].shape[1], [len(b) for _, _, b in parts[:-1]]
    offsets = np.cumsum([n, *widths])
    size = offsets[-1] + 2 * n
    blocks, right = [], []

    def rows(columns: dict[int, Any], b: np.ndarray) -> None:
        block = sp.lil_matrix((len(b), size))
        for start, M in columns.items():
            block[:, start : start + M.shape[1]] = M
        blocks.append(block)
        right.append(b)

    for i, (W_z, W_y, b) in enumerate(parts[:-1]):
        for slope in (1.0, STEEP[f.activation.name]):  # slope (W_z z + W_y y + b) <= z'
            before = {offsets[i - 1]: slope * W_z} if i else {}
            rows({0: slope * W_y, **before, offsets[i]: -np.eye(len(b))}, -slope * b)
    count = sum(map(len, right))
    for j in range(n):
        unit = np.eye(n)[j : j + 1]
        for sign, start, shift in ((-1, offsets[-1], 0.0), (1, offsets[-1] + n, 1.0)):
            y_row = np.concatenate((0 * unit, sign * unit, 0 * unit))  # (u, y or 1 - y, 1) in the exponential cone
            u_row = np.concatenate((-unit, 0 * unit, 0 * unit))
            rows({0: y_row, start: u_row}, np.array([0.0, shift, 1.0]))
    W_z, W_y, b = parts[-1]
    cost = np.zeros(size)
    cost[:n] = W_y[0]
    if len(parts) > 1:
        cost[offsets[-2] : offsets[-1]] = W_z[0]
    cost[offsets[-1] :] = -1.0
    settings = CLARABEL.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    cones = [CLARABEL.NonnegativeConeT(count)] + [CLARABEL.ExponentialConeT()] * (2 * n)
    A, P = sp.vstack(blocks).tocsc(), sp.csc_matrix((size, size))
    result = CLARABEL.DefaultSolver(P, cost, A, np.concatenate(right), cones, settings).solve()
    assert str(result.status) in ("Solved", "AlmostSolved")
    return result.obj_val + b[0]


def by_bfgs(f: ConvexNetwork, x: Tensor | None) -> float:
    """min f - H of a smooth network by scipy, in logits."""

    def value_and_slope(logits: np.ndarray) -> tuple[float, np.ndarray]:
        u = torch.from_numpy(logits).reshape(f.y_shape).requires_grad_()
        value = energy(f, x, torch.sigmoid(u))
        return value.item(), torch.autograd.grad(value, u)[0].flatten().numpy()

    size = int(np.prod(f.y_shape))
    return scipy.optimize.minimize(value_and_slope, np.zeros(size), jac=True, method="L-BFGS-B", tol=1e-14).fun


def directional(loss: Callable[[], Tensor], parameters: list[Tensor], step: float = 1e-6) -> tuple[float, float]:
    """The derivative of the loss along a random direction of all parameters: by autograd, by central differences."""
    slopes = torch.autograd.grad(loss(), parameters, materialize_grads=True)
    directions = [torch.randn_like(p) for p in parameters]
    ours = sum(float((slope * d).sum()) for slope, d in zip(slopes, directions, strict=True))

    @torch.no_grad()
    def moved(length: float) -> float:
        for p, d in zip(parameters, directions, strict=True):
            p.add_(length * d)
        return float(loss())

    ahead = moved(step)
    behind = moved(-2 * step)
    for p, d in zip(parameters, directions, strict=True):
        p.data.add_(step * d)
    return ours, (ahead - behind) / (2 * step)
