"""The sweeps of a residual network in closed form, beside autograd on the loop that defines it: time and memory.

    python -m benchmarks.flow [--quick] [--out FILE]

    y <- y + h tanh(W_k y + b_k),  k = 1 … K,        h = 1/K,  W_k ~ N(0, 1/d)

Both compute y_K and gradients of ⟨p, y_K⟩ for a p that is drawn once; they must agree. What is asked for:

    trained network    the gradient in y of a network whose W and b require gradients, which autograd, asked for y
                       alone, leaves out; residual_flow is given W and b detached
    fixed network      the gradient in y where nothing else requires one
    all gradients      those in y, W and b

Memory is the largest sum of bytes that torch's allocator holds at one time, above what it held before; torch.profiler
tells it of every allocation and release. What the inputs take is not in it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from icnn.adjoints import residual_flow

from ._memory import peak_bytes
from ._report import arguments, command, machine, table, turns, write

SIZES = ((64, 20, 256), (16, 20, 256), (128, 20, 256), (64, 100, 256), (64, 20, 2048))
HEAD = ("d", "K", "batch", "dtype", "asked for", "autograd ms", "ours ms", "ours / autograd", "recomputed / autograd")
MEMORY_HEAD = (*HEAD[:5], "autograd MB", "ours MB", *HEAD[7:])
ABOUT = """Medians of runs that take turns in one process, in seconds of its processor. Recomputed is residual_flow with
recompute=True. "Trained network" is the gradient in y of a network whose weights require gradients, "fixed network" the
same where they do not; of ours the weights are detached in both."""
MEMORY = """Peak memory beyond the inputs, by torch.profiler's record of every allocation and release. Autograd keeps
y_k and tanh of every step of a network whose weights require gradients, and tanh alone of a fixed one; ours keeps tanh
alone:"""


class Case(NamedTuple):
    """One network and what is asked of it."""

    y: Tensor
    weight: Tensor
    bias: Tensor
    p: Tensor
    asked: str

    def by_autograd(self) -> Sequence[Tensor]:
        trained = self.asked != "fixed network"
        weight, bias = self.weight.requires_grad_(trained), self.bias.requires_grad_(trained)
        return self._gradients(loop, weight, bias)

    def ours(self, recompute: bool = False) -> Sequence[Tensor]:
        weight, bias = self.weight.detach(), self.bias.detach()
        if self.asked == "all gradients":
            weight, bias = weight.requires_grad_(), bias.requires_grad_()
        return self._gradients(partial(residual_flow, recompute=recompute), weight, bias)

    def _gradients(self, flow: Callable[..., Tensor], weight: Tensor, bias: Tensor) -> Sequence[Tensor]:
        wanted = (self.y, weight, bias) if self.asked == "all gradients" else (self.y,)
        return torch.autograd.grad(flow(self.y, weight, bias, 1 / len(weight)), wanted, self.p)


def loop(y: Tensor, weight: Tensor, bias: Tensor, h: float) -> Tensor:
    for W, b in zip(weight, bias, strict=True):
        y = y + h * torch.tanh(torch.nn.functional.linear(y, W, b))
    return y


def main() -> None:
    args = arguments(__doc__ or "", "flow.md")
    torch.set_num_threads(1)
    sizes, rounds = (SIZES[:1], 3) if args.quick else (SIZES, 41)
    cases = [
        draw(*size, dtype, asked)
        for size in sizes
        for dtype in (torch.float64, torch.float32)
        for asked in ("trained network", "fixed network", "all gradients")
    ]
    measured = [measure(case, rounds) for case in cases]
    times, memories = zip(*measured, strict=True)
    tables = table(HEAD, times), MEMORY, table(MEMORY_HEAD, memories)
    write(args.out, "# The adjoint of a residual network", f"`{command()}`", machine(("torch",)), ABOUT, *tables)


def draw(d: int, steps: int, batch: int, dtype: torch.dtype, asked: str) -> Case:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, d), (steps, d, d), (steps, d), (batch, d))
    y, weight, bias, p = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return Case(y.requires_grad_(), weight / d**0.5, bias, p, asked)


def measure(case: Case, rounds: int) -> tuple[list[object], list[object]]:
    """A row of each table."""
    runs = {"autograd": case.by_autograd, "ours": case.ours, "recomputed": partial(case.ours, recompute=True)}
    true = case.by_autograd()
    for run in runs.values():
        for gradient, right in zip(run(), true, strict=True):
            torch.testing.assert_close(gradient, right)
    seconds = turns(runs, rounds, patience=2.0, clock=time.process_time)
    memory = {name: peak_bytes(run) for name, run in runs.items()}
    steps, d = case.bias.shape
    about = [d, steps, len(case.y), str(case.y.dtype).removeprefix("torch."), case.asked]
    return [*about, *_row(seconds, 1e3)], [*about, *_row(memory, 1e-6)]


def _row(found: Mapping[str, float], unit: float) -> list[str]:
    autograd, ours, recomputed = found["autograd"], found["ours"], found["recomputed"]
    return [f"{unit * autograd:.2f}", f"{unit * ours:.2f}", f"{ours / autograd:.2f}", f"{recomputed / autograd:.2f}"]


if __name__ == "__main__":
    main()
