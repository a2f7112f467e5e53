"""Whole inferences beside the network evaluations that they cannot do without.

    python -m benchmarks.inference [--quick] [--out FILE]

    minimise over y in [0, 1]^159  f(x, y) - H(y)        by ten iterations of the bundle-entropy method

f is a PICNN of the size for BibTeX (x 1836, y 159, hidden 600, ReLU) in float32, for a batch of 128 sparse x.
Fresh weights would end after two iterations; they are multiplied by four, so that most instances need all ten.
The yardstick is one evaluation of the x-path and ten of value and slope in y along the y-path, once by autograd
and once by the sweep of the network itself. The ten models are solved again alone, with all cuts taken so far.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import icnn
from icnn.networks import Energy

from ._report import arguments, command, machine, round_robin, table, write

X, Y, HIDDEN, BATCH, ITERATIONS = 1836, 159, (600,), 128, 10
SPREAD, DENSITY = 4.0, 0.04
HEAD = ("run", "ms", "inference / run")
PATH, AUTOGRAD, SWEEP = "x-path", "ten slopes by autograd", "ten slopes by the sweep"
MODELS, WHOLE = "ten models alone", "inference"


@torch.no_grad()
def main() -> None:
    args = arguments(__doc__ or "", "inference.md")
    f, x = draw()
    points = [torch.full((BATCH, Y), 0.5)]
    solution = infer(f, x, lambda _, y: points.append(y))
    seconds = round_robin(runs(f, x, points[:ITERATIONS]), rounds=3 if args.quick else 50)
    left = int((solution.iterations == ITERATIONS).sum())
    about = f"Medians of runs that take turns in one process. {left} of {BATCH} instances take all {ITERATIONS} models."
    write(args.out, "# Inference", f"`{command()}`", machine(("torch",)), about, table(HEAD, rows(seconds)))


def draw(seed: int = 0) -> tuple[icnn.PICNN, Tensor]:
    """The network and a batch of x with a few ones."""
    torch.manual_seed(seed)
    f = icnn.PICNN(X, Y, HIDDEN)
    for parameter in f.parameters():
        parameter.mul_(SPREAD)
    return f, (torch.rand(BATCH, X) < DENSITY).float()


def infer(
    f: icnn.PICNN, x: Tensor, callback: Callable[[int, Tensor], None] | None = None
) -> icnn.inference.ArgminSolution:
    return icnn.argmin(
        f, x, regularizer="entropy", method="bundle", max_iter=ITERATIONS, gradient="none", callback=callback
    )


def runs(f: icnn.PICNN, x: Tensor, points: list[Tensor]) -> dict[str, Callable[[], object]]:
    energy = f.given(x)
    return {
        PATH: partial(f.given, x),
        AUTOGRAD: lambda: [by_autograd(energy, y) for y in points],
        SWEEP: lambda: [energy.tangent(y) for y in points],
        MODELS: partial(solve_all, models(energy, points)),
        WHOLE: partial(infer, f, x),
    }


@torch.enable_grad()
def by_autograd(energy: Energy, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = y.detach().requires_grad_()
    value = energy(leaf)
    return value, torch.autograd.grad(value.sum(), leaf)[0]


def models(energy: Energy, points: list[Tensor]) -> list[icnn.EntropyBundle]:
    """The model of each iteration, in float64."""
    y = torch.stack(points, 1).double()
    value, slope = (torch.stack(parts, 1) for parts in zip(*(energy.tangent(p)[:2] for p in points), strict=True))
    offset = value.double() - (slope.double() * y).sum(-1)
    return [icnn.EntropyBundle(slope[:, :k].double(), offset[:, :k]) for k in range(1, len(points) + 1)]


def solve_all(bundles: list[icnn.EntropyBundle]) -> None:
    for bundle in bundles:
        icnn.solve(icnn.EntropyBundle(bundle.G, bundle.o), on_failure="zero")


def rows(seconds: dict[str, float]) -> list[list[str]]:
    whole = seconds.pop(WHOLE)
    sums = {f"{PATH} + {slopes}": seconds[PATH] + seconds[slopes] for slopes in (AUTOGRAD, SWEEP)}
    return [
        [name, f"{1e3 * time:.2f}", f"{whole / time:.2f}"] for name, time in ({WHOLE: whole} | seconds | sums).items()
    ]


if __name__ == "__main__":
    main()
