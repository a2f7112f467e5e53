"""Deep learning as optimal control: classify points by a flow whose time steps are fixed or learned.

The problem (Benning, Celledoni, Ehrhardt, Owren, Schönlieb 2019): points y_0 move by Euler steps of ẏ = tanh(W y + b),
controlled by W_k and b_k, until a plane separates the classes c,

    minimise ½ E |η(wᵀ y_K + μ) − c|²    where    y_{k+1} = y_k + h_k tanh(W_k y_k + b_k),  η the logistic function.

Three nets, which differ in the time steps:

    ResNet             h_k = T / K
    ODENet             h_k learned, of any sign
    ODENet + simplex   h_k learned, h ≥ 0 and Σ h_k = T: projected after each step of the training by icnn.QPLayer

All gradients come from one sweep of the costate, that of icnn.adjoints.residual_flow. No flow of the plane opens a
ring: points may be given further coordinates, zero at first, to move in. Whether they are, and T, is what has the least
validation loss at the first seed, and serves all seeds; the test points are used once, at the end.
"""

import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
import tyro
from torch import Generator, Tensor, nn

import icnn
from experiments._config import Common
from experiments._figures import Cloud, cloud_plot, steps_plot
from experiments._planar import DATA_SETS, Labelled
from experiments._processes import launched
from experiments._record import Record, conducted, publish, write_record
from experiments._table import markdown_table
from experiments._training import Recipe, fit
from icnn.adjoints import residual_flow

log = logging.getLogger(__name__)

NETS = ("ResNet", "ODENet", "ODENet + simplex")
DRAWN = 400  # points of a picture


@dataclass(frozen=True)
class Config(Common):
    """Classify points by residual networks whose time steps are fixed, free, or on a simplex."""

    out: Path = Path("runs/optimal_control")
    """Folder of the results and checkpoints; the run that it holds is continued."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Data and training are drawn once per seed; the first one also chooses the settings."""
    layers: int = 20
    """K, the time steps of every net."""
    zeros: tuple[int, ...] = (0, 1)
    """Further coordinates to choose from."""
    horizon: tuple[float, ...] = (2.0, 10.0)
    """T to choose from."""
    train: int = 1000
    """Points to learn from."""
    validation: int = 1000
    """Points to choose the settings by."""
    test: int = 1000
    """Points of the score."""
    lr: float = 0.03
    """Adam's step length, at its highest."""
    epochs: int = 60
    """Passes over the points to learn from."""
    batch: int = 100
    """Points per step."""
    quick: bool = False
    """Few layers, points and passes, to see that everything works."""


