"""How our methods grow: time against batch and against n, peak memory, and what compilation costs.

    python -m benchmarks.growth [--quick] [--methods active_set primal full dual] [--cap SECONDS] [--out FILE]

Forward and backward for all data, float64. Time against the batch at n = 10 and n = 50, and against n at batch 16, for
dense QPs (n inequalities, n / 5 equalities) and for projections onto the simplex, whose Q is diagonal. Peak memory is
that of a fresh process beyond what the data take. A method that does not know a problem is left out there.
Plots go to docs/results/speed/.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from math import nan
from pathlib import Path

from ._contender import Ours
from ._measure import Cell, Maker, Measured, measure
from ._problems import draw
from ._report import command, installed_packages, log, machine, parser, table, write, write_json

PLOTS = Path(__file__).parents[1] / "docs" / "results" / "speed"
METHODS = ("active_set", "primal", "full", "dual", "auto")
BATCHES = tuple(4**k for k in range(7))
SIZES = (5, 10, 20, 50, 100, 200, 500, 1000)
FIRST_CALL = """
import json, sys, time
import torch, icnn
method, seconds = sys.argv[1], []
p = torch.linspace(-1, 1, 10, dtype=torch.float64)
Q = torch.ones_like(p) if method == "dual" else torch.eye(10, dtype=torch.float64)
for _ in range(3):
    leaves = [t.expand(16, *t.shape).clone().requires_grad_() for t in (Q, p)]
    start = time.perf_counter()
    x = icnn.solve(icnn.QP(*leaves, lower=-0.5, upper=0.5), method=method).x
    x.square().sum().backward()
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


def main() -> None:
    args = options()
    makers: dict[str, Maker] = {method: partial(Ours, method=method) for method in args.methods}
    sweeps = {name: run(cells, makers, args.cap) for name, cells in planned(args.quick).items()}
    memory = [(cell, method, peak(cell, method)) for cell, method in remembered(sweeps)]
    compiled = {method: first_calls(method) for method in args.methods}
    for name, measured in sweeps.items():
        plot(args.plots / f"{name}.png", series(measured), *AXES[name.split("-")[0]])
    plot(args.plots / "memory.png", memory_series(memory), "n", "peak memory, MiB")
    write_json(
        args.out,
        {
            "sweeps": {name: [asdict(m) for m in measured] for name, measured in sweeps.items()},
            "memory": memory,
            "first calls": compiled,
        },
    )
    write(
        args.out,
        "# Growth",
        f"`{command()}`",
        machine(installed_packages(("torch", "numba"))),
        "Forward and backward in ms, medians of runs that take turns in one process; peak memory in MiB.",
        *(f"## {TITLES[name]}\n\n{times(measured)}" for name, measured in sweeps.items()),
        f"## Peak memory, batch 16\n\n{memory_table(memory)}",
        f"## First call\n\n{compilation(compiled)}",
    )


def options():
    parse = parser(__doc__ or "", "growth.md")
    parse.add_argument("--methods", nargs="+", default=METHODS, help="as for icnn.solve (default: %(default)s)")
    parse.add_argument("--cap", type=float, default=5.0, help="longest run, in seconds (default: %(default)s)")
    parse.add_argument("--plots", type=Path, default=PLOTS, help="folder (default: %(default)s)")
    return parse.parse_args()


TITLES = {
    "batch-10": "Time against batch, n = 10",
    "batch-50": "Time against batch, n = 50",
    "size-dense": "Time against n, dense, batch 16",
    "size-diagonal": "Time against n, projection onto the simplex, batch 16",
}
AXES = {"batch": ("batch", "ms"), "size": ("n", "ms")}


def planned(quick: bool) -> dict[str, list[Cell]]:
    batches, sizes = (BATCHES[:3], SIZES[:4]) if quick else (BATCHES, SIZES)
    return {
        "batch-10": [dense(10, batch) for batch in batches],
        "batch-50": [dense(50, batch) for batch in batches],
        "size-dense": [dense(n, 16) for n in sizes],
        "size-diagonal": [Cell("simplex", n, 0, 0, 16) for n in sizes],
    }


