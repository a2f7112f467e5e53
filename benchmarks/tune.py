"""Where each method takes over: the table behind the thresholds of method="auto".

    python -m benchmarks.tune [--quick] [--compiled active_set] [--torch primal dual] [--cap SECONDS] [--out FILE]

Forward and backward for all data, for dense QPs (n inequalities, n / 5 equalities) and for projections onto a box and
onto the simplex, whose Q is diagonal, at batch 1, 16 and 128. The threshold of a compiled method is the largest n up to
which it is faster than every torch method; a method that does not know a problem is left out there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

from ._contender import Ours
from ._measure import Cell, Maker, Measured, measure
from ._report import command, installed_packages, log, machine, parser, table, write, write_json

BATCHES = (1, 16, 128)
SIZES = (5, 10, 20, 35, 50, 70, 100, 150, 200, 300, 500, 1000)
FAMILIES = ("dense", "box", "simplex")
LARGEST = 2e7  # entries of Q in a batch


def main() -> None:
    args = options()
    makers: dict[str, Maker] = {name: partial(Ours, method=name) for name in (*args.compiled, *args.torch)}
    measured: list[Measured] = []
    for cells in sweeps(SIZES[:4] if args.quick else SIZES):
        before: list[Measured] = []
        for cell in cells:
            before += measure(cell, makers, before, args.cap)
            log.info("%s: %s", cell, ", ".join(f"{m.name} {1e3 * m.both:.2f}" for m in before if m.cell == cell))
        measured += before
    write_json(args.out, [asdict(m) for m in measured])
    write(
        args.out,
        "# Where each method takes over",
        f"`{command()}`",
        machine(installed_packages(("torch", "numba"))),
        "## Largest n up to which a compiled method is faster than every torch method",
        table(["family", "batch", *args.compiled], suggestions(measured, args.compiled, args.torch)),
        "## Forward and backward, ms",
        table(["family", "n", "m", "q", "batch", *makers, "fastest"], list(rows(measured, list(makers)))),
    )


def options():
    parse = parser(__doc__ or "", "tune.md")
    parse.add_argument("--compiled", nargs="+", default=["active_set"], help="methods with compiled kernels")
    parse.add_argument("--torch", nargs="+", default=["primal", "dual"], help="methods without")
    parse.add_argument("--cap", type=float, default=4.0, help="longest run, in seconds (default: %(default)s)")
    return parse.parse_args()


def sweeps(sizes: Sequence[int]) -> Iterator[list[Cell]]:
    for family in FAMILIES:
        for batch in BATCHES:
            cells = [Cell(family, n, *((n, n // 5) if family == "dense" else (0, 0)), batch) for n in sizes]
            yield [c for c in cells if family != "dense" or batch * c.n**2 <= LARGEST]


def suggestions(measured: Sequence[Measured], compiled: Sequence[str], torch: Sequence[str]) -> list[list[object]]:
    return [
        [family, batch, *(threshold(own, name, torch) for name in compiled)]
        for family in FAMILIES
        for batch in BATCHES
        if (own := [m for m in measured if (m.cell.family, m.cell.batch) == (family, batch)])
    ]


def threshold(measured: Sequence[Measured], name: str, others: Sequence[str]) -> str:
    """The last size before the first one at which the method is not right or another is faster."""
    last = "none"
    for cell in dict.fromkeys(m.cell for m in measured):
        seconds = {m.name: m.both for m in measured if m.cell == cell and m.right}
        if name not in seconds or any(seconds[other] < seconds[name] for other in others if other in seconds):
            return last
        last = str(cell.n)
    return f"{last} or more"


def rows(measured: Sequence[Measured], names: Sequence[str]) -> Iterator[list[object]]:
    for cell in dict.fromkeys(m.cell for m in measured):
        seconds = {m.name: m.both for m in measured if m.cell == cell and m.right}
        times = [f"{1e3 * seconds[name]:.2f}" if name in seconds else "" for name in names]
        yield [*cell, *times, min(seconds, key=lambda name: seconds[name], default="")]


if __name__ == "__main__":
    main()
