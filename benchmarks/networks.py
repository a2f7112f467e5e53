"""Value and input gradient of an input convex network beside an unconstrained one of the same widths.

    python -m benchmarks.networks [--quick] [--out FILE]

Both have the same hidden layers; ours also has the skips from the input to every layer and the map that keeps weights
non-negative. Without the skips it has the products of the MLP. The MLP is differentiated by autograd; ours by its own
sweep, which builds no graph (`tangent`), and by autograd, as a training that differentiates the gradient needs it.
Compiled: by torch.compile, forward and gradient.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

import icnn

from ._report import arguments, command, machine, round_robin, table, write

OURS, BARE = "icnn, sweep", "icnn without skips, sweep"
AUTOGRAD, COMPILED = "icnn, autograd", "icnn, compiled"
MLP, MLP_COMPILED = "MLP, autograd", "MLP, compiled"
RUNS = (MLP, OURS, BARE, AUTOGRAD, MLP_COMPILED, COMPILED)
RATIOS = ((OURS, MLP), (BARE, MLP), (AUTOGRAD, MLP), (COMPILED, MLP_COMPILED))
HEAD = ("d", "hidden", "batch", "activation", *(f"{a}, ms" for a in RUNS), *(f"{a} / {b}" for a, b in RATIOS))


class Shape(NamedTuple):
    """Of input, hidden layers and batch."""

    d: int
    hidden: tuple[int, ...]
    batch: int
    activation: str


SHAPES = (
    Shape(8, (64, 64), 256, "relu"),
    Shape(32, (200, 200), 256, "relu"),
    Shape(32, (200, 200), 256, "softplus"),
    Shape(159, (600,), 128, "relu"),
    Shape(64, (128,) * 8, 512, "relu"),
    Shape(64, (512, 512), 1024, "softplus"),
)


def main() -> None:
    args = arguments(__doc__ or "", "networks.md")
    rounds = 5 if args.quick else 200
    shapes = SHAPES[:1] if args.quick else SHAPES
    lines = [line for shape in shapes for line in rows(shape, round_robin(runs(shape), rounds))]
    about = "Medians of runs that take turns in one process; float32."
    write(args.out, "# Networks", f"`{command()}`", machine(("torch",)), about, table(HEAD, lines))


def runs(shape: Shape) -> dict[str, Callable[[], object]]:
    """Each warmed up, which for the compiled ones means compiled."""
    torch.manual_seed(0)
    f, plain = icnn.FICNN(shape.d, shape.hidden, shape.activation), mlp(shape)
    bare, y = icnn.FICNN(shape.d, shape.hidden, shape.activation, skips=False), torch.randn(shape.batch, shape.d)
    found: dict[str, Callable[[], object]] = {
        MLP: partial(by_autograd, plain, y),
        OURS: lambda: f.given().tangent(y),
        BARE: lambda: bare.given().tangent(y),
        AUTOGRAD: partial(by_autograd, f, y),
        MLP_COMPILED: partial(by_autograd, torch.compile(plain), y),
        COMPILED: partial(by_autograd, torch.compile(f), y),
    }
    for run in found.values():
        run()
    return found


def mlp(shape: Shape) -> nn.Module:
    unit = {"relu": nn.ReLU, "softplus": nn.Softplus}[shape.activation]
    pairs = zip((shape.d, *shape.hidden), shape.hidden, strict=False)
    hidden = [part for a, b in pairs for part in (nn.Linear(a, b), unit())]
    return nn.Sequential(*hidden, nn.Linear(shape.hidden[-1], 1), nn.Flatten(0))


def by_autograd(f: Callable[[Tensor], Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = y.clone().requires_grad_()
    value = f(leaf)
    return value, torch.autograd.grad(value.sum(), leaf)[0]


def rows(shape: Shape, seconds: dict[str, float]) -> Iterator[list[str]]:
    times = [f"{1e3 * seconds[name]:.2f}" for name in RUNS]
    ratios = [f"{seconds[a] / seconds[b]:.2f}" for a, b in RATIOS]
    yield [str(shape.d), " ".join(map(str, shape.hidden)), str(shape.batch), shape.activation, *times, *ratios]


if __name__ == "__main__":
    main()
