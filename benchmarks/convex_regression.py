"""Convex regression: every positivity map and start of ours, and what others do.

    python -m benchmarks.convex_regression [--networks] [--quick] [--seeds N] [--dimensions D …] [--out FILE]

Nine convex functions in d = 5, 10, 20 and 50 dimensions, observed with noise (5 % of the standard deviation) at 4,000
points; the score is the root mean squared error against the function itself at 5,000 others, relative to its standard
deviation. Networks have three hidden layers of 64 ReLU units and 2,000 steps of Adam, batch 256, one step length for
all. "best" is the best map and start of the fifteen for that very row, chosen by the test error: an oracle. Results are
kept in a JSON file beside the report, cell by cell; the same command continues.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import exp, log
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ._convex_targets import TARGETS, regression
from ._regressors import DEFAULT, NETWORKS, OTHERS, OURS, Fit
from ._report import command, machine, parser, table, write, write_json

DIMENSIONS, TRAIN, TEST = (5, 10, 20, 50), 4000, 5000
PROCESSES = 2
GROUPS: Mapping[bool, Mapping[str, Fit]] = {False: {**OURS, **OTHERS}, True: NETWORKS}  # by --networks

Cell = tuple[str, int, int]  # target, d, seed
Errors = Mapping[str, float]  # of each fit


def main() -> None:
    options = parser(__doc__ or "", "convex_regression.md")
    options.add_argument("--networks", action="store_true", help="our architectures and activations instead")
    options.add_argument("--seeds", type=int, default=3, help="problems and starts of each row (default: %(default)s)")
    options.add_argument("--dimensions", type=int, nargs="+", default=DIMENSIONS, help="(default: %(default)s)")
    args = options.parse_args()
    if args.networks:
        args.out = args.out.with_stem(f"{args.out.stem}_networks")
    dimensions, seeds = ((5,), 1) if args.quick else (args.dimensions, args.seeds)
    cells = [(target, d, seed) for seed in range(seeds) for d in dimensions for target in TARGETS]
    found = measured(cells, args.networks, args.out.with_suffix(".json"))
    rows = {(target, d): averaged([found[target, d, seed] for seed in range(seeds)]) for target, d, _ in cells}
    heading = ("# Convex regression", f"`{command()}`; seeds: {seeds}", machine(("torch", "scikit-learn")))
    if args.networks:
        tables = [table_of(rows, d, {name: name for name in NETWORKS}) for d in dimensions]
        write(args.out, *heading, relative_table(rows), *tables)
    else:
        draw(args.out.with_suffix(".png"), rows)
        write(args.out, *heading, about(rows), *(targets_table(rows, d) for d in dimensions), relative_table(rows))


def measured(cells: list[Cell], networks: bool, file: Path) -> dict[Cell, Errors]:
    """The errors of all fits in all cells; those that the file holds are not measured again."""
    held = json.loads(file.read_text()) if file.exists() else {}
    left = [cell for cell in cells if key(cell) not in held]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for cell, errors in pool.map(partial(measure, networks), left):
            held[key(cell)] = errors
            write_json(file, held)
    return {cell: held[key(cell)] for cell in cells}


def key(cell: Cell) -> str:
    return " / ".join(map(str, cell))


def measure(networks: bool, cell: Cell) -> tuple[Cell, Errors]:
    torch.set_num_threads(1)
    target, d, seed = cell
    data = regression(target, d, seed, TRAIN, TEST)
    errors = {}
    for name, fit in GROUPS[networks].items():
        torch.manual_seed(seed)
        errors[name] = fit(data)
    return cell, errors


def averaged(errors: list[Errors]) -> dict[str, float]:
    """Means over the seeds."""
    return {name: fmean(one[name] for one in errors) for name in errors[0]}


def best(row: Errors) -> str:
    return min(OURS, key=lambda name: row[name])


Rows = Mapping[tuple[str, int], Errors]


def about(rows: Rows) -> str:
    ratios = {place: row[DEFAULT] / row[best(row)] for place, row in rows.items()}
    within = sum(ratio <= 1.1 for ratio in ratios.values())
    (target, d), worst = max(ratios.items(), key=lambda item: item[1])
    return (
        f"The default ({DEFAULT}) is within 10 % of the best of the fifteen maps and starts in {within} of {len(rows)} "
        f"rows; farthest from it, by a factor of {worst:.2f}, at {target} in {d} dimensions."
    )


def targets_table(rows: Rows, d: int) -> str:
    """One row for each target."""
    head = ("target", "default", "best map and start", "default / best", *OTHERS)
    lines = []
    for (target, dimension), row in rows.items():
        if dimension == d:
            winner = best(row)
            ratio = f"{row[DEFAULT] / row[winner]:.2f}"
            others = (f"{row[name]:.3f}" for name in OTHERS)
            lines.append((target, f"{row[DEFAULT]:.3f}", f"{row[winner]:.3f} ({winner})", ratio, *others))
    return f"## d = {d}\n\n{table(head, lines)}"


def table_of(rows: Rows, d: int, columns: Mapping[str, str]) -> str:
    """One row for each target; columns: what each is called."""
    lines = [(t, *(f"{row[name]:.3f}" for name in columns)) for (t, dimension), row in rows.items() if dimension == d]
    return f"## d = {d}\n\n{table(('target', *columns.values()), lines)}"


def relative_table(rows: Rows) -> str:
    """Every fit against the default: the geometric mean of the ratio of errors in each dimension."""
    dimensions = sorted({d for _, d in rows})
    lines = []
    for name in next(iter(rows.values())):
        logs = {at: [log(row[name] / row[DEFAULT]) for (_, d), row in rows.items() if d == at] for at in dimensions}
        lines.append((name, *(f"{exp(fmean(logs[at])):.2f}" for at in dimensions)))
    head = ("fit", *(f"d = {d}" for d in dimensions))
    return f"## Error relative to the default, geometric mean over the targets\n\n{table(head, lines)}"


def draw(file: Path, rows: Rows) -> None:
    """One panel for each dimension, one group of points for each target."""
    dimensions = sorted({d for _, d in rows})
    figure = Figure(figsize=(10, 2.6 * len(dimensions)), layout="constrained")
    panels = figure.subplots(len(dimensions), squeeze=False)[:, 0]
    names = list(TARGETS)
    for axes, d in zip(panels, dimensions, strict=True):
        at = [rows[target, d] for target in names]
        axes.semilogy([row[best(row)] for row in at], "_", color="k", markersize=22, label="best map and start of ours")
        axes.semilogy([row[DEFAULT] for row in at], "o", color="C3", label=f"default ({DEFAULT})")
        for number, name in enumerate(OTHERS):
            axes.semilogy([row[name] for row in at], "x+123v^"[number], color=f"C{number + 4}", alpha=0.8, label=name)
        axes.set(title=f"d = {d}", ylabel="RMSE / sd", ylim=(None, 2))
        axes.set_xticks(range(len(names)), names)
    panels[0].legend(fontsize="x-small", ncol=4)
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
