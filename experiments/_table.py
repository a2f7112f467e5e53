"""Mean errors with their spread over pictures and seeds, as numbers and as markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np


def spread(errors: np.ndarray, group: np.ndarray) -> dict:
    """Mean and standard deviations of errors (seeds, pictures): over pictures, their groups, and seeds.

    Those of one number are None.
    """
    per_seed, per_picture = errors.mean(axis=1), errors.mean(axis=0)
    return {
        "mse": float(errors.mean()),
        "sd_pictures": _sd(per_picture),
        "sd_groups": _sd(np.array([per_picture[group == one].mean() for one in np.unique(group)])),
        "sd_seeds": _sd(per_seed),
        "per_seed": per_seed.tolist(),
    }


def paired(ours: np.ndarray, other: np.ndarray) -> dict:
    """Ours minus the other on the same pictures, seed by seed; errors (seeds, pictures), or (1, pictures) without."""
    difference = ours - other
    per_picture, per_seed = difference.mean(axis=0), difference.mean(axis=1)
    return {
        "difference": float(difference.mean()),
        "standard_error": float(per_picture.std(ddof=1) / len(per_picture) ** 0.5),
        "sd_seeds": _sd(per_seed),
        "seeds": len(per_seed),
        "share_better": float((per_picture < 0).mean()),
    }


def _sd(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def error_table(spreads: Mapping[str, Mapping], seconds: Mapping[str, Sequence[float]], groups: str) -> str:
    """One row per method, the worst first; seconds: of each fit of those that have seeds."""
    head = (
        "method",
        "MSE (0..255)",
        "± over pictures",
        f"± over {groups}",
        "± over seeds",
        "seeds",
        "seconds of a fit",
    )
    rows = []
    for name, found in sorted(spreads.items(), key=lambda item: -item[1]["mse"]):
        spread_over = (or_dash(found[f"sd_{what}"], ".1f") for what in ("pictures", "groups", "seeds"))
        fits = (str(len(seconds[name])), f"{fmean(seconds[name]):.0f}") if name in seconds else ("–", "–")
        rows.append((name, f"{found['mse']:.1f}", *spread_over, *fits))
    return markdown_table(head, rows)


def mean_sd(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation over the seeds, which is left out if there is one seed."""
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f}" if len(values) > 1 else mean


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def or_dash(value: float | None, form: str) -> str:
    """The number, or a dash where there is none."""
    return "–" if value is None else format(value, form)
