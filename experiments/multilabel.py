"""Tag texts with a convex energy of label sets, and measure what convexity, coupling and the loss are worth.

The claim (Amos, Xu, Kolter 2017): a PICNN, argmin_y f(x, y) - H(y), predicts label sets better than a net with
independent labels. Here the same data and protocol for all: the energy learned by differentiating its argmin through
bundles or through unrolled gradient descent, by Fenchel-Young and by max-margin; without the path that couples the
labels; without convexity; the paper's feed-forward net; and one-vs-rest logistic regression.

A share of the training rows is held out: on it the epoch to stop at, the thresholds and the scale of the decoding are
chosen. Then the whole training part is fitted anew for as many epochs, and the test rows are scored once. Three F1
(per example, per label, over all entries) under three decisions: threshold 0.5, nothing fitted after training; the
threshold with the best validation F1; the set of the largest expected F1.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from experiments._config import Common
from experiments._figures import gap_plot, time_plot
from experiments._gaps import gaps
from experiments._labellers import DESCENT, HALF, WAYS, FeedForward, Labeller, Size
from experiments._logistic import logistic_scores
from experiments._multilabel_data import Labelled, held_out, load_multilabel, weighted
from experiments._multilabel_scores import AVERAGES, DECISIONS, Predicted, by_expected_f1, f1, scores
from experiments._processes import launched
from experiments._record import Record, conducted, publish, write_record
from experiments._sources import DataError
from experiments._table import markdown_table, mean_sd
from experiments._tagger import Tagger
from experiments._training import Fitted, Recipe, fit

log = logging.getLogger(__name__)

FEED_FORWARD = "feed-forward net"
LOGISTIC = {"logistic regression, binary": "binary", "logistic regression, tf-idf": "tf-idf"}
BUNDLES, UNROLLED = "ICNN, argmin by bundles", "ICNN, argmin by unrolled descent"
METHODS = {"bundle entropy": "bundle", "gradient descent": DESCENT, "gradient descent, searched": "gradient"}
SHOWN = 256  # test rows whose inference is watched
MAIN, FIT = "example-F1", "fit seconds"


@dataclass(frozen=True)
class Config(Common):
    """Tag texts, or other rows with label sets, with a convex energy."""

    data: tuple[str, ...] = ("digits",)
    """"digits", which come with scikit-learn; "bibtex"; or two ARFF files of Mulan form, train and test."""
    path: Path | None = None
    """Folder that holds bibtex.npz or its ARFF files (else the environment variable ICNN_DATA, else a download)."""
    labels: int | None = None
    """Of ARFF files without an XML header: how many of the last attributes are labels."""
    header: Path | None = None
    """Of ARFF files: the XML file that names the labels."""
    out: Path = Path("runs/multilabel")
    """Folder of the results and checkpoints; the run that it holds is continued."""
    rows: tuple[str, ...] = (*WAYS, FEED_FORWARD, *LOGISTIC)
    """What to fit; all by default."""
    comparator_seeds: int = 3
    """Of the rows that do not begin with "ICNN, argmin by bundles", at most this many seeds are fitted."""
    weighting: Literal["none", "binary", "tf-idf"] = "tf-idf"
    """Of the features, for the nets."""
    share: float = 0.2
    """Of the training rows, held out."""
    iterations: int = 5
    """Bundle iterations of each inference, in training and in the score."""
    size: tyro.conf.OmitArgPrefixes[Size] = field(default_factory=Size)
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(
        default_factory=lambda: Recipe(epochs=8, batch=128, schedule="cosine", warmup=15, ema=0.99)
    )
    quick: bool = False
    """One seed, few epochs and small nets, to see that everything works."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.multilabel")
    if config.quick:
        recipe = replace(config.recipe, epochs=2)
        config = replace(config, seed=config.seed[:1], size=replace(config.size, width=100), recipe=recipe)
    return conducted(config, run, DataError)


