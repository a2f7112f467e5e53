"""What the completion experiment found: errors, traces over the bundle iterations, pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments._completer import completions, squared_errors
from experiments._figures import loss_plot, picture_grid
from experiments._pictures import halves, join
from experiments._record import Record
from experiments._table import error_table, markdown_table, paired, spread
from experiments._training import Fitted

COUPLED, UNCOUPLED = "ICNN", "ICNN without coupling"


@dataclass(frozen=True)
class Results:
    """Of each net its completions (seeds, iterations, n, 1, height, width / 2).

    baselines: squared errors (n,) of the other methods.
    """

    completed: Mapping[str, Tensor]
    baselines: Mapping[str, np.ndarray]
    images: Tensor

    @property
    def traces(self) -> dict[str, np.ndarray]:
        """Errors (seeds, iterations, n) of the nets after each bundle iteration."""
        return {name: squared_errors(found, self.images).double().numpy() for name, found in self.completed.items()}

    @property
    def errors(self) -> dict[str, np.ndarray]:
        """Errors (seeds, n) of every method; a baseline has one seed."""
        finals = {name: trace[:, -1] for name, trace in self.traces.items()}
        return {name: error[None] for name, error in self.baselines.items()} | finals

    def metrics(self) -> dict[str, dict]:
        """All that the tables say."""
        errors = self.errors
        others = {name: found for name, found in errors.items() if COUPLED in errors and name != COUPLED}
        return {
            "mse": {name: spread(found) for name, found in errors.items()},
            "mse_after_iteration": {name: trace.mean((0, 2)).tolist() for name, trace in self.traces.items()},
            "difference_of_icnn_to": {name: paired(errors[COUPLED], found) for name, found in others.items()},
        }

    def draw(self, file: Path, shown: int = 8) -> None:
        """Draw some completions of the first seed."""
        index = torch.linspace(0, len(self.images) - 1, shown).long()
        x, y = halves(self.images[index])
        columns = {"right half": join(x, torch.full_like(y, 0.5)), "truth": self.images[index]}
        if COUPLED in self.completed:
            steps = enumerate(self.completed[COUPLED][0], start=1)
            columns |= {f"iteration {number}": join(x, step[index]) for number, step in steps}
        if UNCOUPLED in self.completed:
            columns["no coupling"] = join(x, self.completed[UNCOUPLED][0, -1][index])
        picture_grid(file, columns)


def score(
    fitted: Mapping[str, Sequence[Fitted]],
    baselines: Mapping[str, np.ndarray],
    images: Tensor,
    iterations: int,
) -> Results:
    """Complete the images with every net."""
    completed = {
        name: torch.stack([completions(one.model, images, iterations) for one in runs]) for name, runs in fitted.items()
    }
    return Results(completed, baselines, images)


def report(record: Record, folder: Path) -> str:
    """The tables, and loss.png (of the first seed) if the record has curves. The run draws the pictures."""
    data, metrics = record["data"], record["metrics"]
    if "curves" in record:
        loss_plot(folder / "loss.png", record["curves"])
    title = f"Completion of {data['name']}: {data['scored_part']}, {data['scored']} pictures"
    parts = [f"## {title}", error_table(metrics["mse"])]
    if metrics["difference_of_icnn_to"]:
        parts += ["The convex net minus each other method, on the same pictures:"]
        parts += [_difference_table(metrics["difference_of_icnn_to"])]
    parts += ["MSE after each bundle iteration:", _iteration_table(metrics["mse_after_iteration"])]
    return "\n\n".join(parts)


def _difference_table(differences: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        (
            name,
            f"{found['difference']:+.1f}",
            f"{found['standard_error']:.1f}",
            f"{found['share_better']:.0%}",
        )
        for name, found in differences.items()
    ]
    return markdown_table(("against", "difference", "± standard error", "better on"), rows)


def _iteration_table(means: Mapping[str, Sequence[float]]) -> str:
    count = max(len(errors) for errors in means.values())
    rows = [(name, *(f"{error:.1f}" for error in errors)) for name, errors in means.items()]
    return markdown_table(("net", *(str(number + 1) for number in range(count))), rows)
