"""Learn optimal transport maps as gradients of input convex networks, from samples alone.

The claim: the map that carries P to Q at least cost E |x − T(x)|² is the gradient of a convex function (Brenier 1991),
and an input convex network f finds it. f minimises the dual of the transport problem,

    min_f  E_P f(x) + E_Q f*(y),    f*(y) = sup_x xᵀy − f(x),

whose gradient needs only the maximisers x (Danskin). They are found by icnn.transforms.conjugate, from the guess of a
small network that learns them beside f (Makkuva et al. 2020; Amos 2023). The true maps are known: between Gaussians
they are linear, and Q = ∇ψ#P for a mixture P and a log-sum-exp ψ. The yardstick is the best affine map, fitted to the
truth that f never sees.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro
from torch import Generator, Tensor, nn

import icnn
from experiments._config import Common
from experiments._figures import flow_plot
from experiments._measures import Pair, best_linear, gaussians, mixture, moment_map, unexplained
from experiments._processes import launched
from experiments._record import Record, conducted, publish, write_record
from experiments._table import markdown_table, mean_sd
from experiments._training import Recipe, fit
from icnn.transforms import conjugate

log = logging.getLogger(__name__)

TEST, TRUTH_SEED = 20_000, 1_000  # points of the score; the seed of the distributions is this plus d
DRAWN = 300  # points of the picture
ACCURACY = 1e-3  # of the maximisers


@dataclass(frozen=True)
class Config(Common):
    """Learn optimal transport maps between known distributions."""

    out: Path = Path("runs/transport")
    gaussians: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Dimensions of the pairs of Gaussians."""
    mixtures: tuple[int, ...] = (2, 8, 32)
    """Dimensions of the mixtures and their images under the gradient of a log-sum-exp."""
    samples: int = 262_144
    """Points of P and of Q to learn from."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of f."""
    iterations: int = 4
    """Quasi-Newton iterations for the maximisers of a batch."""
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(
        default_factory=lambda: Recipe(epochs=6, batch=512, lr=1e-2, schedule="cosine")
    )
    quick: bool = False
    """Two dimensions and few steps, to see that everything works."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe.patience:
            raise ValueError("--patience: there is no validation loss here; expected 0")


class Scale:
    """One mean and one size, which keep a transport optimal: measured on a sample."""

    def __init__(self, sample: Tensor) -> None:
        self.mean, self.size = sample.mean(0), sample.var(0).mean().sqrt()

    def __call__(self, value: Tensor) -> Tensor:
        return (value - self.mean) / self.size

    def back(self, value: Tensor) -> Tensor:
        return self.mean + self.size * value


class Transporter(nn.Module):
    """f, and the network that guesses where f* is attained; both between standardised spaces."""

    def __init__(self, d: int, hidden: Sequence[int], iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.potential = icnn.FICNN(d, hidden, "squareplus", quadratic=d, strong_convexity=1e-3)
        self.guess = nn.Sequential(nn.Linear(d, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU(), nn.Linear(128, d))

    def loss(self, points: Tensor) -> Tensor:
        """The dual, and how far the guess is from the maximisers; points (batch, 2, d), one of P and one of Q."""
        x, y = points.unbind(1)
        guess = y + self.guess(y)
        found = conjugate(
            self.potential, y, start=guess.detach(), tol=ACCURACY, max_iter=self.iterations, on_failure="zero"
        )
        return self.potential(x).mean() + found.value.mean() + (guess - found.y).square().sum(-1).mean()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """∇f(x)."""
        return self.potential.given().tangent(x).slope


@dataclass(frozen=True)
class Task:
    """One pair of distributions, and the samples that a map is learned from."""

    name: str
    d: int
    pair: Pair

    def sample(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = Generator().manual_seed(seed)
        return self.pair.source(count, generator), self.pair.target(count, generator)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.transport")
    if config.quick:
        recipe = replace(config.recipe, epochs=8)
        config = replace(config, gaussians=(2,), mixtures=(2,), samples=8192, recipe=recipe)
    return conducted(config, run)


def run(config: Config) -> None:
    """Learn every map, score it, and leave the results in config.out."""
    tasks = [Task("Gaussian", d, gaussians(d, TRUTH_SEED + d)) for d in config.gaussians]
    tasks += [Task("mixture", d, mixture(d, TRUTH_SEED + d)) for d in config.mixtures]
    metrics = {f"{task.name} {task.d}": _judge(config, task) for task in tasks}
    seconds = sum(sum(found["seconds"]) for found in metrics.values())
    data = {"samples": config.samples, "scored": TEST, "seed of the distributions": f"{TRUTH_SEED} + d"}
    record = write_record(config.out / "record.json", "transport", config, config.seed, data, metrics, seconds)
    publish(report, record, config.out)


def _judge(config: Config, task: Task) -> dict[str, list[float]]:
    """Percent of unexplained variance of the maps learned, and their seconds, for each seed; and of the affine maps."""
    x, _ = task.sample(TEST, seed=-1)
    true = task.pair.transport(x)
    found: dict[str, list[float]] = {"icnn": [], "seconds": [], "affine by moments": []}
    for seed in config.seed:
        move, seconds = _learn(config, task, seed)
        by_moments = moment_map(x, *task.sample(config.samples, seed))
        found["icnn"].append(unexplained(move(x), true))
        found["affine by moments"].append(unexplained(by_moments, true))
        found["seconds"].append(seconds)
        if task.d == 2:
            points = {"P": x, "Q = T#P": true, f"∇f#P, seed {seed}": move(x)}
            file = config.out / f"{task.name.lower()}-seed{seed}.png"
            flow_plot(file, {name: part[:DRAWN] for name, part in points.items()})
    log.info("%s, d = %d: %s %% unexplained", task.name, task.d, ", ".join(f"{uvp:.3f}" for uvp in found["icnn"]))
    return {**found, "best affine": [unexplained(best_linear(x, true), true)]}


def _learn(config: Config, task: Task, seed: int) -> tuple[Callable[[Tensor], Tensor], float]:
    """The map learned from samples of this seed, and the seconds that it took."""
    x, y = task.sample(config.samples, seed)
    of_x, of_y = Scale(x), Scale(y)
    torch.manual_seed(seed)
    model = Transporter(task.d, config.hidden, config.iterations)
    fitted = fit(
        launched(),
        model,
        torch.stack((of_x(x), of_y(y)), 1),
        lambda model, points: model.loss(points),  # pyright: ignore[reportCallIssue]
        config.recipe,
        seed=seed,
        checkpoint=config.out / "checkpoints" / f"{task.name.lower()}-{task.d}-seed{seed}.ckpt",
    )
    return (lambda points: of_y.back(model(of_x(points)))), fitted.seconds


def report(record: Record, folder: Path) -> str:
    """One row for each pair: ours, with its worst seed, and the affine maps. The pictures are drawn by the run."""
    head = ("pair", "d", "∇f, worst seed", "∇f, mean", "best affine map", "affine map by moments", "seconds")
    rows = []
    for name, found in record["metrics"].items():
        uvp = found["icnn"]
        scores = [[max(uvp)], uvp, found["best affine"], found["affine by moments"]]
        rows.append((*name.split(), *(mean_sd(values, 2) for values in scores), f"{max(found['seconds']):.0f}"))
    return f"L2 unexplained variance, percent\n\n{markdown_table(head, rows)}"


if __name__ == "__main__":
    sys.exit(main())
