"""Tag texts with a convex energy of label sets, and measure what convexity, coupling and the loss are worth.

The claim (Amos, Xu, Kolter 2017): a PICNN, argmin_y f(x, y) - H(y), predicts label sets better than a net with
independent labels. Here the same data and protocol for all: the energy learned by squared errors or F1 of its argmin,
differentiated through bundles or through unrolled gradient descent, by Fenchel-Young and by max-margin; without the
path that couples the labels; without convexity; the paper's feed-forward net; and one-vs-rest logistic regression.

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
from typing import Any

import torch
import tyro
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

import icnn
from experiments._config import Common
from experiments._gaps import gaps
from experiments._labellers import DESCENT, WAYS, FeedForward, Jury, Labeller, Net
from experiments._logistic import logistic_scores
from experiments._multilabel_data import Labelled, Weighting, held_out, load_multilabel, weighted
from experiments._multilabel_results import BUNDLES, FIT, HEADLINES, MAIN, report, watched
from experiments._multilabel_scores import DECISIONS, Predicted, by_expected_f1, f1, scores
from experiments._processes import launched
from experiments._record import conducted, file_name, publish, write_record
from experiments._search import NothingFoundError, Settings, search
from experiments._sources import DataError
from experiments._training import Fitted, Recipe, fit

log = logging.getLogger(__name__)

FEED_FORWARD = "feed-forward net"
SETTINGS: Mapping[str, Settings] = {FEED_FORWARD: {"epochs": 20, "lr": 1e-2}}  # where the recipe of all does not do
LOGISTIC: Mapping[str, Weighting] = {"logistic regression, binary": "binary", "logistic regression, tf-idf": "tf-idf"}
ROWS = (*WAYS, FEED_FORWARD, *LOGISTIC)
METHODS = {
    "bundle entropy": "bundle",
    "gradient descent": DESCENT,
    "momentum, fixed steps": icnn.Descent("momentum", lr=0.1, beta=0.3),
}
SPACE = {
    "lr": FloatDistribution(3e-4, 3e-2, log=True),
    "epochs": IntDistribution(4, 32, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
}
SHOWN = 256  # test rows whose inference is watched


@dataclass(frozen=True)
class Choice:
    """What the defaults depend on."""

    data: tuple[str, ...] = ("digits",)
    """"digits", which come with scikit-learn; "bibtex"; or two ARFF files of Mulan form, train and test."""
    quick: bool = False
    """Few epochs and small nets, to see that everything works."""


@dataclass(frozen=True)
class Config(Choice, Common):
    """Tag texts, or other rows with label sets, with a convex energy."""

    path: Path | None = None
    """Folder that holds bibtex.npz or its ARFF files (else the environment variable ICNN_DATA, else a download)."""
    labels: int | None = None
    """Of ARFF files without an XML header: how many of the last attributes are labels."""
    header: Path | None = None
    """Of ARFF files: the XML file that names the labels."""
    out: Path = Path("runs/multilabel")
    """Folder of the results and checkpoints; the run that it holds is continued."""
    rows: tuple[str, ...] = ROWS
    """What to fit; all by default."""
    comparator_seeds: int = 3
    """Of the rows other than ICNN by bundles and no coupling, at most this many seeds are fitted."""
    weighting: Weighting = "tf-idf"
    """Of the features, for the nets."""
    share: float = 0.2
    """Of the training rows, held out."""
    search: int = 0
    """Trials of a search for each net's step length, epochs and dropout, by the held-out rows alone; 0 for none."""
    iterations: int = 5
    """Bundle iterations of each inference, in training and in the score."""
    net: tyro.conf.OmitArgPrefixes[Net] = field(default_factory=Net)
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(
        default_factory=lambda: Recipe(epochs=8, batch=128, schedule="cosine", warmup=15, ema=0.99)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rows or not set(self.rows) <= set(ROWS):
            raise ValueError(f"--rows is {list(self.rows)}: expected one or more of {list(ROWS)}")


DIGITS = Config(
    net=Net(width=500, calm=10.0),
    recipe=Recipe(epochs=15, batch=64, lr=2e-2, schedule="cosine", warmup=15, ema=0.99),
    weighting="none",
)


def parse(arguments: Sequence[str] | None = None) -> Config:
    """The command line, with defaults that depend on --data and --quick."""
    choice, _ = tyro.cli(Choice, args=arguments, return_unknown_args=True, add_help=False)
    default = replace(DIGITS if choice.data == DIGITS.data else Config(), data=choice.data, quick=choice.quick)
    if choice.quick:
        default = replace(
            default, net=replace(default.net, width=100), recipe=replace(default.recipe, epochs=2), comparator_seeds=1
        )
    return tyro.cli(Config, args=arguments, default=default, prog="python -m experiments.multilabel")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    return conducted(parse(arguments), run, DataError, NothingFoundError)


@dataclass(frozen=True)
class Parts:
    """The rows as the nets see them. A first fit is to some of the training rows, a second one to all of them."""

    some: Labelled
    validation: Labelled
    all: Labelled
    test: Labelled


@dataclass(frozen=True)
class Learned:
    """A net fitted to some of the training rows, and anew to all of them for as many epochs."""

    some: Fitted
    all: Fitted

    def scores(self, parts: Parts) -> dict[str, Any]:
        found = scores(predicted(self.some.model, parts.validation), predicted(self.all.model, parts.test))
        return {**found, "epochs": self.some.epoch + 1, FIT: self.some.seconds}


def run(config: Config) -> None:
    """Fit, score, and leave the results in config.out."""
    begin = time.perf_counter()
    train, test = load_multilabel(config.data, config.path, config.labels, config.header)
    held = held_out(train, config.share, config.seed[0])
    parts = Parts(*weighted(config.weighting, *held), *weighted(config.weighting, train, test))
    rows, learned, searched = {}, {}, {}
    for row in config.rows:
        if row in LOGISTIC:
            rows[row] = [logistic_scores(train, test, LOGISTIC[row], config.share, config.seed[0])]
        else:
            searched[row] = _searched(config, row, parts)
            learned[row] = [_learned(_with(config, searched[row]), row, parts, seed) for seed in _seeds(config, row)]
            rows[row] = [found.scores(parts) for found in learned[row]]
        for found in rows[row]:
            log.info("%s: %s", row, ", ".join(f"{decision} {found[decision][MAIN]:.4f}" for decision in DECISIONS))
    metrics = {"rows": rows, "means": _means(config, learned, parts)}
    if BUNDLES in learned:
        metrics["gaps"] = _gaps(learned[BUNDLES][0], parts.test)
    curves = {row: found[0].some.history for row, found in learned.items()}
    data = {"name": " ".join(config.data), "train": len(train), "test": len(test), "labels": test.labels.shape[1]}
    if config.search:
        data["searched"] = searched
    seconds, file = time.perf_counter() - begin, config.out / "record.json"
    publish(report, write_record(file, "multilabel", config, config.seed, data, metrics, seconds, curves), config.out)


def _seeds(config: Config, row: str) -> tuple[int, ...]:
    return config.seed if row in HEADLINES else config.seed[: config.comparator_seeds]


def _searched(config: Config, row: str, parts: Parts) -> Settings:
    """What a search finds best for this row on the held-out rows, if one is asked for; else SETTINGS."""
    if not config.search:
        return SETTINGS.get(row, {})

    def validate(settings: Settings, folder: Path) -> float:
        tried = _with(replace(config, out=folder), settings)
        return _fit(tried, row, parts.some, parts.validation, config.seed[0], tried.recipe, "some").validation

    return search(config.out / "search" / file_name(row), SPACE, validate, config.search).settings


def _with(config: Config, settings: Settings) -> Config:
    """The config with settings from SPACE."""
    net = {key: value for key, value in settings.items() if key == "dropout"}
    recipe = {key: value for key, value in settings.items() if key != "dropout"}
    return replace(config, net=replace(config.net, **net), recipe=replace(config.recipe, **recipe))


def _learned(config: Config, row: str, parts: Parts, seed: int) -> Learned:
    """Stop by the held-out rows, and fit all rows as long."""
    some = _fit(config, row, parts.some, parts.validation, seed, config.recipe, "some")
    recipe = replace(config.recipe, epochs=some.epoch + 1, patience=0)
    return Learned(some, _fit(config, row, parts.all, None, seed, recipe, "all"))


def _means(config: Config, learned: Mapping[str, Sequence[Learned]], parts: Parts) -> dict[str, Any]:
    """For each of HEADLINES the scores of the mean of the energies that all seeds have learned."""
    means = {}
    for row in HEADLINES:
        if len(found := learned.get(row, ())) > 1:
            some, whole = (
                Jury([_labeller(fitted) for fitted in nets], 2 * config.iterations)
                for nets in zip(*((one.some, one.all) for one in found), strict=True)
            )
            means[row] = scores(predicted(some, parts.validation), predicted(whole, parts.test))
    return means


def _labeller(fitted: Fitted) -> Labeller:
    """The net that counts, out of the average of weights that holds it."""
    net = getattr(fitted.model, "module", fitted.model)
    assert isinstance(net, Labeller)
    return net


def _gaps(learned: Learned, test: Labelled) -> dict[str, list[dict[str, float]]]:
    net = _labeller(learned.all).eval()
    return gaps(net.f, net.features(test.tensors()[0][:SHOWN]), METHODS)


def _fit(
    config: Config, row: str, rows: Labelled, validation: Labelled | None, seed: int, recipe: Recipe, part: str
) -> Fitted:
    features, labels = rows.tensors()
    torch.manual_seed(seed)
    model = _model(config, row, features, labels)
    sizes = (features.shape[1], labels.shape[1])
    return fit(
        launched(),
        model,
        torch.cat((features, labels), 1),
        lambda model, batch: model.loss(*batch.split(sizes, 1)),  # pyright: ignore[reportCallIssue]
        recipe,
        seed=seed,
        checkpoint=config.out / "checkpoints" / f"{file_name(row)}-{part}-seed{seed}.ckpt",
        validate=None if validation is None else lambda model: 1 - _f1_of(model, validation, watched(row)),
    )


def _model(config: Config, row: str, features: Tensor, labels: Tensor) -> nn.Module:
    if row == FEED_FORWARD:
        return FeedForward(features.shape[1], labels.shape[1])
    return Labeller(features, labels, config.net, WAYS[row], config.iterations)


def predicted(model: nn.Module, rows: Labelled, chunk: int = 500) -> Predicted:
    """The probabilities of the labels of these rows."""
    was_training = model.training
    model.eval()
    features, labels = rows.tensors()
    p = torch.cat([model(part) for part in features.split(chunk)]).double().clamp(1e-9, 1 - 1e-9)
    model.train(was_training)
    return Predicted(p, labels > 0.5)


def _f1_of(model: nn.Module, rows: Labelled, decision: str) -> float:
    """The example-F1 on these rows under a decision for which nothing is fitted: 0.5, or expected F1 at scale 1."""
    found = predicted(model, rows)
    chosen = found.p >= 0.5 if decision == DECISIONS[0] else by_expected_f1(found.p, 1.0)
    return f1(chosen, found.labels, MAIN)


if __name__ == "__main__":
    sys.exit(main())
