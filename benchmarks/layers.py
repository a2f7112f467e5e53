"""Forward and backward through a dense QP layer, beside proxsuite's: time, residual, gradient error.

    python -m benchmarks.layers [--quick] [--out FILE]

float64, loss |x - target|^2 / 2, gradient for all data. The problems are built around a KKT point with strict
complementarity, so the exact solution and the exact gradient are known. The libraries take turns in one
process; medians are compared. A library that is not installed is left out.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import icnn

from ._report import arguments, command, machine, round_robin, table, write

LARGE = ((10, 5, 0, 128), (10, 10, 2, 128), (50, 50, 10, 128), (100, 100, 20, 128))
SMALL = ((10, 5, 0, 1), (50, 50, 10, 1), (50, 50, 10, 16), (100, 100, 20, 16))
QUICK = ((10, 5, 0, 128), (50, 50, 10, 16))
HEAD = ("n", "m", "q", "batch", "library", "forward ms", "forward + backward ms", "times ours")
QUALITY = ("KKT residual", "gradient error")
CHECKED = 8  # instances whose gradient is compared


class Data(NamedTuple):
    """min x'Qx/2 + p'x  s.t.  G x <= h,  A x = b, each with one leading batch dimension."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor


class Point(NamedTuple):
    x: Tensor
    lam: Tensor
    nu: Tensor


Layer = Callable[[Data], Point]


def main() -> None:
    args = arguments(__doc__ or "", "layers.md")
    layers = contenders()
    rows = [
        row
        for cell in (QUICK if args.quick else LARGE + SMALL)
        for row in measure(*cell, layers, 5 if args.quick else 15)
    ]
    packages = ["torch"] + ["proxsuite"] * ("proxsuite" in layers)
    about = "Medians of runs that take turns in one process; the last columns are what each answer was worth."
    write(
        args.out,
        "# QP layers, forward and backward",
        f"`{command()}`",
        machine(packages),
        about,
        table(HEAD + QUALITY, rows),
    )


def contenders() -> dict[str, Layer]:
    found: dict[str, Layer] = {"icnn": ours}
    if importlib.util.find_spec("proxsuite") is not None:
        found["proxsuite"] = partial(proxsuite_layer, parallel=False)
        found["proxsuite, parallel"] = partial(proxsuite_layer, parallel=True)
    return found


def ours(data: Data) -> Point:
    equalities = dict(A=data.A, b=data.b) if data.b.shape[-1] else {}
    solution = icnn.solve(icnn.QP(data.Q, data.p, data.G, data.h, **equalities))
    return Point(solution.x, solution.lam, solution.nu)


def proxsuite_layer(data: Data, parallel: bool) -> Point:
    from proxsuite.torch.qplayer import QPFunction  # pyright: ignore[reportMissingImports]

    lower = torch.full_like(data.h, -1e20)
    layer = QPFunction(omp_parallel=parallel)
    x, nu, lam = layer(data.Q, data.p, data.A, data.b, data.G, lower, data.h)
    return Point(x, lam, nu)


def draw(n: int, m: int, q: int, batch: int, seed: int = 0) -> tuple[Data, Point]:
    """Problems around a KKT point; every second inequality is active, with slack or multiplier above 0.05."""
    rng = np.random.default_rng(seed)
    root = rng.uniform(size=(batch, n, n))
    Q = root @ root.swapaxes(1, 2) + 10 ** rng.uniform(-3, -1, (batch, 1, 1)) * np.eye(n)
    G, A = rng.normal(size=(batch, m, n)), rng.normal(size=(batch, q, n))
    x, nu = rng.normal(size=(batch, n)), rng.normal(size=(batch, q))
    margin, active = rng.uniform(0.05, 1, (batch, m)), np.arange(m) % 2 == 0
    lam, s = np.where(active, margin, 0.0), np.where(active, 0.0, margin)
    h, b = np.einsum("bij,bj->bi", G, x) + s, np.einsum("bij,bj->bi", A, x)
    p = -sum(np.einsum("bij,bi->bj", M, v) for M, v in ((Q, x), (G, lam), (A, nu)))
    return Data(*map(torch.from_numpy, (Q, p, G, h, A, b))), Point(*map(torch.from_numpy, (x, lam, nu)))


