"""Two classes of points in the plane by an energy of one label: convex in the label, or in point and label together.

The prediction is ŷ(x) = argmin_y f(x, y) over the label y in [0, 1], with f a FICNN of the concatenation (x, y) or a
PICNN, and the class is 1 where ŷ > 1/2. The FICNN is convex in x too, which says nothing about ŷ: for any smooth g,

    f(x, y) = ½ (y - g(x))² + ½ M |x|²

is convex in (x, y) on a bounded set once M is large, and its minimiser is y = g(x). A convex function of x alone moves
no minimiser and pays for all the curvature that g needs.

Both learn by the squared error of the argmin of f - H through the cuts of the bundle, by the Fenchel-Young loss of
f - H, and as in the paper (Amos, Xu, Kolter 2017, section 6.1) by the squared error of 30 steps with momentum on f. In
the end the methods of inference are compared at equal regulariser, and the 30 steps with the minimiser of their energy.
"""

import itertools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from sklearn.datasets import make_circles, make_classification, make_moons
from torch import Tensor, nn

import icnn
from experiments._agreement import NONE, agreement, minimiser
from experiments._config import Common
from experiments._figures import Cloud, cloud_plot
from experiments._joint import JointFICNN
from experiments._processes import launched
from experiments._record import Record, conducted, publish, write_record
from experiments._table import markdown_table, mean_sd
from experiments._training import Recipe, fit
from icnn import losses

log = logging.getLogger(__name__)

Arrays = tuple[Any, Any]  # points (n, 2) and classes (n,)


@dataclass(frozen=True)
class Config(Common):
    """Classify points in the plane by a FICNN and a PICNN."""

    out: Path = Path("runs/synthetic")
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of points and weights; surfaces and agreement are those of the first."""
    sets: tuple[Literal["moons", "circles", "linear"], ...] = ("moons", "circles", "linear")
    """Of points."""
    train: int = 100
    """Points to learn from."""
    test: int = 1000
    """Points of the score, and of the agreement."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the networks."""
    exact: int = 25
    """Test points whose quadratic programs are solved, with as many variables as there are units."""
    steps: int = 500
    """Steps of gradient descent beside the other methods."""
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=lambda: Recipe(epochs=100, batch=100))
    quick: bool = False
    """One seed, small networks and few points, to see that everything works."""


class Learner(NamedTuple):
    """A loss, and the inference that it trains the network for."""

    loss: type[nn.Module]
    options: dict[str, Any]
    inference: dict[str, Any]


ENTROPIC = dict(regularizer="entropy", method="bundle", on_failure="zero")
STEPS = dict(
    domain=icnn.Box(-torch.inf, torch.inf),
    start=torch.tensor([0.5]),
    method=icnn.Descent("momentum", lr=0.01, beta=0.9),
    max_iter=30,
    regularizer=None,
    on_failure="zero",
)
SHOWN, UNROLLED = "argmin, bundle", "argmin, 30 steps"  # the way whose nets are drawn and compared; the paper's
LEARNERS = {
    SHOWN: Learner(losses.Argmin, dict(criterion="mse", gradient="bundle"), ENTROPIC),
    "Fenchel-Young": Learner(losses.FenchelYoung, {}, ENTROPIC),
    UNROLLED: Learner(losses.Argmin, dict(criterion="mse", gradient="unrolled"), STEPS),
}
NETS: dict[str, Callable[[Sequence[int]], icnn.ConvexNetwork]] = {
    "FICNN": lambda hidden: JointFICNN(2, 1, hidden),
    "PICNN": lambda hidden: icnn.PICNN(2, 1, hidden),
}


def linear(count: int, seed: int) -> Arrays:
    """Two Gaussians, blurred by uniform noise in [0, 2)²."""
    options: dict[str, Any] = dict(n_features=2, n_redundant=0, n_informative=2, n_clusters_per_class=1)
    points, classes = make_classification(count, random_state=seed, **options)
    return points + np.random.default_rng(seed).uniform(0, 2, (count, 2)), classes


