"""Learn to predict the costs of linear programs: by least squares, or by what the decisions cost.

The question: where a predictor cannot be right, does one that is trained for the decision decide better than one that
is trained for the costs (Elmachtoub, Grigas 2022)? Shortest paths and fractional knapsacks with costs that are a power
of a linear function of the features; one linear predictor for all methods, which differ in the loss alone:

    two-stage       |ĉ - c|^2
    ridge           c'x, x = argmin ĉ'x + rho/2 |x|^2
    log barrier     c'x, x = argmin ĉ'x - mu sum log s
    perturbed       c'x, x the mean of argmin (ĉ + sigma z)'x
    Fenchel-Young   perturbed, against the best decision
    SPO+            the convex upper bound of the regret

The yardstick decides by the expected costs, which only noise separates from the true ones.

All start at the mean costs and are stopped at the epoch of least validation regret. Step length and rho, mu or sigma
are those with the least validation regret at the first seed, and serve all seeds. The test set is used once, at the
end.
"""

import itertools
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
import tyro
from torch import Tensor, nn

from experiments._config import Common
from experiments._decision_tasks import FEATURES, Data, Task, draw, knapsack, shortest_path
from experiments._figures import seeds_plot
from experiments._processes import launched
from experiments._record import Record, conducted, publish, write_record
from experiments._table import markdown_table, mean_sd
from experiments._training import Fitted, Recipe, fit
from icnn.losses import LinearDecision, PerturbedDecision, SPOPlus, log_barrier, perturbed, regret, ridge

log = logging.getLogger(__name__)

Loss = Callable[[LinearDecision, Tensor, Tensor, Tensor, float], Tensor]
KNOWN = "mean costs known"  # the yardstick: what no predictor can be better than, in expectation
SAMPLES = 4  # programs for each instance where costs are perturbed


def two_stage(decision: LinearDecision, predicted: Tensor, true: Tensor, best: Tensor, _: float) -> Tensor:
    return (predicted - true).square().sum(-1)


def true_cost(stand_in: Callable[[LinearDecision, Tensor, float], Tensor]) -> Loss:
    """The true cost of what stands in for the decision."""

    def loss(decision: LinearDecision, predicted: Tensor, true: Tensor, best: Tensor, strength: float) -> Tensor:
        return (true * stand_in(decision, predicted, strength)).sum(-1)

    return loss


def fenchel_young(decision: LinearDecision, predicted: Tensor, true: Tensor, best: Tensor, sigma: float) -> Tensor:
    return PerturbedDecision(decision, sigma, SAMPLES)(predicted, best)


def spo_plus(decision: LinearDecision, predicted: Tensor, true: Tensor, best: Tensor, _: float) -> Tensor:
    return SPOPlus(decision)(predicted, true, best)


METHODS: dict[str, tuple[Loss, tuple[float, ...]]] = {  # with the rho, mu or sigma to choose from
    "two-stage": (two_stage, (0.0,)),
    "ridge": (true_cost(ridge), (0.3, 3.0)),
    "log barrier": (true_cost(log_barrier), (0.03, 0.3)),
    "perturbed": (true_cost(partial(perturbed, samples=SAMPLES)), (0.3, 1.0)),
    "Fenchel-Young": (fenchel_young, (0.3, 1.0)),
    "SPO+": (spo_plus, (0.0,)),
}


