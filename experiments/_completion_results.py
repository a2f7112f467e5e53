"""What the completion experiment found: errors, traces over the iterations of inference, gaps, pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments._completer import (
    DESCENDED,
    DESCENT,
    ICNN,
    NO_CONVEXITY,
    NO_COUPLING,
    WAYS,
    Completer,
    completions,
    squared_errors,
)
from experiments._figures import gap_plot, loss_plot, picture_grid
from experiments._gaps import gap_table, gaps
from experiments._pictures import Pictures, halves, join
from experiments._record import Record
from experiments._table import error_table, markdown_table, or_dash, paired, spread
from experiments._training import Fitted

METHODS = {"bundle entropy": "bundle", "gradient descent": DESCENT, "gradient descent, falling steps": "gradient"}
GAPS_OF = 50  # pictures at most
TRACED = (1, 2, 3, 4, 5, 10, 15, 20, 30)
DRAWN = {ICNN: ("bundle", (1, 2, 3, 5)), DESCENDED: ("descent", (1, 5, 10, 30))}
GROUPS = {"digits": "groups", "olivetti": "people"}


@dataclass(frozen=True)
class Results:
    """Of each row its completions (seeds, iterations, n, 1, height, width / 2) and the seconds of its fits.

    baselines: squared errors (n,) of the other methods. found_gaps: as experiments._gaps has them, if ICNN is a row.
    """

    completed: Mapping[str, Tensor]
    seconds: Mapping[str, Sequence[float]]
    baselines: Mapping[str, np.ndarray]
    pictures: Pictures
    found_gaps: Mapping[str, Sequence[Mapping[str, float]]] | None

    @property
    def traces(self) -> dict[str, np.ndarray]:
        """Errors (seeds, iterations, n) of the nets after each iteration."""
        images = self.pictures.images
        return {name: squared_errors(found, images).double().numpy() for name, found in self.completed.items()}

    @property
    def errors(self) -> dict[str, np.ndarray]:
        """Errors (seeds, n) of every method; a baseline has one seed."""
        finals = {name: trace[:, -1] for name, trace in self.traces.items()}
        return {name: error[None] for name, error in self.baselines.items()} | finals

    def metrics(self) -> dict:
        """All that the tables say."""
        errors, group = self.errors, self.pictures.group.numpy()
        traced = {name: trace for name, trace in self.traces.items() if WAYS[name].iterations}
        return {
            "mse": {name: spread(found, group) for name, found in errors.items()},
            "seconds": dict(self.seconds),
            "mse_after_iteration": {name: trace.mean((0, 2)).tolist() for name, trace in traced.items()},
            "differences": _differences(errors),
            "gaps": self.found_gaps,
        }

    def draw(self, folder: Path, shown: int = 8) -> None:
        """Draw some completions of the first seed: completions.png, iterations.png."""
        index = torch.linspace(0, len(self.pictures) - 1, shown).long()
        truth = self.pictures.images[index]
        x, y = halves(truth)
        right = {"right half": join(x, torch.full_like(y, 0.5))}

        def after(row: str, number: int) -> Tensor:
            return join(x, self.completed[row][0, number - 1][index])

        columns = right | {"truth": truth}
        if ICNN in self.completed:
            columns |= {f"iteration {number}": after(ICNN, number) for number in range(1, WAYS[ICNN].iterations + 1)}
        if NO_COUPLING in self.completed:
            columns["no coupling"] = after(NO_COUPLING, WAYS[NO_COUPLING].iterations)
        picture_grid(folder / "completions.png", columns)
        steps = {
            f"{name} {number}": after(row, number)
            for row, (name, numbers) in DRAWN.items()
            for number in numbers
            if row in self.completed
        }
        picture_grid(folder / "iterations.png", right | steps | {"truth": truth})


def score(fitted: Mapping[str, Sequence[Fitted]], baselines: Mapping[str, np.ndarray], pictures: Pictures) -> Results:
    """Complete the pictures with every net."""
    images = pictures.images
    completed = {
        name: torch.stack([completions(one.model, images, max(WAYS[name].iterations, 1)) for one in runs])
        for name, runs in fitted.items()
    }
    seconds = {name: [one.seconds for one in runs] for name, runs in fitted.items()}
    found = _gaps(fitted[ICNN][0], images[:GAPS_OF]) if ICNN in fitted else None
    return Results(completed, seconds, baselines, pictures, found)


def _gaps(fitted: Fitted, images: Tensor) -> dict[str, list[dict[str, float]]]:
    model = getattr(fitted.model, "module", fitted.model)
    assert isinstance(model, Completer)
    x = halves(images)[0].to(model.energy.y_mean.device)
    return gaps(model.energy, x, METHODS, start=model.energy.y_mean)


def _differences(errors: Mapping[str, np.ndarray]) -> list[dict]:
    """ICNN minus each other method, and what convexity adds to descent; nets at the seeds that both have."""
    pairs = [(ICNN, name) for name in errors if name != ICNN] + [(DESCENDED, NO_CONVEXITY)]
    found = []
    for of, to in pairs:
        if {of, to} <= errors.keys():
            seeds = len(errors[to]) if to in WAYS else None
            found.append({"of": of, "to": to, **paired(errors[of][:seeds], errors[to])})
    return found


def report(record: Record, folder: Path) -> str:
    """The tables; loss.png (first seed, rows that minimise squared errors) and gaps.png. The run draws the pictures."""
    data, metrics = record["data"], record["metrics"]
    if "curves" in record:
        loss_plot(folder / "loss.png", {k: v for k, v in record["curves"].items() if WAYS[k].loss == "squares"})
    title = f"Completion of {data['name']}: {data['scored_part']}, {data['scored']} pictures"
    parts = [f"## {title}", error_table(metrics["mse"], metrics["seconds"], GROUPS[data["name"]])]
    if metrics["differences"]:
        parts += [
            "Differences on the same pictures, of nets at the same seeds:",
            _difference_table(metrics["differences"]),
        ]
    if metrics["mse_after_iteration"]:
        parts += ["MSE after each iteration:", _iteration_table(metrics["mse_after_iteration"])]
    if metrics["gaps"]:
        gap_plot(folder / "gaps.png", metrics["gaps"])
        parts += [f"Energy of {ICNN} (first seed) above its minimum:", gap_table(metrics["gaps"])]
    return "\n\n".join(parts)


def _difference_table(differences: Sequence[Mapping]) -> str:
    head = ("of", "minus", "difference", "± standard error over pictures", "± over seeds", "seeds", "better on")
    rows = [
        (
            found["of"],
            found["to"],
            f"{found['difference']:+.1f}",
            f"{found['standard_error']:.1f}",
            or_dash(found["sd_seeds"], ".1f"),
            str(found["seeds"]),
            f"{found['share_better']:.0%}",
        )
        for found in differences
    ]
    return markdown_table(head, rows)


def _iteration_table(means: Mapping[str, Sequence[float]]) -> str:
    count = max(len(errors) for errors in means.values())
    numbers = [number for number in TRACED if number <= count]
    rows = [
        (name, *(or_dash(errors[number - 1] if number <= len(errors) else None, ".1f") for number in numbers))
        for name, errors in means.items()
    ]
    return markdown_table(("net", *map(str, numbers)), rows)