def run(config: Config) -> None:
    """Fit, score, and leave the results in config.out."""
    begin = time.perf_counter()
    train, test = load_multilabel(config.data, config.path, config.labels, config.header)
    results = {row: [_result(config, row, train, test, seed) for seed in _seeds(config, row)] for row in config.rows}
    metrics: dict[str, Any] = {"rows": {row: [scored for scored, _ in found] for row, found in results.items()}}
    curves = {row: found[0][1] for row, found in results.items() if found[0][1]}
    if BUNDLES in config.rows:
        metrics["gaps"] = _gaps(config, train, test, results[BUNDLES][0][0]["epochs"])
    data = {"name": " ".join(config.data), "train": len(train), "test": len(test), "labels": test.labels.shape[1]}
    seconds = time.perf_counter() - begin
    file = config.out / "record.json"
    publish(report, write_record(file, "multilabel", config, config.seed, data, metrics, seconds, curves), config.out)


def _seeds(config: Config, row: str) -> tuple[int, ...]:
    """The seeds of a row; logistic regression has none but that of the split."""
    if row in LOGISTIC:
        return config.seed[:1]
    return config.seed if row.startswith("ICNN, argmin by bundles") else config.seed[: config.comparator_seeds]


def _result(config: Config, row: str, train: Labelled, test: Labelled, seed: int) -> tuple[dict[str, Any], list[dict]]:
    """The scores of one row at one seed, and its losses by epoch."""
    begin = time.perf_counter()
    if row in LOGISTIC:
        scored, history = logistic_scores(train, test, LOGISTIC[row], config.share, seed), []  # pyright: ignore
    else:
        scored, history = _learned(config, row, train, test, seed)
    log.info(
        "%s, seed %d: %s", row, seed, ", ".join(f"{decision} {scored[decision][MAIN]:.4f}" for decision in DECISIONS)
    )
    return scored | {"seconds": time.perf_counter() - begin}, history


def _gaps(config: Config, train: Labelled, test: Labelled, epochs: int) -> dict[str, list[dict[str, float]]]:
    """Of the energy that was learned through bundles on all training rows, at the first seed."""
    whole, scored = weighted(config.weighting, train, test)
    recipe = replace(config.recipe, epochs=epochs, patience=0)
    model = _fit(config, BUNDLES, whole, None, config.seed[0], recipe, "whole").model.eval()
    model = getattr(model, "module", model)
    assert isinstance(model, Labeller)
    return gaps(model.f, scored.tensors()[0][:SHOWN], METHODS)


def _learned(config: Config, row: str, train: Labelled, test: Labelled, seed: int) -> tuple[dict[str, Any], list[dict]]:
    """Stop by the held-out rows, fit all rows as long, and score."""
    fitted, validation = weighted(config.weighting, *held_out(train, config.share, seed))
    recipe = config.recipe
    if row in WAYS and not config.quick:
        recipe = replace(recipe, epochs=WAYS[row].epochs or recipe.epochs)
    first = _fit(config, row, fitted, validation, seed, recipe, "part")
    epochs = first.epoch + 1
    whole, scored = weighted(config.weighting, train, test)
    last = _fit(config, row, whole, None, seed, replace(recipe, epochs=epochs, patience=0), "whole")
    found = scores(predicted(first.model, validation), predicted(last.model, scored))
    return {**found, "epochs": epochs, FIT: first.seconds}, first.history


def _fit(
    config: Config, row: str, rows: Labelled, watched: Labelled | None, seed: int, recipe: Recipe, part: str
) -> Fitted:
    features, labels = rows.tensors()
    torch.manual_seed(seed)
    model = _model(config, row, features, labels)
    sizes = (features.shape[1], labels.shape[1])
    decision = WAYS[row].watched if row in WAYS else DECISIONS[-1]
    return fit(
        launched(),
        model,
        torch.cat((features, labels), 1),
        lambda model, batch: model.loss(*batch.split(sizes, 1)),  # pyright: ignore[reportCallIssue]
        recipe,
        seed=seed,
        checkpoint=config.out / "checkpoints" / f"{row.replace(',', '').replace(' ', '-')}-{part}-seed{seed}.ckpt",
        validate=None if watched is None else lambda model: 1 - _watched(model, watched, decision),
    )


