"""Sparse QPs of model predictive control, forward and backward, beside the peers; and one with 50,000 variables.

    python -m benchmarks.sparse [--quick] [--out FILE]

    minimise sum_k x_k'W x_k / 2 + p'x   subject to   s_{k+1} = Ad s_k + Bd u_k,  |x| <= bound,   x = (u_0, s_1, ...)

float64, batch 8, every instance with dynamics of its own; loss |x - target|^2, gradients for all data (Ad, Bd, the
initial state, p, the diagonal W, the bounds). The libraries take turns in one process; medians are compared. A library
that is not installed is left out. The exact gradient comes from an LU of the KKT matrix of the active set.
"""

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu
from torch import Tensor

import icnn

from ._report import arguments, command, installed_packages, log, machine, round_robin, table, write

STATES, CONTROLS, BATCH = 12, 4, 8
HORIZONS, LARGE = (20, 60), 3125
RIGHT = 1e-6
PACKAGES = ("torch", "piqp", "clarabel", "highspy", "qdldl", "libdqp", "moreau", "cvxpylayers", "diffcp")
HEAD = (
    "n", "equalities", "bounds", "library", "forward ms", "forward + backward ms", "times ours", "KKT residual",
    "error of x", "gradient error", "",
)  # fmt: skip


class Leaves(NamedTuple):
    """What the gradient is asked for: (batch, ...)."""

    Ad: Tensor
    Bd: Tensor
    start: Tensor
    p: Tensor
    W: Tensor
    bound: Tensor


class Point(NamedTuple):
    """x, the multipliers of A x = b and those of (x <= bound, -x <= bound); None where a library keeps them."""

    x: Tensor
    nu: Tensor | None = None
    lam: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Mpc:
    """A batch of problems: the leaves, and the pattern of A with where each of its values comes from."""

    horizon: int
    leaves: Leaves
    target: Tensor
    rows: Tensor
    columns: Tensor
    source: Tensor
    sign: Tensor

    @property
    def batch(self) -> int:
        return len(self.target)

    @property
    def n(self) -> int:
        return self.target.shape[1]

    @property
    def q(self) -> int:
        return self.horizon * STATES

    def A_values(self, leaves: Leaves) -> Tensor:
        one = torch.ones(self.batch, 1, dtype=torch.float64)
        return torch.cat((one, leaves.Ad.flatten(1), leaves.Bd.flatten(1)), 1)[:, self.source] * self.sign

    def b(self, leaves: Leaves) -> Tensor:
        first = (leaves.Ad @ leaves.start.unsqueeze(-1)).squeeze(-1)
        return torch.nn.functional.pad(first, (0, self.q - STATES))

    def A(self, values: Tensor, i: int) -> sp.csc_matrix:
        entries = (values[i].detach().numpy(), (self.rows.numpy(), self.columns.numpy()))
        return sp.csc_matrix(entries, shape=(self.q, self.n))


def draw(horizon: int, batch: int, seed: int = 0) -> Mpc:
    """Random stable dynamics; the bounds leave room for the free response, so that every instance is feasible."""
    rng, stage = np.random.default_rng(seed), STATES + CONTROLS
    n = horizon * stage
    Ad = rng.normal(size=(batch, STATES, STATES))
    Ad *= (0.9 / np.abs(np.linalg.eigvals(Ad)).max(1))[:, None, None]
    Bd = rng.normal(size=(batch, STATES, CONTROLS)) / np.sqrt(CONTROLS)
    state = start = rng.normal(size=(batch, STATES))
    W, p, target = rng.uniform(0.1, 1, (batch, n)), 1.5 * rng.normal(size=(batch, n)), rng.normal(size=(batch, n))
    bound = np.tile(np.repeat((0.5, 1.2), (CONTROLS, STATES)), (batch, horizon))
    for k in range(horizon):
        state = np.einsum("bij,bj->bi", Ad, state)
        part = slice(k * stage + CONTROLS, (k + 1) * stage)
        bound[:, part] = np.maximum(bound[:, part], 1.15 * np.abs(state) + 0.05)
    leaves = Leaves(*map(torch.from_numpy, (Ad, Bd, start, p, W, np.concatenate((bound, bound), 1))))
    return Mpc(horizon, leaves, torch.from_numpy(target), *pattern(horizon))


