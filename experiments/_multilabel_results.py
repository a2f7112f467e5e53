"""What the label experiment found: F1, what parts of the energy add, gaps, and the race of bundles and descent."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments._figures import gap_plot, time_plot
from experiments._gaps import gap_table
from experiments._labellers import WAYS
from experiments._multilabel_scores import AVERAGES, DECISIONS
from experiments._record import Record, file_name
from experiments._table import markdown_table, mean_sd

MAIN, FIT = "example-F1", "fit seconds"
BUNDLES, UNROLLED = "ICNN, argmin by bundles", "ICNN, argmin by unrolled descent"
PAIRS = {  # a part of the energy: what has it, and what differs by it alone
    "coupling": (BUNDLES, "no coupling"),
    "coupling, F1": (f"{BUNDLES}, F1", "no coupling, F1"),
    "convexity": (UNROLLED, "no convexity, argmin by unrolled descent"),
    "convexity, F1": (f"{UNROLLED}, F1", "no convexity, argmin by unrolled descent, F1"),
}
HEADLINES = (*PAIRS["coupling"], *PAIRS["coupling, F1"])
RACES = ((BUNDLES, UNROLLED), (f"{BUNDLES}, F1", f"{UNROLLED}, F1"))


def watched(row: str) -> str:
    """The decision whose F1 on the held-out rows is watched while this row is fitted."""
    return WAYS[row].watched if row in WAYS else DECISIONS[-1]


def report(record: Record, folder: Path) -> str:
    """Tables of the three F1, of parts, gaps and times; gaps.png, and the F1 on the held-out rows against time."""
    curves = record.get("curves", {})
    for decision in DECISIONS:
        if seen := {row: epochs for row, epochs in curves.items() if watched(row) == decision}:
            time_plot(folder / f"validation-{file_name(decision)}.png", seen, f"F1 ({decision})")
    rows: Mapping[str, Sequence[Mapping]] = record["metrics"]["rows"]
    parts = [f"Test {measure}, percent\n\n{_table(rows, measure)}" for measure in AVERAGES]
    if means := record["metrics"].get("means"):
        parts.append(f"The mean of the energies of {len(record['seed'])} seeds, percent\n\n{_mean_table(means)}")
    if pairs := [pair for pair in PAIRS.items() if set(pair[1]) <= rows.keys()]:
        parts.append(f"What a part of the energy adds to the test {MAIN}, percent\n\n{_pair_table(rows, pairs)}")
    if "gaps" in record["metrics"]:
        gap_plot(folder / "gaps.png", record["metrics"]["gaps"])
        parts.append(f"Energy above its minimum\n\n{gap_table(record['metrics']['gaps'])}")
    parts += [_race(curves, pair) for pair in RACES if set(pair) <= curves.keys()]
    return "\n\n".join(parts)


def _table(rows: Mapping[str, Sequence[Mapping]], measure: str) -> str:
    head = ("method", *DECISIONS, "seeds", "epochs", "seconds of a fit")
    lines = []
    for name, runs in rows.items():
        numbers = [mean_sd([100 * run[decision][measure] for run in runs], 2) for decision in DECISIONS]
        fits = ["–" if key not in runs[0] else mean_sd([run[key] for run in runs], 0) for key in ("epochs", FIT)]
        lines.append((name, *numbers, str(len(runs)), *fits))
    return markdown_table(head, lines)


def _mean_table(means: Mapping[str, Mapping]) -> str:
    head = ("method", *(f"{measure}, {decision}" for measure in AVERAGES for decision in DECISIONS))
    lines = [
        (name, *(f"{100 * found[decision][measure]:.2f}" for measure in AVERAGES for decision in DECISIONS))
        for name, found in means.items()
    ]
    return markdown_table(head, lines)


def _pair_table(rows: Mapping[str, Sequence[Mapping]], pairs: Sequence[tuple[str, tuple[str, str]]]) -> str:
    """With it minus without it, at the same seeds."""
    lines = []
    for part, (has, lacks) in pairs:
        both = list(zip(rows[has], rows[lacks], strict=False))
        added = {
            decision: [100 * (one[decision][MAIN] - other[decision][MAIN]) for one, other in both]
            for decision in DECISIONS
        }
        lines.append((part, *(mean_sd(differences, 2) for differences in added.values()), str(len(both))))
    return markdown_table(("part", *DECISIONS, "seeds"), lines)


def _race(curves: Mapping[str, Sequence[Mapping[str, float]]], pair: tuple[str, str]) -> str:
    """The seconds in which both come to the F1 that both reach."""
    target = max(min(epoch["validation"] for epoch in curves[row]) for row in pair)
    times = []
    for row in pair:
        first = next(number for number, epoch in enumerate(curves[row]) if epoch["validation"] <= target)
        times.append(sum(epoch["seconds"] for epoch in curves[row][: first + 1]))
    return (
        f"To the validation F1 ({watched(pair[0])}) of {100 * (1 - target):.2f} %, which both reach: "
        f"{times[0]:.0f} s by {pair[0]}, {times[1]:.0f} s by {pair[1]}, a ratio of {times[0] / times[1]:.2f}."
    )