def _model(config: Config, row: str, features: Tensor, labels: Tensor) -> nn.Module:
    inputs, count = features.shape[1], labels.shape[1]
    if row == FEED_FORWARD:
        return FeedForward(inputs, count)
    way, size = WAYS[row], config.size
    norm = torch.linalg.vector_norm(features, dim=1).mean().item()
    f = Tagger(
        inputs,
        labels.mean(0),
        norm,
        width=size.width,
        units=size.units,
        dropout=size.dropout,
        calm=way.calm,
        coupling=way.coupling,
        convex=way.convex,
    )
    return Labeller(f, way, config.iterations)


def predicted(model: nn.Module, rows: Labelled, chunk: int = 500) -> Predicted:
    """The probabilities of the labels of these rows."""
    was_training = model.training
    model.eval()
    features, labels = rows.tensors()
    p = torch.cat([model(part) for part in features.split(chunk)]).double().clamp(1e-9, 1 - 1e-9)
    model.train(was_training)
    return Predicted(p, labels > 0.5)


def _watched(model: nn.Module, rows: Labelled, decision: str) -> float:
    """The example-F1 on these rows under a decision for which nothing is fitted: HALF, or expected F1 at scale 1."""
    found = predicted(model, rows)
    chosen = found.p >= 0.5 if decision == HALF else by_expected_f1(found.p, 1.0)
    return f1(chosen, found.labels, MAIN)


def report(record: Record, folder: Path) -> str:
    """Tables of the three F1, of time to the same F1, and of gaps; validation.png and gaps.png."""
    if record.get("curves"):
        time_plot(folder / "validation.png", record["curves"], "the F1 that is watched")
    rows: Mapping[str, Sequence[Mapping]] = record["metrics"]["rows"]
    parts = [f"Test {measure}, percent\n\n{_table(rows, measure)}" for measure in AVERAGES]
    if "gaps" in record["metrics"]:
        gap_plot(folder / "gaps.png", record["metrics"]["gaps"])
        parts.append(f"Energy above its minimum\n\n{_gap_table(record['metrics']['gaps'])}")
    if {BUNDLES, UNROLLED} <= record.get("curves", {}).keys():
        parts.append(_race(record["curves"]))
    return "\n\n".join(parts)


def _table(rows: Mapping[str, Sequence[Mapping]], measure: str) -> str:
    head = ("method", *DECISIONS, "seeds", "epochs", "seconds of a fit")
    lines = []
    for name, runs in rows.items():
        numbers = [mean_sd([100 * run[decision][measure] for run in runs], 2) for decision in DECISIONS]
        fits = ["–" if key not in runs[0] else mean_sd([run[key] for run in runs], 0) for key in ("epochs", FIT)]
        lines.append((name, *numbers, str(len(runs)), *fits))
    return markdown_table(head, lines)


def _gap_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    head = ("method, iterations", "evaluations", "median", "worst")
    lines = [
        (
            f"{name}, {point['iterations']}",
            f"{point['evaluations']:.1f}",
            *(f"{point[key]:.0e}" for key in ("median", "worst")),
        )
        for name, points in found.items()
        for point in points
    ]
    return markdown_table(head, lines)


def _race(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The seconds in which bundles and unrolled descent come to the F1 that both reach."""
    target = max(min(epoch["validation"] for epoch in curves[row]) for row in (BUNDLES, UNROLLED))
    times = {}
    for row in (BUNDLES, UNROLLED):
        first = next(number for number, epoch in enumerate(curves[row]) if epoch["validation"] <= target)
        times[row] = sum(epoch["seconds"] for epoch in curves[row][: first + 1])
    return (
        f"To the validation F1 of {100 * (1 - target):.2f} %, which both reach: {times[BUNDLES]:.0f} s by bundles, "
        f"{times[UNROLLED]:.0f} s by unrolled descent, a ratio of {times[BUNDLES] / times[UNROLLED]:.2f}."
    )


if __name__ == "__main__":
    sys.exit(main())