def pattern(horizon: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, columns, source in (1, Ad, Bd) and sign of the entries of A, row by row: s_{k+1} - Ad s_k - Bd u_k."""
    stage, i = STATES + CONTROLS, np.arange(STATES)[:, None]
    from_Ad = 1 + i * STATES + np.arange(STATES)
    from_Bd = 1 + STATES**2 + i * CONTROLS + np.arange(CONTROLS)
    source = np.concatenate((from_Ad, from_Bd, 0 * i), 1)
    columns = np.concatenate((np.arange(-STATES, CONTROLS) + 0 * i, CONTROLS + i), 1)
    sign = np.where(np.arange(stage + 1) < stage, -1.0, 1.0) + 0.0 * i
    step = np.arange(horizon)[:, None, None]
    parts = np.broadcast_arrays(step * STATES + i, step * stage + columns, source[None], sign[None])
    rows, columns, source, sign = (part.ravel() for part in parts)
    kept = columns >= 0
    rows, columns, source, sign = (torch.from_numpy(part[kept]) for part in (rows, columns, source, sign))
    return rows, columns, source, sign


Layer = Callable[[Leaves], Point]


def ours(mpc: Mpc) -> Layer:
    batch, n = torch.arange(mpc.batch), mpc.n
    each, diagonal = len(mpc.rows), torch.arange(n).repeat(mpc.batch)
    A_index = torch.stack((batch.repeat_interleave(each), mpc.rows.repeat(mpc.batch), mpc.columns.repeat(mpc.batch)))
    Q_index = torch.stack((batch.repeat_interleave(n), diagonal, diagonal))

    def solve(leaves: Leaves) -> Point:
        coo = partial(torch.sparse_coo_tensor, is_coalesced=True, check_invariants=False)
        A = coo(A_index, mpc.A_values(leaves).flatten(), (mpc.batch, mpc.q, n))
        Q = coo(Q_index, leaves.W.flatten(), (mpc.batch, n, n))
        upper, lower = leaves.bound[:, :n], -leaves.bound[:, n:]
        found = icnn.solve(icnn.SparseQP(Q, leaves.p, A=A, b=mpc.b(leaves), lower=lower, upper=upper))
        return Point(found.x, found.nu, torch.cat((found.lam_upper, found.lam_lower), -1))

    return solve


def dqp(mpc: Mpc, tolerance: float | None) -> Layer:
    """dQP with PIQP; it names no instance of a batch, prints, and takes a list of matrices."""
    with quiet():
        from dqp import dQP  # pyright: ignore[reportMissingImports]

        options = {} if tolerance is None else dict(eps_abs=tolerance, eps_rel=tolerance, eps_active=1e-5)
        settings = dQP.build_settings(solve_type="sparse", qp_solver="piqp", lin_solver="scipy SPLU", **options)
        layer = dQP.dQP_layer(settings=settings)
    order = sp.csc_matrix((np.arange(1, len(mpc.rows) + 1), (mpc.rows, mpc.columns)), shape=(mpc.q, mpc.n))
    box = sp.vstack((sp.eye(mpc.n), -sp.eye(mpc.n))).tocsc()
    permutation, ones = torch.from_numpy(order.data - 1), torch.from_numpy(box.data)
    diagonal = torch.arange(mpc.n + 1), torch.arange(mpc.n)

    def csc(M: Any, values: Tensor) -> Tensor:
        starts, rows = (torch.from_numpy(part.astype(np.int64)) for part in (M.indptr, M.indices))
        return torch.sparse_csc_tensor(starts, rows, values, size=M.shape)

    def solve(leaves: Leaves) -> Point:
        A = [csc(order, values) for values in mpc.A_values(leaves)[:, permutation]]
        Q = [torch.sparse_csc_tensor(*diagonal, W, size=(mpc.n, mpc.n)) for W in leaves.W]
        G = [csc(box, ones.clone()) for _ in range(mpc.batch)]
        vectors = (leaves.p, leaves.bound, mpc.b(leaves))
        p, h, b = (v.unsqueeze(-1) for v in vectors)
        with quiet():
            x, nu, lam, *_ = layer(Q, p, G, h, A, b)
        return Point(*(v.reshape(mpc.batch, -1) for v in (x, nu, lam)))

    return solve


def moreau(mpc: Mpc, tolerance: float | None) -> Layer:
    import moreau as package  # pyright: ignore[reportMissingImports]
    from moreau.torch import Solver  # pyright: ignore[reportMissingImports]

    shape = (mpc.q, mpc.n)
    A = sp.csr_matrix((np.arange(1, len(mpc.rows) + 1), (mpc.rows, mpc.columns)), shape=shape)
    order = torch.from_numpy(A.data - 1)
    box = sp.vstack((sp.eye(mpc.n), -sp.eye(mpc.n))).tocsr()
    rows = sp.vstack((A, box)).tocsr()
    pattern = (np.arange(mpc.n + 1), np.arange(mpc.n), rows.indptr, rows.indices)
    index = [torch.from_numpy(part.astype(np.int64)) for part in pattern]
    settings: dict[str, Any] = dict(device="cpu", batch_size=mpc.batch, enable_grad=True, method="ipm")
    if tolerance is not None:
        tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance)
        settings["ipm_settings"] = package.IPMSettings(**tolerances, diff_method="exact")
    cones = package.Cones(num_zero_cones=mpc.q, num_nonneg_cones=2 * mpc.n)
    solver = Solver(mpc.n, mpc.q + 2 * mpc.n, *index, cones=cones, settings=package.Settings(**settings))
    ones = torch.from_numpy(box.data).expand(mpc.batch, -1)

    def solve(leaves: Leaves) -> Point:
        values = torch.cat((mpc.A_values(leaves)[:, order], ones), 1)
        right = torch.cat((mpc.b(leaves), leaves.bound), 1)
        found = solver.solve(leaves.W.contiguous(), values, leaves.p, right)
        return Point(found.x, found.z[:, : mpc.q], found.z[:, mpc.q :])

    return solve


def cvxpylayers(mpc: Mpc) -> Layer:
    """Through cvxpy, with Clarabel; gives no multipliers."""
    import cvxpy as cp  # pyright: ignore[reportMissingImports]
    from cvxpylayers.torch import CvxpyLayer  # pyright: ignore[reportMissingImports]

    n, stage = mpc.n, STATES + CONTROLS
    Ad, Bd, start = cp.Parameter((STATES, STATES)), cp.Parameter((STATES, CONTROLS)), cp.Parameter(STATES)
    p, root, bound = cp.Parameter(n), cp.Parameter(n, nonneg=True), cp.Parameter(2 * n)
    x, state = cp.Variable(n), cp.Variable(STATES)
    constraints = [state == start, x <= bound[:n], -x <= bound[n:]]
    for k in range(mpc.horizon):
        u, state_next = x[k * stage : k * stage + CONTROLS], x[k * stage + CONTROLS : (k + 1) * stage]
        constraints.append(state_next == Ad @ state + Bd @ u)
        state = state_next
    objective = cp.Minimize(0.5 * cp.sum_squares(cp.multiply(root, x)) + p @ x)
    layer = CvxpyLayer(cp.Problem(objective, constraints), [Ad, Bd, start, p, root, bound], [x], solver="DIFFCP")
    options = dict(solve_method="Clarabel")

    def solve(leaves: Leaves) -> Point:
        data = leaves._replace(W=leaves.W.sqrt())
        return Point(layer(*data, solver_args=options)[0])

    return solve


def contenders(mpc: Mpc) -> dict[str, Layer]:
    """Ours and every peer that is installed, each with its defaults and as tight as it goes."""
    makers: dict[str, tuple[str, Callable[[Mpc], Layer]]] = {
        "dQP, PIQP": ("dqp pandas piqp", partial(dqp, tolerance=None)),
        "dQP, PIQP, 1e-12": ("dqp pandas piqp", partial(dqp, tolerance=1e-12)),
        "moreau, interior point": ("moreau", partial(moreau, tolerance=None)),
        "moreau, interior point, 1e-11": ("moreau", partial(moreau, tolerance=1e-11)),
        "cvxpylayers, Clarabel": ("cvxpylayers diffcp", cvxpylayers),
    }
    found = {"icnn": ours(mpc)}
    for name, (needs, make) in makers.items():
        if all(importlib.util.find_spec(package) is not None for package in needs.split()):
            found[name] = make(mpc)
    return found


def forward(layer: Layer, mpc: Mpc) -> Point:
    with torch.no_grad():
        return layer(mpc.leaves)


def both(layer: Layer, mpc: Mpc) -> tuple[Point, Leaves]:
    leaves = Leaves(*(t.detach().clone().requires_grad_() for t in mpc.leaves))
    point = layer(leaves)
    (point.x - mpc.target).square().sum().backward()
    return point, Leaves(*(torch.zeros_like(t) if t.grad is None else t.grad for t in leaves))


def measure(mpc: Mpc, rounds: int) -> list[list[object]]:
    """One row per library for one size."""
    layers = contenders(mpc)
    exact, expected = reference(mpc, forward(layers["icnn"], mpc))
    quality = {name: judged(layer, mpc, exact, expected) for name, layer in layers.items()}  # also warms up
    alone = round_robin({name: partial(forward, layer, mpc) for name, layer in layers.items()}, rounds)
    together = round_robin({name: partial(both, layer, mpc) for name, layer in layers.items()}, rounds)
    rows = []
    for name, (residual, x_error, gradient_error) in quality.items():
        times = f"{1e3 * alone[name]:.1f}", f"{1e3 * together[name]:.1f}", f"{together[name] / together['icnn']:.2f}"
        right = max(residual or 0.0, x_error, gradient_error) <= RIGHT
        numbers = "" if residual is None else f"{residual:.0e}", f"{x_error:.0e}", f"{gradient_error:.0e}"
        rows.append([mpc.n, mpc.q, 2 * mpc.n, name, *times, *numbers, "" if right else "not right"])
    return rows


def judged(layer: Layer, mpc: Mpc, exact: Point, expected: Leaves) -> tuple[float | None, float, float]:
    """The KKT residual, the largest error of x, and the relative error of the gradient over all data."""
    point, found = both(layer, mpc)
    errors = torch.stack([torch.linalg.vector_norm(f - e) for f, e in zip(found, expected, strict=True)])
    size = torch.stack([torch.linalg.vector_norm(e) for e in expected]).norm()
    return kkt_residual(mpc, point), float((point.x.detach() - exact.x).abs().max()), float(errors.norm() / size)


def kkt_residual(mpc: Mpc, point: Point) -> float | None:
    """Largest violation of an optimality condition, absolute."""
    if point.nu is None or point.lam is None:
        return None
    values, b, worst = mpc.A_values(mpc.leaves), mpc.b(mpc.leaves).numpy(), 0.0
    for i in range(mpc.batch):
        A, n = mpc.A(values, i), mpc.n
        x, nu, lam = (v[i].detach().numpy() for v in (point.x, point.nu, point.lam))
        W, p, bound = (v[i].numpy() for v in (mpc.leaves.W, mpc.leaves.p, mpc.leaves.bound))
        slack = bound - np.concatenate((x, -x))
        stationarity = W * x + p + A.T @ nu + lam[:n] - lam[n:]
        conditions = (stationarity, A @ x - b[i], np.minimum(slack, 0), np.minimum(lam, 0), lam * slack)
        worst = max(worst, *(float(np.abs(c).max()) for c in conditions))
    return worst


def reference(mpc: Mpc, near: Point) -> tuple[Point, Leaves]:
    """The exact point and gradient, by LU on the active set of a point that the KKT residual then confirms."""
    leaves = Leaves(*(t.detach().clone().requires_grad_() for t in mpc.leaves))
    values, b = mpc.A_values(leaves), mpc.b(leaves)
    assert near.lam is not None
    each = [reference_of(mpc, values, b, near.lam[i].numpy() > 0, i) for i in range(mpc.batch)]
    stacked = (torch.from_numpy(np.stack(part)) for part in zip(*each, strict=True))
    x, nu, lam, A_bar, b_bar, p_bar, W_bar, bound_bar = stacked
    point = Point(x, nu, lam)
    residual = kkt_residual(mpc, point)
    if residual is None or residual > 1e-10:
        raise RuntimeError(f"the reference is not a solution: its KKT residual is {residual}")
    torch.autograd.backward((values, b), (A_bar, b_bar))
    Ad_bar, Bd_bar, start_bar = (torch.zeros_like(t) if t.grad is None else t.grad for t in leaves[:3])
    return point, Leaves(Ad_bar, Bd_bar, start_bar, p_bar, W_bar, bound_bar)


def reference_of(mpc: Mpc, values: Tensor, b: Tensor, active: np.ndarray, i: int) -> tuple[np.ndarray, ...]:
    n, q, A = mpc.n, mpc.q, mpc.A(values, i)
    W, p, bound = (v[i].numpy() for v in (mpc.leaves.W, mpc.leaves.p, mpc.leaves.bound))
    box: Any = sp.vstack((sp.eye(n), -sp.eye(n))).tocsr()
    C: Any = sp.vstack((A, box[active]))
    M = sp.bmat([[sp.diags(W), C.T], [C, None]]).tocsc()
    factor = splu(M)

    def solve(r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z = factor.solve(r)
        z += factor.solve(r - M @ z)
        rows = np.zeros(2 * n)
        rows[active] = z[n + q :]
        return z[:n], z[n : n + q], rows

    x, nu, lam = solve(np.concatenate((-p, b[i].detach().numpy(), bound[active])))
    x_bar = 2 * (x - mpc.target[i].numpy())
    c_x, c_nu, c_lam = solve(-np.concatenate((x_bar, np.zeros(C.shape[0]))))
    rows, columns = mpc.rows.numpy(), mpc.columns.numpy()
    A_bar = c_nu[rows] * x[columns] + nu[rows] * c_x[columns]
    return x, nu, lam, A_bar, -c_nu, c_x, c_x * x, -c_lam


@contextlib.contextmanager
def quiet() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def large() -> list[object]:
    """n = 50,000, with gradients, in a process of its own: seconds and peak memory."""
    code = "from benchmarks.sparse import solve_large; solve_large()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    numbers = [f"{found[name]:.2f}" for name in ("forward", "backward", "peak")]
    return [found["n"], found["q"], 2 * found["n"], *numbers, f"{found['kkt']:.0e}", f"{found['gradient']:.0e}"]


def solve_large() -> None:
    """One line of JSON on the standard output; the second of two runs is timed, the peak is that of both."""
    mpc = draw(LARGE, batch=1)
    layer = ours(mpc)
    for _ in range(2):
        leaves = Leaves(*(t.detach().clone().requires_grad_() for t in mpc.leaves))
        times = [time.perf_counter()]
        point = layer(leaves)
        times.append(time.perf_counter())
        (point.x - mpc.target).square().sum().backward()
        times.append(time.perf_counter())
    peak = peak_memory()
    exact, expected = reference(mpc, forward(layer, mpc))
    residual, _, gradient = judged(layer, mpc, exact, expected)
    record = dict(n=mpc.n, q=mpc.q, forward=times[1] - times[0], backward=times[2] - times[1], peak=peak)
    sys.stdout.write(json.dumps(record | dict(kkt=residual, gradient=gradient)) + "\n")


def peak_memory() -> float:
    """GB of this process alone; that of `resource` counts the process which started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main() -> None:
    args = arguments(__doc__ or "", "sparse.md")
    rows: list[list[object]] = []
    for horizon in HORIZONS[:1] if args.quick else HORIZONS:
        rows += measure(draw(horizon, BATCH, seed=horizon), 3 if args.quick else 11)
        log.info("%s", table(HEAD, rows))
    parts = [
        "# Sparse QPs, forward and backward",
        f"`{command()}`",
        machine(installed_packages(PACKAGES)),
        f"Model predictive control, batch {BATCH}, gradients for all data. Medians of runs that take turns in one "
        f"process. Right means: KKT residual, error of x and relative error of the gradient are at most {RIGHT:.0e}.",
        table(HEAD, rows),
    ]
    if not args.quick:
        head = ("n", "equalities", "bounds", "forward s", "backward s", "peak GB", "KKT residual", "gradient error")
        parts += ["## One large problem (icnn)", table(head, [large()])]
    write(args.out, *parts)


if __name__ == "__main__":
    main()