def measure(n: int, m: int, q: int, batch: int, layers: dict[str, Layer], rounds: int) -> list[list[object]]:
    """One row per library for one size."""
    data, exact = draw(n, m, q, batch)
    target = torch.from_numpy(np.random.default_rng(1).normal(size=(batch, n)))
    expected = exact_gradient(data, exact, target)
    quality = {name: judged(layer, data, target, expected) for name, layer in layers.items()}  # also warms up
    forward = round_robin({name: partial(layer, data) for name, layer in layers.items()}, rounds)
    both = round_robin({name: partial(gradient, layer, data, target) for name, layer in layers.items()}, rounds)
    return [
        [n, m, q, batch, name, f"{1e3 * forward[name]:.2f}", f"{1e3 * both[name]:.2f}",
         f"{both[name] / both['icnn']:.2f}", *(f"{value:.0e}" for value in quality[name])]
        for name in layers
    ]  # fmt: skip


def gradient(layer: Layer, data: Data, target: Tensor) -> tuple[Point, Data]:
    leaves = Data(*(t.detach().requires_grad_() for t in data))
    point = layer(leaves)
    (0.5 * (point.x - target).square().sum()).backward()
    grads = Data(*(torch.zeros_like(t) if t.grad is None else t.grad for t in leaves))
    return Point(*(t.detach() for t in point)), grads


def judged(layer: Layer, data: Data, target: Tensor, expected: Data) -> tuple[float, float]:
    """The KKT residual over the batch and the relative error of the gradient over the checked instances."""
    point, grads = gradient(layer, data, target)
    found = grads._replace(Q=0.5 * (grads.Q + grads.Q.mT))
    errors = [torch.linalg.vector_norm(f[:CHECKED] - e) for f, e in zip(found, expected, strict=True)]
    sizes = [torch.linalg.vector_norm(e) for e in expected]
    return kkt_residual(data, point), float(torch.stack(errors).norm() / torch.stack(sizes).norm())


def kkt_residual(data: Data, point: Point) -> float:
    """Largest violation of an optimality condition, absolute."""
    x, lam, nu = (v.unsqueeze(-1) for v in point)
    s = data.h.unsqueeze(-1) - data.G @ x
    stationarity = data.Q @ x + data.p.unsqueeze(-1) + data.G.mT @ lam + data.A.mT @ nu
    conditions = (stationarity, data.A @ x - data.b.unsqueeze(-1), s.clamp(max=0), lam.clamp(max=0), lam * s)
    return max(float(c.abs().max()) for c in conditions if c.numel())


def exact_gradient(data: Data, point: Point, target: Tensor) -> Data:
    """The adjoint on the known active set, one instance at a time, in numpy."""
    count = min(CHECKED, len(target))
    grads = [exact_gradient_of(i, data, point, target) for i in range(count)]
    return Data(*(torch.from_numpy(np.stack(parts)) for parts in zip(*grads, strict=True)))


def exact_gradient_of(i: int, data: Data, point: Point, target: Tensor) -> tuple[np.ndarray, ...]:
    Q, _, G, h, A, b = (t[i].numpy() for t in data)
    x, lam, nu = (t[i].numpy() for t in point)
    active, n = lam > 0, len(x)
    C = np.concatenate((G[active], A))
    M = np.block([[Q, C.T], [C, np.zeros((len(C), len(C)))]])
    c = -np.linalg.solve(M, np.concatenate((x - target[i].numpy(), np.zeros(len(C)))))
    c_x, c_lam, c_nu = c[:n], np.zeros_like(h), c[len(c) - len(b) :]
    c_lam[active] = c[n : len(c) - len(b)]
    Q_bar = 0.5 * (np.outer(c_x, x) + np.outer(x, c_x))
    G_bar, A_bar = (np.outer(u, c_x) + np.outer(c_u, x) for u, c_u in ((lam, c_lam), (nu, c_nu)))
    return Q_bar, c_x, G_bar, -c_lam, A_bar, -c_nu


if __name__ == "__main__":
    main()
