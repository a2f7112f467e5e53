"""Mean errors with their spread over pictures and seeds, as numbers and as markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np


def spread(errors: np.ndarray) -> dict:
    """Mean and standard deviations of errors (seeds, pictures), over seeds only if there are several."""
    per_seed = errors.mean(axis=1)
    return {
        "mse": float(errors.mean()),
        "sd_pictures": float(errors.mean(axis=0).std(ddof=1)),
        "sd_seeds": float(per_seed.std(ddof=1)) if len(errors) > 1 else None,
        "per_seed": per_seed.tolist(),
    }


def paired(ours: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Ours minus the other on the same pictures; errors (seeds, pictures) of each."""
    difference = ours.mean(axis=0) - other.mean(axis=0)
    return {
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / len(difference) ** 0.5),
        "share_better": float((difference < 0).mean()),
    }


def error_table(spreads: Mapping[str, Mapping]) -> str:
    """One row per method, the worst first."""
    rows = [
        (name, f"{found['mse']:.1f}", f"{found['sd_pictures']:.1f}", _or_dash(found["sd_seeds"]))
        for name, found in sorted(spreads.items(), key=lambda item: -item[1]["mse"])
    ]
    return markdown_table(("method", "MSE (0..255)", "± over pictures", "± over seeds"), rows)


def mean_sd(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation over the seeds, which is left out if there is one seed."""
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f}" if len(values) > 1 else mean


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