DATA_SETS: dict[str, Callable[[int, int], Arrays]] = {
    "moons": lambda count, seed: make_moons(count, noise=0.3, random_state=seed),
    "circles": lambda count, seed: make_circles(count, noise=0.2, factor=0.5, random_state=seed),
    "linear": linear,
}


class Classifier(nn.Module):
    """A network, the loss that it learns by, and its ŷ in [0, 1] for x (n, 2)."""

    def __init__(self, learner: Learner, f: icnn.ConvexNetwork) -> None:
        super().__init__()
        self.f, self.inference = f, learner.inference
        self.loss = learner.loss(f, **learner.options, **learner.inference)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return icnn.argmin(self.f, x, gradient="none", **self.inference).y.clamp(0, 1).squeeze(-1)


class Run(NamedTuple):
    """What was learned, from the first part of the examples, rows (x, y)."""

    model: Classifier
    seconds: float
    train: Tensor
    test: Tensor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.synthetic")
    if config.quick:
        most = dict(test=100, exact=10, steps=100)
        small = {name: min(getattr(config, name), limit) for name, limit in most.items()}
        recipe = replace(config.recipe, epochs=min(config.recipe.epochs, 10))
        config = replace(config, **small, seed=config.seed[:1], hidden=(20, 20), recipe=recipe)
    return conducted(config, run)


def run(config: Config) -> None:
    """Learn, score, compare, and leave the results in config.out."""
    cases = itertools.product(config.sets, NETS, LEARNERS)
    runs = {at: [_learn(config, *at, seed) for seed in config.seed] for at in cases}
    shown = {(name, net): runs[name, net, SHOWN][0] for name in config.sets for net in NETS}
    clouds = {net: {name: _cloud(shown[name, net]) for name in config.sets} for net in NETS}
    cloud_plot(config.out / "surfaces.png", clouds, size=12)
    metrics = {
        "scores": [_scored(*at, found) for at, found in runs.items()],
        "agreement": [row for at, found in shown.items() for row in _compared(config, *at, found)],
        "steps": [_distances(name, net, found) for (name, net, way), found in runs.items() if way == UNROLLED],
    }
    data = {"train": config.train, "test": config.test, "generator": "sklearn.datasets"}
    seconds = sum(one.seconds for found in runs.values() for one in found)
    record = write_record(config.out / "record.json", "synthetic", config, config.seed, data, metrics, seconds)
    publish(report, record, config.out)


def examples(name: str, count: int, seed: int) -> Tensor:
    """Rows (x, y) of the data set, (count, 3)."""
    points, classes = DATA_SETS[name](count, seed)
    return torch.from_numpy(np.column_stack((points, classes))).float()


def _learn(config: Config, name: str, kind: str, way: str, seed: int) -> Run:
    train, test = examples(name, config.train + config.test, seed).split((config.train, config.test))
    torch.manual_seed(seed)
    model = Classifier(LEARNERS[way], NETS[kind](config.hidden))
    file = f"{name} {kind} {way} seed{seed}".replace(",", "").replace(" ", "-").lower()
    fitted = fit(
        launched(),
        model,
        train,
        lambda model, batch: model.loss(*batch.split((2, 1), -1)),  # pyright: ignore[reportCallIssue]
        config.recipe,
        seed=seed,
        checkpoint=config.out / "checkpoints" / f"{file}.ckpt",
        level=logging.DEBUG,
    )
    net = fitted.model
    assert isinstance(net, Classifier)
    log.info("%s: loss %.4f, test accuracy %.1f %%", file, fitted.history[-1]["train"], accuracy(net, test))
    return Run(net, fitted.seconds, train, test)


def accuracy(model: nn.Module, rows: Tensor) -> float:
    """Percent of the rows whose class is that of ŷ."""
    return 100 * ((model(rows[:, :2]) > 0.5) == (rows[:, 2] > 0.5)).double().mean().item()


