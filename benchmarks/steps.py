"""What one training step costs when the argmin is differentiated through bundles, and through unrolled descent.

    python -m benchmarks.steps [--quick] [--out FILE]

    ŷ = argmin over y in [0, 1]^159 of f(x, y) - H(y),    loss |ŷ - target|², Adam in all weights of f

f is a PICNN of the size for BibTeX: x of 1836 entries, batch 128, float32, one thread; widths (600, 159) are those of
the paper (Amos, Xu, Kolter 2017, section 6.2). What depends on x alone is computed once for each step in every way.
Unrolled are 30 steps of gradient descent with momentum 0.3 and rate 0.1 in logits: by autograd of autograd, as one
writes it down; and as `icnn.argmin` does it, which watches its gap on the way. Before, 100 steps through bundles give
the network something to say: with fresh weights one or two iterations find the minimum.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import icnn

from ._report import command, log, machine, parser, table, turns, write

INPUTS, LABELS, BATCH = 1836, 159, 128
WIDTHS = ((600,), (600, 159))
STEPS, RATE, MOMENTUM = 30, 0.1, 0.3
DENSITIES = 0.04, 0.015  # of x and of the labels
WARM = 100


def bundles(f: icnn.PICNN, x: Tensor) -> Tensor:
    return icnn.argmin(f, x, regularizer="entropy", method="bundle", max_iter=5, on_failure="zero").y


def unrolled(f: icnn.PICNN, x: Tensor) -> Tensor:
    descent = icnn.Descent("momentum", lr=RATE, beta=MOMENTUM)
    return icnn.argmin(f, x, regularizer="entropy", method=descent, max_iter=STEPS, gradient="unrolled").y


def written_down(f: icnn.PICNN, x: Tensor) -> Tensor:
    energy = f.given(x)
    u = torch.zeros(len(x), LABELS, requires_grad=True)
    v = torch.zeros_like(u)
    for _ in range(STEPS):
        y = u.sigmoid()
        (slope,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
        v = MOMENTUM * v - RATE * (slope + u)
        u = u + v
    return u.sigmoid()


Way = Callable[[icnn.PICNN, Tensor], Tensor]
WAYS: dict[str, Way] = {
    "5 bundle iterations": bundles,
    "30 unrolled steps, autograd of autograd": written_down,
    "30 unrolled steps, icnn.argmin": unrolled,
}


class Task:
    """A network that has learned a little, and the batch that it goes on to learn."""

    def __init__(self, widths: tuple[int, ...], warm: int) -> None:
        torch.manual_seed(0)
        self.f = icnn.PICNN(INPUTS, LABELS, widths)
        self.optimizer = torch.optim.Adam(self.f.parameters(), lr=1e-3)
        self.x = (torch.rand(BATCH, INPUTS) < DENSITIES[0]).float()
        self.target = (torch.rand(BATCH, LABELS) < DENSITIES[1]).float()
        for _ in range(warm):
            self.step(bundles)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # so that every way is timed on the same weights

    def step(self, way: Way) -> None:
        self.optimizer.zero_grad()
        (way(self.f, self.x) - self.target).square().sum(-1).mean().backward()
        self.optimizer.step()

    @torch.no_grad()
    def evaluations(self) -> float:
        """Of f by the bundles, mean over the batch."""
        asked = dict(regularizer="entropy", method="bundle", max_iter=5, gradient="none", on_failure="zero")
        return icnn.argmin(self.f, self.x, **asked).evaluations.double().mean().item()  # pyright: ignore


def main() -> None:
    args = parser(__doc__ or "", "steps.md").parse_args()
    torch.set_num_threads(1)
    rows = []
    for widths in WIDTHS:
        task = Task(widths, 2 if args.quick else WARM)
        runs = {name: partial(task.step, way) for name, way in WAYS.items()}
        seconds = turns(runs, 2 if args.quick else 9, 2.0, time.process_time)
        first = seconds[next(iter(WAYS))]
        count = {next(iter(WAYS)): f"{task.evaluations():.1f}"}
        rows += [
            (
                " ".join(map(str, widths)),
                name,
                count.get(name, str(STEPS)),
                f"{1e3 * taken:.0f}",
                f"{first / taken:.2f}",
            )
            for name, taken in seconds.items()
        ]
        log.info("%s: %s", widths, seconds)
    about = "Medians of runs that take turns in one process, processor time."
    title = "# A training step, through bundles and unrolled"
    found = table(("widths", "way", "evaluations", "ms", "bundles over this"), rows)
    write(args.out, title, f"`{command()}`", machine(("torch",)), about, found)


if __name__ == "__main__":
    main()
