"""Forward and backward through a QP layer, beside the peers: time, residual, gradient error, and who is fastest.

    python -m benchmarks.layers [--quick] [--families dense box simplex] [--cells 50,50,10:128 ...]
                                [--only moreau ...] [--cap SECONDS] [--out FILE]

float64, loss |x - target|^2 / 2, gradient for all data. The problems are made so that the exact solution and the exact
gradient are known. The libraries take turns in one process; medians are compared. A library that is not installed is
left out; one that is predicted to need more than the cap for one run, from its time for a smaller batch, is skipped.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from ._contender import Ours
from ._measure import RIGHT, Cell, Measured, measure
from ._peers import CONTENDERS, installed
from ._problems import FAMILIES
from ._report import command, installed_packages, log, machine, parser, table, write, write_json

SIZES = {
    "dense": {
        (10, 5, 0): (1, 16, 128, 512),
        (10, 10, 2): (1, 16, 128, 512),
        (50, 50, 10): (1, 16, 128, 512),
        (100, 100, 20): (1, 16, 128),
        (200, 200, 40): (1, 16, 128),
        (500, 200, 0): (1, 16),
    },
    **{name: {(n, 0, 0): (1, 16, 128) if n < 1000 else (1,) for n in (50, 500, 10**4, 10**5)}
       for name in ("box", "simplex")},
}  # fmt: skip
QUICK = (("dense", 10, 5, 0, 16), ("dense", 50, 50, 10, 16), ("box", 50, 0, 0, 16), ("simplex", 50, 0, 0, 16))
BUDGETS = {10**4: 10e-3, 10**5: 100e-3}  # seconds, for a projection alone
GOALS = {
    "dense": {
        10: {1: 1.0, 16: 3.0, 128: 6.0, 512: 6.0}, 50: {128: 3.0, 512: 3.0}, 100: {128: 3.0}, 200: {16: 2.0},
        500: {16: 2.0},
    },
    **{name: {50: {128: 10.0}, 500: {128: 20.0}} for name in ("box", "simplex")},
}  # fmt: skip
PACKAGES = ("torch", "numba", "moreau", "proxsuite", "qpax", "jax", "libdqp", "daqp", "piqp", "cvxpylayers")
TORCH = {contender.name for contender in CONTENDERS if contender.speaks_torch}
HEAD = ("family", "n", "m", "q", "batch")
DETAILS = ("library", "forward ms", "forward + backward ms", "times ours", "KKT residual", "gradient error", "")
VERDICT = (
    "ours ms", "fastest right peer", "its ms", "ratio", "fastest right torch layer", "its ms", "ratio", "goal", "",
)  # fmt: skip


def main() -> None:
    args = options()
    measured: list[Measured] = []
    for cell in map(Cell._make, QUICK) if args.quick else cells(args.families, args.cells):
        contenders = {c.name: c for c in installed(args.only) if c.fits(cell.n, cell.batch)}
        measured += measure(cell, contenders, measured, args.cap)
        log.info("%s", table(DETAILS, [details(m, measured) for m in measured if m.cell == cell]))
    write_json(args.out, [asdict(m) for m in measured])
    write(
        args.out,
        "# QP layers, forward and backward",
        f"`{command()}`",
        machine(installed_packages(PACKAGES)),
        f"Medians of runs that take turns in one process. A peer is right if its scaled KKT residual and the relative "
        f"error of its gradient are at most {RIGHT:.0e}; the ratio is the time, forward and backward, of the fastest "
        f"one that is right to ours.",
        table(HEAD + VERDICT, [verdict(cell, measured) for cell in dict.fromkeys(m.cell for m in measured)]),
        "## All libraries",
        table(HEAD + DETAILS, [[*m.cell, *details(m, measured)] for m in measured]),
    )


def options() -> argparse.Namespace:
    parse = parser(__doc__ or "", "layers.md")
    parse.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="kinds of problem")
    parse.add_argument("--cells", nargs="+", type=size, default=[], metavar="n,m,q:batch", help="these sizes alone")
    parse.add_argument("--only", nargs="+", default=[], metavar="NAME", help="peers whose name contains one of these")
    parse.add_argument("--cap", type=float, default=8.0, help="longest run, in seconds (default: %(default)s)")
    return parse.parse_args()


def size(text: str) -> tuple[int, int, int, int]:
    """n, m, q, batch."""
    numbers, _, batch = text.partition(":")
    n, m, q = (int(part) for part in numbers.split(","))
    return n, m, q, int(batch)


def cells(families: Sequence[str], chosen: Sequence[tuple[int, int, int, int]]) -> Iterator[Cell]:
    for family in families:
        planned = [(*size, batch) for size, batches in SIZES[family].items() for batch in batches]
        yield from (Cell(family, *numbers) for numbers in chosen or planned)


def ours(cell: Cell, measured: list[Measured]) -> Measured:
    return next(m for m in measured if m.cell == cell and m.name == Ours.name)


def details(m: Measured, measured: list[Measured]) -> list[object]:
    if m.note:
        return [m.name, "", "", "", "", "", m.note]
    numbers = f"{1e3 * m.forward:.2f}", f"{1e3 * m.both:.2f}", f"{m.both / ours(m.cell, measured).both:.2f}"
    return [m.name, *numbers, f"{m.residual:.0e}", f"{m.gradient:.0e}", "" if m.right else "not right"]


def verdict(cell: Cell, measured: list[Measured]) -> list[object]:
    """Ours against the fastest peer that is right, or against the budget, and whether the goal is met."""
    family, n, _, _, batch = cell
    mine = ours(cell, measured)
    right = [m for m in measured if m.cell == cell and m.name != Ours.name and m.right]
    best, torch = fastest(right, mine), fastest([m for m in right if m.name in TORCH], mine)
    goal, reached = GOALS[family].get(n, {}).get(batch), best[-1]
    wanted = "" if goal is None else f"{goal:.0f}"
    met = goal is not None and isinstance(reached, float) and reached >= goal
    if family != "dense" and n in BUDGETS:
        goal, wanted, met = BUDGETS[n], f"{1e3 * BUDGETS[n]:.0f} ms", mine.both <= BUDGETS[n]
    outcome = "" if goal is None else "met" if met and mine.right else "missed"
    return [*cell, f"{1e3 * mine.both:.2f}", *map(shown, (*best, *torch)), wanted, outcome]


def fastest(right: list[Measured], mine: Measured) -> tuple[object, ...]:
    """Its name, its milliseconds, and how often ours fits into them."""
    if not right:
        return "none", "", ""
    best = min(right, key=lambda m: m.both)
    return best.name, 1e3 * best.both, best.both / mine.both


def shown(value: object) -> object:
    return f"{value:.2f}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