def _scored(name: str, net: str, way: str, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "set": name,
        "net": net,
        "way": way,
        "train": [accuracy(one.model, one.train) for one in runs],
        "test": [accuracy(one.model, one.test) for one in runs],
        "seconds": [one.seconds for one in runs],
    }


def _cloud(run: Run) -> Cloud:
    return Cloud(run.train[:, :2], run.train[:, 2], run.model)


def _doubled(run: Run) -> tuple[icnn.ConvexNetwork, Tensor]:
    """The network and the test points in float64."""
    return deepcopy(run.model.f).double(), run.test[:, :2].double()


def _compared(config: Config, name: str, net: str, run: Run) -> list[dict[str, Any]]:
    limits = {"exact": (config.exact, 1), "bundle": (None, 30), "gradient": (None, config.steps)}
    found = agreement(*_doubled(run), limits)
    log.info("%s, %s: %s", name, net, ", ".join(f"{of['regularizer']} {of['method']} {of['y']:.0e}" for of in found))
    return [{"set": name, "net": net, **row} for row in found]


def _distances(name: str, net: str, runs: Sequence[Run]) -> dict[str, Any]:
    """For each seed how far ŷ of 30 steps is from the minimiser of f over [0, 1], and how often its class differs."""
    found = []
    for one in runs:
        f, x = _doubled(one)
        y, least = one.model(one.test[:, :2]).double(), minimiser(f, x, NONE).squeeze(-1)
        found.append(((y - least).abs(), (y > 0.5) != (least > 0.5)))
    return {
        "set": name,
        "net": net,
        "mean": [distance.mean().item() for distance, _ in found],
        "largest": [distance.max().item() for distance, _ in found],
        "changed": [100 * changed.double().mean().item() for _, changed in found],
    }


def report(record: Record, folder: Path) -> str:
    """Accuracies, agreement and the distance of the 30 steps."""
    metrics = record["metrics"]
    return "\n\n".join(
        (score_table(metrics["scores"]), agreement_table(metrics["agreement"]), step_table(metrics["steps"]))
    )


def score_table(scores: Sequence[Mapping]) -> str:
    """One row for each set and net, for each way of learning what it scores on both parts."""
    found = {(of["set"], of["net"], of["way"]): of for of in scores}
    head = ("set, net", *(f"{way}: {part}" for way in LEARNERS for part in ("train", "test")))
    rows = [
        (f"{name}, {net}", *(mean_sd(found[name, net, way][part], 1) for way in LEARNERS for part in ("train", "test")))
        for name, net in dict.fromkeys((of["set"], of["net"]) for of in scores)
    ]
    return f"Accuracy in percent\n\n{markdown_table(head, rows)}"


def agreement_table(found: Sequence[Mapping]) -> str:
    """One row for each regulariser and method, over all nets."""
    head = ("regulariser, method", "points", "certified", "evaluations", "most", "ŷ, mean", "ŷ", "value", "gap")
    rows = []
    for name, method in dict.fromkeys((of["regularizer"], of["method"]) for of in found):
        part = [of for of in found if (of["regularizer"], of["method"]) == (name, method)]
        counts = [str(sum(of[key] for of in part)) for key in ("points", "certified")]
        spent = (f"{fmean(of['evaluations'] for of in part):.1f}", str(max(of["most"] for of in part)))
        errors = (fmean(of["mean"] for of in part), *(max(of[key] for of in part) for key in ("y", "value", "gap")))
        rows.append((f"{name}, {method}", *counts, *spent, *(f"{error:.0e}" for error in errors)))
    return f"Mean and largest difference from the minimiser that halving finds\n\n{markdown_table(head, rows)}"


def step_table(found: Sequence[Mapping]) -> str:
    """One row for each set and net."""
    head = ("set, net", "mean distance", "largest", "class differs, percent")
    rows = [
        (f"{of['set']}, {of['net']}", mean_sd(of["mean"], 3), f"{max(of['largest']):.3f}", mean_sd(of["changed"], 1))
        for of in found
    ]
    return f"ŷ of 30 steps and the minimiser of their energy\n\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    sys.exit(main())