@dataclass(frozen=True)
class Config(Common):
    """Learn to predict the costs of linear programs, for the decisions that follow."""

    out: Path = Path("runs/decisions")
    seed: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Data and training are drawn once per seed; the first one also chooses the settings."""
    degree: tuple[int, ...] = (1, 4)
    """Powers of the true costs; the predictor is linear."""
    noise: float = 0.5
    """Half-width of the noise that multiplies the true costs."""
    side: int = 5
    """Nodes on a side of the grid."""
    items: int = 20
    """Items of the knapsack."""
    train: int = 100
    """Instances to learn from."""
    validation: int = 100
    """Instances to stop and to choose settings by."""
    test: int = 1000
    """Instances of the score."""
    lr: tuple[float, ...] = (0.03, 0.1)
    """Step lengths to choose from."""
    epochs: int = 20
    """Passes over the training instances."""
    batch: int = 20
    """Instances per step."""
    quick: bool = False
    """Small programs and few of them, to see that everything works."""


def predictor(mean: Tensor) -> nn.Linear:
    """ĉ = W x + w, from the start W = 0, w the mean costs."""
    linear = nn.Linear(FEATURES, len(mean), dtype=mean.dtype)
    nn.init.zeros_(linear.weight)
    linear.bias.data = mean.clone()
    return linear


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.decisions")
    if config.quick:
        small = dict(side=3, items=6, train=20, validation=20, test=50, epochs=2, lr=(0.1,))
        config = replace(config, **small, degree=config.degree[-1:], seed=config.seed[:2])
    return conducted(config, run)


def run(config: Config) -> None:
    """Learn every predictor, score it, and leave the results in config.out."""
    tasks = (shortest_path(config.side), knapsack(config.items, seed=0))
    metrics = {
        f"{task.name}, degree {degree}": _judge(config, task, degree) for task in tasks for degree in config.degree
    }
    data = {"features": FEATURES, "samples": SAMPLES, "regret": "sum of regrets / sum of |optimal values|, test"}
    seconds = sum(found["spent"] for of in metrics.values() for found in of.values())
    record = write_record(config.out / "record.json", "decisions", config, config.seed, data, metrics, seconds)
    publish(report, record, config.out)


def _judge(config: Config, task: Task, degree: int) -> dict[str, dict]:
    """For each method the settings chosen, and its test regrets and seconds of training over the seeds."""
    counts = (config.train, config.validation, config.test)
    drawn = [draw(task, degree, config.noise, counts, seed) for seed in config.seed]
    found: dict[str, dict] = {
        KNOWN: {"regret": [normalised(task, test.expected, test) for _, _, test in drawn], "spent": 0.0}
    }
    for method, (_, strengths) in METHODS.items():
        job = _Job(config, task, degree, method)
        trials = {at: job.learn(drawn[0], config.seed[0], *at) for at in itertools.product(config.lr, strengths)}
        chosen = min(trials, key=lambda at: trials[at].validation)
        others = [job.learn(data, seed, *chosen) for data, seed in zip(drawn[1:], config.seed[1:], strict=True)]
        learned = [trials[chosen], *others]
        regrets = [_score(task, one.model, data[2]) for one, data in zip(learned, drawn, strict=True)]
        seconds = [one.seconds for one in learned]
        spent = sum(one.seconds for one in (*trials.values(), *others))
        lr, strength = chosen
        found[method] = {"lr": lr, "strength": strength, "regret": regrets, "seconds": seconds, "spent": spent}
        log.info("%s, degree %d, %s: %.2f %% by %s", task.name, degree, method, fmean(regrets), chosen)
    return found


@dataclass(frozen=True)
class _Job:
    """One method on one task."""

    config: Config
    task: Task
    degree: int
    method: str

    def learn(self, data: Sequence[Data], seed: int, lr: float, strength: float) -> Fitted:
        """Fit, keeping the epoch of least validation regret."""
        train, validation = data[:2]
        sizes = [part.shape[-1] for part in (train.features, train.costs, train.best)]
        decision, of = self.task.decision, METHODS[self.method][0]

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            features, true, best = batch.split(sizes, -1)
            return of(decision, model(features), true, best, strength).mean()

        name = f"{self.task.name}-{self.degree}-{self.method}-lr{lr}-strength{strength}-seed{seed}".replace(" ", "-")
        epochs = self.config.epochs
        return fit(
            launched(),
            predictor(train.costs.mean(0)),
            torch.cat((train.features, train.costs, train.best), -1),
            loss,
            Recipe(epochs, self.config.batch, lr, patience=epochs),
            seed=seed,
            checkpoint=self.config.out / "checkpoints" / f"{name}.ckpt",
            validate=lambda model: _score(self.task, model, validation),
            level=logging.DEBUG,
        )


@torch.no_grad()
def _score(task: Task, model: nn.Module, data: Data) -> float:
    return normalised(task, model(data.features), data)


def normalised(task: Task, predicted: Tensor, data: Data) -> float:
    """The sum of the regrets in percent of the sum of the optimal values."""
    excess = regret(task.decision, predicted, data.costs, data.best).sum()
    return 100 * (excess / (data.costs * data.best).sum().abs()).item()


def report(record: Record, folder: Path) -> str:
    """One row for each method: mean and standard deviation over the seeds; and regret.png."""
    metrics = record["metrics"]
    scores = {name: {method: found["regret"] for method, found in of.items()} for name, of in metrics.items()}
    seeds_plot(folder / "regret.png", scores, "normalised regret, percent")
    rows = [(method, *(mean_sd(of[method], 2) for of in scores.values())) for method in (*METHODS, KNOWN)]
    return f"Normalised test regret, percent\n\n{markdown_table(('method', *scores), rows)}"


if __name__ == "__main__":
    sys.exit(main())