def dense(n: int, batch: int) -> Cell:
    return Cell("dense", n, n, n // 5, batch)


def run(cells: Sequence[Cell], makers: Mapping[str, Maker], cap: float) -> list[Measured]:
    measured: list[Measured] = []
    for cell in cells:
        measured += measure(cell, makers, measured, cap)
        log.info("%s: %s", cell, ", ".join(f"{m.name} {1e3 * m.both:.1f}" for m in measured if m.cell == cell))
    return measured


def remembered(sweeps: Mapping[str, Sequence[Measured]]) -> Iterator[tuple[Cell, str]]:
    """The runs over n that went well."""
    for name, measured in sweeps.items():
        if name.startswith("size"):
            yield from ((m.cell, m.name) for m in measured if m.right)


def peak(cell: Cell, method: str) -> float:
    """MiB that one forward and backward takes beyond the data, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(high_water, cell, method).result()


def high_water(cell: Cell, method: str) -> float:
    """Run with a small case first, so that libraries are loaded and kernels compiled, then with the cell."""
    Ours(draw(*cell._replace(n=5, m=min(cell.m, 5), q=min(cell.q, 1), batch=2)), method=method).both()
    contender = Ours(draw(*cell), method=method)
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return nan
    reset.write_text("5", encoding="utf-8")  # the high water mark starts again from what is resident now
    before = mark(status)
    contender.both()
    return (mark(status) - before) / 1024


def mark(status: Path) -> float:
    """VmHWM in KiB."""
    lines = status.read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def first_calls(method: str) -> dict[str, list[float]]:
    """Seconds of the first three calls, with an empty cache of compiled kernels and with a filled one."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return {name: first_call(method, environment) for name in ("empty cache", "filled cache")}


def first_call(method: str, environment: Mapping[str, str]) -> list[float]:
    call = [sys.executable, "-c", FIRST_CALL, method]
    done = subprocess.run(call, env=dict(environment), capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else []


def series(measured: Sequence[Measured]) -> dict[str, list[tuple[float, float]]]:
    """For each method (x, milliseconds): x is the batch where it varies, else n."""
    batches = {m.cell.batch for m in measured}
    position: Callable[[Cell], int] = (lambda c: c.batch) if len(batches) > 1 else (lambda c: c.n)
    names = dict.fromkeys(m.name for m in measured)
    return {name: [(position(m.cell), 1e3 * m.both) for m in measured if m.name == name] for name in names}


def memory_series(memory: Sequence[tuple[Cell, str, float]]) -> dict[str, list[tuple[float, float]]]:
    names = dict.fromkeys((cell.family, method) for cell, method, _ in memory)
    return {
        f"{family}, {method}": [(c.n, value) for c, name, value in memory if (c.family, name) == (family, method)]
        for family, method in names
    }


def plot(path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name, points in lines.items():
        there = [(u, v) for u, v in points if v > 0]
        if there:
            axes.loglog(*zip(*there, strict=True), marker="o", markersize=3, label=name)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def times(measured: Sequence[Measured]) -> str:
    """One row per cell, one column per method."""
    names = list(dict.fromkeys(m.name for m in measured if m.right))
    found = {(m.cell, m.name): m for m in measured}
    rows = [
        [c.n, c.m, c.q, c.batch, *(milliseconds(found[c, name]) for name in names)]
        for c in dict.fromkeys(m.cell for m in measured)
    ]
    return table(["n", "m", "q", "batch", *names], rows)


def milliseconds(m: Measured) -> str:
    return f"{1e3 * m.both:.2f}" if m.right else ""


def memory_table(memory: Sequence[tuple[Cell, str, float]]) -> str:
    names = list(dict.fromkeys(method for _, method, _ in memory))
    found = {(cell, method): f"{value:.1f}" for cell, method, value in memory}
    rows = [
        [c.family, c.n, *(found.get((c, name), "") for name in names)] for c in dict.fromkeys(c for c, *_ in memory)
    ]
    return table(["family", "n", *names], rows)


def compilation(compiled: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Milliseconds; n = 10, batch 16, bounds."""
    rows = [
        [method, cache, *(f"{1e3 * value:.1f}" for value in seconds)]
        for method, caches in compiled.items()
        for cache, seconds in caches.items()
        if seconds
    ]
    return table(("method", "compiled kernels", "first call ms", "second ms", "third ms"), rows)


if __name__ == "__main__":
    main()