class Net(nn.Module):
    """The flow of K steps from (x, 0) and the affine function that reads it; float64."""

    step: Tensor

    def __init__(self, kind: str, zeros: int, layers: int, horizon: float) -> None:
        super().__init__()
        d, self.zeros, self.horizon, self.kind = 2 + zeros, zeros, horizon, kind
        self.weight = nn.Parameter(torch.randn(layers, d, d, dtype=torch.float64) / d**0.5)
        self.bias = nn.Parameter(torch.zeros(layers, d, dtype=torch.float64))
        self.w = nn.Parameter(torch.randn(d, dtype=torch.float64) / d**0.5)
        self.mu = nn.Parameter(torch.zeros((), dtype=torch.float64))
        step = torch.full((layers,), horizon / layers, dtype=torch.float64)
        if kind == "ResNet":
            self.register_buffer("step", step)
        else:
            self.step = nn.Parameter(step)
        self.projection = icnn.QPLayer()

    def state(self, points: Tensor, layers: int | None = None) -> Tensor:
        """y_k after the first of the layers, or after all."""
        y = nn.functional.pad(points, (0, self.zeros))
        return residual_flow(y, self.weight[:layers], self.bias[:layers], self.step[:layers])

    def forward(self, points: Tensor) -> Tensor:
        """η(wᵀ y_K + μ), the probability of class 1."""
        return torch.sigmoid(self.state(points) @ self.w + self.mu)

    @torch.no_grad()
    def project(self) -> None:
        """Move h to the nearest point of {h ≥ 0, Σ h = T}: the minimiser of ½|x|² − hᵀx there."""
        if self.kind == "ODENet + simplex":
            h = self.step
            total = h.new_tensor([self.horizon])
            row = torch.ones_like(h).unsqueeze(0)
            h.copy_(self.projection(torch.eye(len(h), dtype=h.dtype), -h, A=row, b=total, lower=torch.zeros_like(h)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.optimal_control")
    if config.quick:
        small = dict(
            layers=6, horizon=(3.0,), zeros=(1,), train=200, validation=100, test=100, epochs=12, batch=40, lr=0.1
        )
        config = replace(config, **small, seed=config.seed[:1])
    return conducted(config, run)


def run(config: Config) -> None:
    """Learn every net on every set of data, score it, and leave the results in config.out."""
    metrics: dict[str, dict[str, dict]] = {}
    for name in DATA_SETS:
        judged = {kind: _judge(config, name, kind) for kind in NETS}
        metrics[name] = {kind: found for kind, (found, _) in judged.items()}
        cloud_plot(config.out / f"{name}.png", {kind: panels for kind, (_, panels) in judged.items()})
    data = {"train": config.train, "validation": config.validation, "test": config.test}
    seconds = sum(found["spent"] for of in metrics.values() for found in of.values())
    record = write_record(config.out / "record.json", "optimal_control", config, config.seed, data, metrics, seconds)
    publish(report, record, config.out)


def _judge(config: Config, name: str, kind: str) -> tuple[dict, dict[str, Cloud]]:
    """What one net does on one set of data: the settings chosen, test accuracies and steps by seed; the first drawn."""
    counts = (config.train, config.validation, config.test)
    drawn = [split(name, counts, seed) for seed in config.seed]
    grid = list(itertools.product(config.zeros, config.horizon))
    trials = {at: _learn(config, name, kind, drawn[0], config.seed[0], *at) for at in grid}
    chosen = min(trials, key=lambda at: _loss(trials[at][0], drawn[0][1]))
    rest = zip(drawn[1:], config.seed[1:], strict=True)
    others = [_learn(config, name, kind, parts, seed, *chosen) for parts, seed in rest]
    learned = [trials[chosen], *others]
    accuracies = [accuracy(net, parts[2]) for (net, _), parts in zip(learned, drawn, strict=True)]
    log.info("%s, %s: %s %% by %s", name, kind, ", ".join(f"{percent:.1f}" for percent in accuracies), chosen)
    zeros, horizon = chosen
    found = {
        "zeros": zeros,
        "horizon": horizon,
        "accuracy": accuracies,
        "steps": [net.step.tolist() for net, _ in learned],
        "trials": [
            {"zeros": at[0], "horizon": at[1], "loss": _loss(net, drawn[0][1]), "accuracy": accuracy(net, drawn[0][1])}
            for at, (net, _) in trials.items()
        ],
        "spent": sum(seconds for _, seconds in (*trials.values(), *others)),
    }
    return found, clouds(learned[0][0], drawn[0][2], config.layers)


def split(name: str, counts: Sequence[int], seed: int) -> list[Labelled]:
    """As many points of the data set as each part takes; nothing is drawn twice."""
    generator = Generator().manual_seed(seed)
    return [DATA_SETS[name](count, generator) for count in counts]


def _learn(
    config: Config, name: str, kind: str, parts: Sequence[Labelled], seed: int, zeros: int, horizon: float
) -> tuple[Net, float]:
    """The net fitted to the first part, and the seconds of its training."""
    points, classes = parts[0]
    torch.manual_seed(seed)
    net = Net(kind, zeros, config.layers, horizon)
    run = f"{name}-{kind.lower().replace(' + ', '-')}-zeros{zeros}-horizon{horizon}-seed{seed}"
    fitted = fit(
        launched(),
        net,
        torch.cat((points, classes.unsqueeze(1)), 1),
        lambda model, batch: (model(batch[:, :-1]) - batch[:, -1]).square().mean() / 2,
        Recipe(config.epochs, config.batch, config.lr, schedule="cosine"),
        seed=seed,
        checkpoint=config.out / "checkpoints" / f"{run}.ckpt",
        after_step=net.project,
        level=logging.DEBUG,
    )
    return net, fitted.seconds


@torch.no_grad()
def _loss(net: Net, data: Labelled) -> float:
    return (net(data.points) - data.classes).square().mean().item() / 2


@torch.no_grad()
def accuracy(net: Net, data: Labelled) -> float:
    """Percent of the points whose class is the more probable one."""
    return 100 * ((net(data.points) > 0.5) == (data.classes > 0.5)).double().mean().item()


def _relative(steps: Sequence[float]) -> list[float]:
    """In units of the mean length."""
    mean = fmean(map(abs, steps))
    return [step / mean for step in steps]


@torch.no_grad()
def clouds(net: Net, data: Labelled, layers: int) -> dict[str, Cloud]:
    """The points on their way, in the plane of w and the direction in which they spread most beside it.

    The first panel is the plane of the input, where all other coordinates are zero, with what the net makes of it.
    """
    points, classes = (part[:DRAWN] for part in data)
    along = net.w.norm()
    late = net.state(points)
    across = late - late.mean(0) - torch.outer((late - late.mean(0)) @ net.w, net.w) / along**2
    frame = torch.stack((net.w / along, torch.linalg.svd(across, full_matrices=False).Vh[0]))
    found = {"input": Cloud(points, classes, net)}
    for k in sorted({layers // 4, layers // 2, layers}):
        score = (lambda plane: torch.sigmoid(along * plane[:, 0] + net.mu)) if k == layers else None
        found[f"after {k} of {layers} steps"] = Cloud(net.state(points, k) @ frame.mT, classes, score)
    return found


def report(record: Record, folder: Path) -> str:
    """Test accuracies and the trials behind the settings; and steps.png."""
    metrics = record["metrics"]
    relative = {
        name: {kind: [_relative(steps) for steps in found["steps"]] for kind, found in of.items()}
        for name, of in metrics.items()
    }
    steps_plot(folder / "steps.png", relative, "h_k K / Σ|h|")
    return f"{table(metrics)}\n\n{trials_table(metrics)}"


def table(metrics: Mapping[str, Mapping[str, Mapping]]) -> str:
    """One row for each net on each set of data."""
    head = ("data, net", "zeros", "T", "best", "mean", "worst")
    rows = []
    for name, of in metrics.items():
        for kind, found in of.items():
            numbers = (max(found["accuracy"]), fmean(found["accuracy"]), min(found["accuracy"]))
            settings = (str(found["zeros"]), f"{found['horizon']:g}")
            rows.append((f"{name}, {kind}", *settings, *(f"{value:.1f}" for value in numbers)))
    return f"Test accuracy over the seeds, percent\n\n{markdown_table(head, rows)}"


def trials_table(metrics: Mapping[str, Mapping[str, Mapping]]) -> str:
    """The validation accuracy of every setting at the first seed."""
    trials = metrics["donut1d"]["ResNet"]["trials"]
    head = ("data, net", *(f"zeros {trial['zeros']}, T {trial['horizon']:g}" for trial in trials))
    rows = [
        (f"{name}, {kind}", *(f"{trial['accuracy']:.1f}" for trial in found["trials"]))
        for name, of in metrics.items()
        for kind, found in of.items()
    ]
    return f"Validation accuracy of every setting at the first seed, percent\n\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    sys.exit(main())
