"""Learn labels that depend on each other, by every loss of structured prediction, with one network.

The problem: eight labels in two groups, of which exactly one and two of four are on, those with the highest scores; the
scores are linear in x. A label alone is no linear matter: its threshold is a score of its group. But

    f(x, y) = c(x)'y + sum over groups of w |1'y_g - k_g|,   c linear in x,

is convex in y and its minimiser over the box is the answer. So a PICNN whose x-path is linear can represent it, and the
same network without its hidden path of y, f = c(x)'y, cannot. (Not every interaction is of this kind: what a convex
energy can say are budgets, balances and implications. Two patterns of labels that are equally good, with nothing good
between them, it cannot: their mean is as good as both.)

Both networks learn by the Fenchel-Young loss on f - H, the max-margin loss, the cross entropy of the argmin of f - H
through the cuts of the bundle, and the squared error of unrolled projected gradient steps with momentum.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor, nn

import icnn
from experiments._config import Common
from experiments._figures import time_plot
from experiments._groups import FEATURES, LABELS, Groups
from experiments._processes import launched
from experiments._record import Record, conducted, publish, write_record
from experiments._table import markdown_table, mean_sd
from experiments._training import Fitted, Recipe, fit
from icnn import losses

log = logging.getLogger(__name__)

TRUTH_SEED = 1_000
VALIDATION, TEST = 200, 1_000
ENERGIES = {"linear in y": False, "PICNN": True}  # whether there is a hidden path of y


@dataclass(frozen=True)
class Config(Common):
    """Learn labels with budgets by four losses."""

    out: Path = Path("runs/labels")
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of samples and weights; the step length is chosen with the first."""
    samples: int = 3_000
    """To learn from."""
    hidden: int = 16
    """Width of the network."""
    rates: tuple[float, ...] = (1e-2, 3e-2)
    """Step lengths that are tried; the best on the validation sample is kept."""
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(
        default_factory=lambda: Recipe(epochs=20, batch=50, schedule="cosine")
    )
    quick: bool = False
    """One seed, one step length and few steps, to see that everything works."""


class Learner(NamedTuple):
    """A loss, and the inference that it trains the network for."""

    loss: type[nn.Module]
    options: dict[str, Any]
    inference: dict[str, Any]


ENTROPIC = dict(regularizer="entropy", method="bundle", max_iter=10, on_failure="zero")
DESCENT = dict(regularizer=None, method=icnn.Descent("momentum", lr=0.03, beta=0.8), max_iter=20, on_failure="zero")
LEARNERS = {
    "Fenchel-Young": Learner(losses.FenchelYoung, {}, ENTROPIC),
    "max-margin": Learner(losses.MaxMargin, {}, dict(regularizer=None, method="exact", on_failure="zero")),
    "argmin, bundle": Learner(losses.Argmin, dict(criterion="bce", gradient="bundle"), ENTROPIC),
    "argmin, unrolled": Learner(losses.Argmin, dict(criterion="mse", gradient="unrolled"), DESCENT),
}


class Labeller(nn.Module):
    """A network, the loss that it learns by, and its labels for x."""

    def __init__(self, learner: Learner, hidden: int, coupled: bool) -> None:
        super().__init__()
        identity = icnn.leaky_relu(1.0)
        self.f = icnn.PICNN(FEATURES, LABELS, (hidden,), x_activation=identity, coupling=coupled)
        self.inference = learner.inference
        self.loss = learner.loss(self.f, **learner.options, **learner.inference)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return (icnn.argmin(self.f, x, gradient="none", **self.inference).y > 0.5).to(x.dtype)


class Run(NamedTuple):
    """What a fit came to, at its step length."""

    rate: float
    fitted: Fitted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.labels")
    if config.quick:
        recipe = replace(config.recipe, epochs=2)
        config = replace(config, seed=config.seed[:1], rates=config.rates[-1:], samples=100, recipe=recipe)
    return conducted(config, run)


def run(config: Config) -> None:
    """Learn by every loss with both energies, score, and leave the results in config.out."""
    groups = Groups.drawn(TRUTH_SEED)
    runs = {(name, energy): _learn(config, groups, name, energy) for name in LEARNERS for energy in ENERGIES}
    metrics = {f"{name}, {energy}": _score(groups, found) for (name, energy), found in runs.items()}
    curves = {f"{name}, {energy}": found[0].fitted.history for (name, energy), found in runs.items()}
    seconds = sum(sum(found["seconds"]) for found in metrics.values())
    data = {"samples": config.samples, "validation": VALIDATION, "test": TEST, "seed of the scores": TRUTH_SEED}
    file = config.out / "record.json"
    publish(report, write_record(file, "labels", config, config.seed, data, metrics, seconds, curves), config.out)


def _learn(config: Config, groups: Groups, name: str, energy: str) -> list[Run]:
    """One run per seed, with the step length that was best for the first."""
    first, *others = config.seed
    tried = [Run(rate, _fit(config, groups, name, energy, first, rate)) for rate in config.rates]
    best = min(tried, key=lambda run: run.fitted.validation)
    rate = best.rate
    return [best, *(Run(rate, _fit(config, groups, name, energy, seed, rate)) for seed in others)]


def _fit(config: Config, groups: Groups, name: str, energy: str, seed: int, rate: float) -> Fitted:
    x, y = groups.sample(VALIDATION, seed=-2 - seed)
    torch.manual_seed(seed)
    model = Labeller(LEARNERS[name], config.hidden, ENERGIES[energy])
    file = f"{name} {energy} seed{seed} {rate:g}".replace(",", "").replace(" ", "-").lower()
    return fit(
        launched(),
        model,
        torch.cat(groups.sample(config.samples, seed), -1),
        lambda model, batch: model.loss(*batch.split((FEATURES, LABELS), -1)),  # pyright: ignore[reportCallIssue]
        replace(config.recipe, lr=rate),
        seed=seed,
        checkpoint=config.out / "checkpoints" / f"{file}.ckpt",
        validate=lambda model: 1 - _exact(model(x), y),
    )


def _exact(predicted: Tensor, y: Tensor) -> float:
    """The share of rows without a mistake."""
    return (predicted == y).all(-1).double().mean().item()


def _score(groups: Groups, runs: Sequence[Run]) -> dict[str, list[float]]:
    """Exact match and mean F1 of the rows, in percent, at fresh points, with the seconds and the step length."""
    x, y = groups.sample(TEST, seed=-1)
    predicted = [run.fitted.model(x) for run in runs]
    return {
        "exact match": [100 * _exact(labels, y) for labels in predicted],
        "F1": [100 * losses.soft_f1(labels, y).mean().item() for labels in predicted],
        "seconds": [run.fitted.seconds for run in runs],
        "step length": [runs[0].rate],
    }


def report(record: Record, folder: Path) -> str:
    """One row for each loss and energy, over the seeds; and accuracy.png if the record has curves."""
    if "curves" in record:
        time_plot(folder / "accuracy.png", record["curves"], "exact match")
    head = ("loss, energy", "exact match", "worst seed", "F1", "seconds", "step length")
    rows = []
    for name, found in record["metrics"].items():
        exact, rate = found["exact match"], found["step length"][0]
        scores = (mean_sd(exact, 1), f"{min(exact):.1f}", mean_sd(found["F1"], 1))
        rows.append((name, *scores, f"{fmean(found['seconds']):.1f}", f"{rate:g}"))
    return f"Percent at {record['data']['test']} fresh points\n\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    sys.exit(main())
