"""The epigraph program of a piecewise linear network against one that is built here, from the weights, in numpy."""

from typing import Any

import numpy as np
import pytest
import qpsolvers
import scipy.optimize
import scipy.sparse as sp
import torch
from torch import Tensor

import icnn
from icnn import ConvexNetwork
from icnn.certificates.boxes import boxed
from icnn.certificates.ranges import replaced
from icnn.inference.exact import epigraph_program, has_lines
from icnn.inference.tangents import lowest
from icnn.networks import Activation, ConvFICNN, ConvPICNN
from icnn.solvers import LP, QP, SparseQP, Status

NETWORKS = {
    "FICNN": lambda **o: icnn.FICNN(5, (8, 6), **o),
    "without skips": lambda **o: icnn.FICNN(5, (8, 6), skips=False, **o),
    "PICNN": lambda **o: icnn.PICNN(4, 5, (8, 6), **o),
    "affine PICNN": lambda **o: icnn.PICNN(4, 5, (8, 6), coupling=False, **o),
    "ConvFICNN": lambda **o: ConvFICNN((1, 4, 3), ((3, 2, 2),), (5,), **o),
    "ConvPICNN": lambda **o: ConvPICNN((2, 3, 3), (1, 3, 3), ((3, 2, 2),), (5,), **o),
    "ResidualICNN": lambda **o: icnn.ResidualICNN(5, 8, 4, **o),
}
STEEP = Activation(
    "steep",
    lambda v: torch.maximum(torch.maximum(v, 2 * v - 1), torch.zeros_like(v)),
    convex=True,
    nondecreasing=True,
    piecewise_linear=True,
    lines=(((0.0,), 0.0), ((1.0,), 0.0), ((2.0,), -1.0)),
)
ACTIVATIONS = ["relu", icnn.leaky_relu(0.2), icnn.maxout(3), icnn.centred("relu"), STEEP]
every_network = pytest.mark.parametrize("name", NETWORKS)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: getattr(a, "name", a))
dense_and_sparse = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


def build(name: str, activation: str | Activation = "relu", **options) -> ConvexNetwork:
    f = NETWORKS[name](activation=activation, **options).double()
    with torch.no_grad():
        for parameter in f.parameters():  # minima inside the box, on kinks
            parameter.mul_(1.5)
    return f


def context(f: ConvexNetwork, *batch: int) -> Tensor | None:
    return None if f.x_shape is None else torch.randn(*batch, *f.x_shape, dtype=torch.float64)


