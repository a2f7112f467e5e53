"""The bundle-entropy step for a batch, beside a loop over the instances in numpy.

    python -m benchmarks.bundle [--quick] [--out FILE]

    minimise t - H(y)  subject to  G y + o <= t        k cuts, y in [0, 1]^n

The yardstick solves the same dual in k dimensions by the same method, Mehrotra's predictor-corrector: one
Cholesky factor of a k x k matrix per iteration, and the diagonal y(1 - y) kept as a vector.

"Newton systems alone" is what no Newton method on that dual does without, in batched torch: y = sigmoid(-G'lam), the
matrix G diag(y(1 - y)) G', its Cholesky factor and a solve, as often as icnn made one (the mean over the batch).
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

import icnn

from ._report import arguments, command, machine, round_robin, table, write

Array = NDArray[np.float64]
CELLS = tuple((k, n, 64) for n in (159, 2048) for k in (5, 10, 30))
HEAD = ("k", "n", "batch", "icnn ms", "numpy loop ms", "loop / icnn")
SYSTEMS = ("systems", "Newton systems alone ms", "icnn / systems")
APART = ("y: icnn - numpy", "y: icnn - exact", "y: numpy - exact")
TOL, YARDSTICK_TOL = (
    1e-9,
    1e-10,
)  # ours ends with a Newton step on the active cuts, so is exact to rounding at 1e-9


def main() -> None:
    args = arguments(__doc__ or "", "bundle.md")
    rows = [measure(*cell, rounds=3 if args.quick else 15) for cell in CELLS]
    about = "Medians of runs that take turns in one process; the last columns are the largest differences."
    versions = machine(("torch", "numpy", "scipy"))
    write(args.out, "# Bundle entropy", f"`{command()}`", versions, about, table(HEAD + SYSTEMS + APART, rows))


def measure(k: int, n: int, batch: int, rounds: int) -> list[object]:
    G, o, exact = draw(k, n, batch)
    problem = icnn.EntropyBundle(torch.from_numpy(G), torch.from_numpy(o))
    solution = icnn.solve(problem, tol=TOL)
    ours, theirs = solution.x[:, :-1].numpy(), loop(G, o)
    count = solution.iterations.double().mean().item()
    apart = [f"{abs(a - b).max():.0e}" for a, b in ((ours, theirs), (ours, exact), (theirs, exact))]
    if abs(ours - theirs).max() > 1e-8:
        raise RuntimeError(f"the two disagree by {apart[0]} at k={k}, n={n}")
    runs = {
        "icnn": partial(icnn.solve, problem, tol=TOL),
        "numpy": partial(loop, G, o),
        "system": partial(newton_system, problem.G, solution.lam),
    }
    seconds = round_robin(runs, rounds)
    seconds["systems"] = count * seconds["system"]
    times = [f"{1e3 * seconds[name]:.2f}" for name in ("icnn", "numpy", "systems")]
    ratios = [f"{seconds[a] / seconds[b]:.1f}" for a, b in (("numpy", "icnn"), ("icnn", "systems"))]
    return [k, n, batch, *times[:2], ratios[0], f"{count:.1f}", times[2], ratios[1], *apart]


def draw(k: int, n: int, batch: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Cuts around a known solution: half of them active, the others with a slack above 0.05; t = 0."""
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(batch, k, n))
    active = np.arange(k) < (k + 1) // 2
    lam = np.where(active, rng.uniform(0.3, 1, (batch, k)), 0.0)
    lam /= lam.sum(1, keepdims=True)
    y = expit(-np.einsum("bkn,bk->bn", G, lam))
    slack = np.where(active, 0.0, rng.uniform(0.05, 1, (batch, k)))
    return G, -np.einsum("bkn,bn->bk", G, y) - slack, y


def newton_system(G: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """A step for every instance: the gradient G y, times the inverse of the Hessian."""
    y = torch.sigmoid(-(lam.unsqueeze(-2) @ G).squeeze(-2))
    H = (G * (y * (1 - y)).unsqueeze(-2)) @ G.mT
    return torch.cholesky_solve(G @ y.unsqueeze(-1), torch.linalg.cholesky_ex(H).L)


def loop(G: Array, o: Array) -> Array:
    """One instance after the other."""
    return np.stack([predictor_corrector(G_i, o_i) for G_i, o_i in zip(G, o, strict=True)])


def predictor_corrector(G: Array, o: Array, tol: float = YARDSTICK_TOL, max_iter: int = 50) -> Array:
    """y of one bundle: minimise sum softplus(-G'lam) - o'lam over the simplex.

    Conditions: t - (G y + o) - z = 0 with y = sigmoid(-G'lam),  1'lam = 1,  lam z = 0,  lam, z >= 0. A Newton
    step eliminates dz: (G diag(y(1 - y)) G' + diag(z/lam)) dlam + dt 1 = right side,  1'dlam = given.
    """
    k = len(o)
    lam = np.full(k, 1 / k)
    y = expit(-lam @ G)
    cuts = G @ y + o
    t = cuts.max() + 1
    z = t - cuts
    for _ in range(max_iter):
        r_dual, r_sum, mu = t - cuts - z, lam.sum() - 1, lam @ z / k
        if max(abs(r_dual).max() / (1 + abs(cuts).max()), abs(r_sum), k * mu) <= tol:
            return y
        M = (G * (y * (1 - y))) @ G.T
        M[np.diag_indices(k)] += z / lam
        factor = cho_factor(M, lower=True, check_finite=False)
        column = cho_solve(factor, np.ones(k), check_finite=False)
        newton = partial(newton_step, factor, column, r_dual, r_sum, lam, z)
        dlam, _, dz, alpha = newton(lam * z)
        centring = ((lam + alpha * dlam) @ (z + alpha * dz) / (k * mu)) ** 3
        dlam, dt, dz, alpha = newton(lam * z + dlam * dz - centring * mu)
        lam, t, z = lam + alpha * dlam, t + alpha * dt, z + alpha * dz
        y = expit(-lam @ G)
        cuts = G @ y + o
    raise RuntimeError(f"the yardstick did not converge in {max_iter} iterations")


def newton_step(
    factor: tuple[Array, bool],
    column: Array,
    r_dual: Array,
    r_sum: float,
    lam: Array,
    z: Array,
    r_comp: Array,
) -> tuple[Array, float, Array, float]:
    """dlam, dt, dz and the longest step along them."""
    right = cho_solve(factor, -r_dual - r_comp / lam, check_finite=False)
    dt = (right.sum() + r_sum) / column.sum()
    dlam = right - dt * column
    dz = -(r_comp + z * dlam) / lam
    return dlam, dt, dz, min(longest(lam, dlam), longest(z, dz))


def longest(v: Array, dv: Array) -> float:
    """The step that keeps v positive, at most 1."""
    falling = dv < 0
    return min(1.0, 0.995 * float((-v[falling] / dv[falling]).min(initial=np.inf)))


if __name__ == "__main__":
    main()
