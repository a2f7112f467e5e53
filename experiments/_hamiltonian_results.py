"""What learning Hamiltonians has found, as tables: the worst seed of each number."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments._table import markdown_table


def tables(metrics: Mapping[str, Any]) -> str:
    """All tables, titled, of the metrics of a run."""
    systems = metrics["systems"]
    errors = [(name, "", kind, of) for name, by in metrics["functions"].items() for kind, of in by.items()]
    errors += [
        (name, part, kind, of)
        for name, found in systems.items()
        for part in ("T", "V")
        for kind, of in found[part].items()
    ]
    given = [(name, how, of) for name, found in systems.items() for how, of in found["V by supervision"].items()]
    return "\n\n".join(
        (
            "Errors on test samples, relative, worst seed",
            markdown_table(
                ("function", "part", "network", "value", "gradient"),
                [(*row[:3], *_worst(row[3].values())) for row in errors],
            ),
            "Flows, worst seed and orbit: changes of energy over all periods, distances in periods",
            _flows({name: found["flows"] for name, found in systems.items()}),
            "V by the residual network, learned from values, derivatives or both: errors, worst seed",
            markdown_table(
                ("system", "from", "value", "gradient"), [(name, how, *_worst(of.values())) for name, how, of in given]
            ),
            "Gradient errors from few samples, relative, mean over the seeds",
            _samples(metrics["samples"]),
        )
    )


def _flows(systems: Mapping[str, Mapping[str, Any]]) -> str:
    (first, *_) = (flow for flows in systems.values() for flow in flows.values())
    head = [
        *("system", "networks"),
        *(f"{what}, {way}" for what in ("drift", "true energy") for way in first["drift"]),
        *(f"after {mark}" for mark in first["distance"]),
    ]
    rows = [
        (name, nets, *_worst([*of["drift"].values(), *of["true energy"].values(), *of["distance"].values()]))
        for name, flows in systems.items()
        for nets, of in flows.items()
    ]
    return markdown_table(head, rows)


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = ("function", "noise", "samples")
    kinds, places = ([*dict.fromkeys(row[key] for row in rows)] for key in ("kind", "where"))
    cells: dict[tuple, list[str]] = {}
    for place in places:
        for row in (row for row in rows if row["where"] == place):
            mean = sum(row["errors"]) / len(row["errors"])
            cells.setdefault(tuple(str(row[key]) for key in keys), []).append(f"{mean:.1e}")
    head = (*keys, *(f"{kind}, {place}" for place in places for kind in kinds))
    return markdown_table(head, [(*key, *values) for key, values in cells.items()])


def _worst(lists: Sequence[Sequence[float]] | Any) -> list[str]:
    return [f"{max(values):.1e}" for values in lists]