@torch.no_grad()
def affine(step, z: Tensor | None, y: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W_z, W_y and b of a layer, read off by unit vectors."""
    b = step(z, y)
    W_y = [step(z, axis) - b for axis in torch.eye(y.numel()).to(y).reshape(-1, *y.shape)]
    W_z = [] if z is None else [step(axis, y) - b for axis in torch.eye(z.numel()).to(z).reshape(-1, *z.shape)]
    columns = [np.stack([c.flatten().numpy() for c in W], 1) if W else np.zeros((b.numel(), 0)) for W in (W_z, W_y)]
    return columns[0], columns[1], b.flatten().numpy()


def by_hand(f: ConvexNetwork, x: Tensor | None, low: float, high: float) -> float:
    """min f over a box, in variables y and w_i, the image of layer i: z_i is a sum of them in a residual network."""
    y = torch.zeros(f.y_shape).double()
    n, steps = y.numel(), f.given(x).steps  # pyright: ignore[reportFunctionMemberAccess]
    step_size = f.step if isinstance(f, icnn.ResidualICNN) else None
    g = f.activation
    rows, right, size = [], [], n
    images: list[tuple[int, int]] = []  # place and width of each w
    z = None

    def expression(W_z: np.ndarray, total: int) -> np.ndarray:
        """W_z z in terms of the w."""
        out = np.zeros((len(W_z), total))
        for i, (start, width) in enumerate(images):
            if step_size is None and i < len(images) - 1:
                continue
            out[:, start : start + width] = W_z * (1.0 if step_size is None or i == 0 else step_size)
        return out

    for step in steps[:-1]:
        W_z, W_y, b = affine(step, z, y)
        units = len(b) // g.pieces
        constant = float(g(torch.zeros(1, g.pieces).double() if g.pieces > 1 else torch.zeros(1).double()))
        constant -= max(offset for _, offset in g.lines or ())
        total = size + units
        v = expression(W_z, total)
        v[:, :n] = W_y
        for slopes, offset in g.lines or ():
            mixed = np.einsum("upc,p->uc", v.reshape(units, g.pieces, total), slopes)
            mixed[:, size:] -= np.eye(units)
            rows.append(mixed)
            right.append(-(b.reshape(units, g.pieces) @ np.array(slopes) + offset + constant))
        images.append((size, units))
        size = total
        z = torch.zeros(step(z, y).shape[: None if g.pieces == 1 else -1]).double()
    W_z, W_y, b = affine(steps[-1], z, y)
    cost = expression(W_z, size)[0]
    cost[:n] = W_y[0]
    G = np.concatenate([np.pad(r, ((0, 0), (0, size - r.shape[1]))) for r in rows] or [np.zeros((0, size))])
    h = np.concatenate(right or [np.zeros(0)])
    box = [(low, high)] * n + [(None, None)] * (size - n)
    if f.quadratic is None:
        found = scipy.optimize.linprog(cost, G if len(h) else None, h if len(h) else None, bounds=box, method="highs")
        return found.fun + b[0]
    L, d = (part.weight.detach().numpy() for part in (f.quadratic.factor, f.quadratic.diagonal))  # pyright: ignore
    P = np.zeros((size, size))
    P[:n, :n] = L.T @ L + np.diag(d.flatten())
    ends = [
        np.array([np.inf * s if end is None else end for end in side])
        for s, side in zip((-1, 1), zip(*box, strict=True), strict=True)
    ]
    options: dict[str, Any] = dict(tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    problem = qpsolvers.Problem(sp.csc_matrix(P), cost, sp.csc_matrix(G), h, None, None, *ends)
    x_found = qpsolvers.solve_problem(problem, "clarabel", **options).x
    assert x_found is not None
    return 0.5 * x_found @ P @ x_found + cost @ x_found + b[0]


@every_network
@every_activation
@dense_and_sparse
@pytest.mark.parametrize("options", [{}, dict(quadratic=2)], ids=["linear", "quadratic"])
def test_the_program_has_the_minimum_and_the_forward_pass_its_value(
    name: str, activation, options: dict, sparse: bool
) -> None:
    f = build(name, activation, **options)
    x = context(f, 3)
    instances = boxed(f, x, (-torch.ones(3, *f.y_shape), torch.ones(3, *f.y_shape)))
    energy, lower, upper = instances.energy, instances.lower, instances.upper
    with torch.no_grad():
        epigraph = epigraph_program(energy, lower, upper, sparse)  # pyright: ignore
    assert isinstance(epigraph.program, SparseQP if sparse else QP if options else LP)
    solution = icnn.solve(epigraph.program, on_failure="zero")
    assert bool((solution.status == Status.OPTIMAL).any())
    y = solution.x[:, : lower[0].numel()].reshape(lower.shape)  # pyright: ignore
    with torch.no_grad():
        value, tangent = energy(y), replaced(energy, y, epigraph.lines(solution))  # pyright: ignore
    torch.testing.assert_close(solution.objective + epigraph.constant, value, rtol=1e-8, atol=1e-8)
    for i in range(3):
        expected = by_hand(f, None if x is None else x[i], -1.0, 1.0)
        assert float(value[i]) == pytest.approx(expected, rel=1e-7, abs=1e-7)
    slope = tangent.slope.flatten(1)
    offset = tangent.value - (slope * y.flatten(1)).sum(1)
    bound = lowest(offset, slope, lower.flatten(1), upper.flatten(1))  # pyright: ignore
    torch.testing.assert_close(bound, value, rtol=1e-8, atol=1e-8)


def test_any_multipliers_give_a_function_below() -> None:
    """The lower bound does not rest on the solver."""
    f = build("FICNN", icnn.maxout(3), quadratic=1)
    instances = boxed(f, None, (-torch.ones(1, 5), torch.ones(1, 5)))
    with torch.no_grad():
        epigraph = epigraph_program(instances.energy, instances.lower, instances.upper)  # pyright: ignore
    solution = icnn.solve(epigraph.program)
    y, points = torch.zeros(1, 5).double(), torch.randn(500, 1, 5).double()
    for _ in range(10):
        solution.lam.uniform_(-0.1, 1.0)
        with torch.no_grad():
            tangent = replaced(instances.energy, y, epigraph.lines(solution))  # pyright: ignore
            values = instances.energy(points)
        assert bool((tangent.value + (points * tangent.slope).sum(-1) <= values + 1e-12).all())


def test_which_networks_are_programs() -> None:
    def program(f: ConvexNetwork) -> bool:
        return has_lines(f.given())  # pyright: ignore

    assert program(icnn.FICNN(3, (4,)))
    assert program(icnn.FICNN(3, (), "softplus")), "no activation is in use"
    assert program(icnn.MaxAffine(3))
    assert not program(icnn.LogSumExp(3))
    assert not program(icnn.FICNN(3, (4,), icnn.norm(2)))
    assert not program(icnn.ResidualICNN(3, 4, 2, output="softplus"))
