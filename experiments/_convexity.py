"""What convexity is worth to a function learned from samples of its gradient: 1 - cos y and ½|y|².

Where the function is convex, a convex network could do with fewer samples, and go on sensibly outside of them. The
control is the same network with weights of any sign: what the two share is not due to convexity. Where the function is
not convex, here 1 - cos y beyond π/2, the convex network ends at the best convex function, for 1 - cos y on (-π, π)
with a derivative that follows sin y and then stays flat.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Generator, Tensor

from experiments._energies import Kind, Nets, Normalised, Samples, learn, sampled, scores
from experiments._figures import lines_plot
from experiments._hamiltonians import Function, kinetic

KINDS: tuple[Kind, ...] = ("residual", "convex", "free")
WHERE = ("inside", "outside")  # of the ball of the samples
TEST, TEST_SEED, NOISE_SEED = 1_000, 2_000, 3_000
SAMPLES = 100


@dataclass(frozen=True)
class Target:
    """A function on a ball of this radius around zero."""

    function: Function
    d: int
    radius: float

    def sample(self, count: int, seed: int, outside: bool = False) -> Samples:
        """From the ball, or from outside of it up to twice the radius; uniform."""
        generator = Generator().manual_seed(seed)
        direction = torch.randn(count, self.d, generator=generator, dtype=torch.float64)
        inner, outer = (1, 2**self.d) if outside else (0, 1)
        share = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        length = self.radius * (inner + (outer - inner) * share) ** (1 / self.d)
        return sampled(self.function, length * direction / direction.norm(dim=-1, keepdim=True))


def one_minus_cos(y: Tensor) -> Tensor:
    return (1 - y.cos()).sum(-1)


FUNCTIONS = {
    "1 − cos y up to π/2": Target(one_minus_cos, 1, math.pi / 2),
    "1 − cos y up to π": Target(one_minus_cos, 1, math.pi),
    "½‖y‖² in the plane": Target(kinetic, 2, 1.0),
}
CONVEX = ("1 − cos y up to π/2", "½‖y‖² in the plane")


@dataclass(frozen=True)
class Study:
    """The networks to compare, the seeds of samples and weights, and the evaluations of a fit."""

    nets: Nets
    seeds: Sequence[int]
    evaluations: int

    def fitted(self, target: Target, kind: Kind, count: int, noise: float) -> list[Normalised]:
        """Networks learned from so many noisy gradients, one for each seed; the ridge grows with the noise."""
        learned = []
        for seed in self.seeds:
            true, generator = target.sample(count, seed), Generator().manual_seed(NOISE_SEED + seed)
            drawn = torch.randn(true.slope.shape, generator=generator, dtype=torch.float64)
            samples = replace(true, slope=true.slope + noise * true.slope.square().mean().sqrt() * drawn)
            learned.append(self.nets.build(kind, samples, seed))
            learn(learned[-1], samples, "derivatives", 1e-8 + 1e-2 * noise**2, self.evaluations)
        return learned

    def of_functions(self) -> dict[str, dict]:
        """From many exact gradients: errors {function: {kind: {measure: by seed}}}, and curves of the first seed."""
        found: dict[str, dict] = {}
        curves: dict[str, dict] = {}
        for name, target in FUNCTIONS.items():
            learned = {kind: self.fitted(target, kind, SAMPLES, 0.0) for kind in KINDS[:2]}
            found[name] = {kind: _judged(target, some) for kind, some in learned.items()}
            if target.d == 1:
                y = torch.linspace(-1.6, 1.6, 321, dtype=torch.float64)[:, None] * target.radius
                shown = {"truth": target.function, **{kind: some[0] for kind, some in learned.items()}}
                curves[name] = {key: (y[:, 0], _from_zero(function, y)) for key, function in shown.items()}
        return {"errors": found, "curves": curves}

    def of_samples(self, counts: Sequence[int], noise: float) -> list[dict]:
        """Gradient errors, by seed, of each kind of network from few samples, exact and noisy."""
        found = []
        for name, level, count, kind in itertools.product(CONVEX, (0.0, noise), counts, KINDS):
            target = FUNCTIONS[name]
            learned = self.fitted(target, kind, count, level)
            for where in WHERE:
                test = target.sample(TEST, TEST_SEED, outside=where == "outside")
                errors = [scores(net, test)["gradient"] for net in learned]
                key = {"function": name, "noise": level, "where": where, "kind": kind, "samples": count}
                found.append({**key, "errors": errors})
        return found


def _judged(target: Target, learned: Sequence[Normalised]) -> dict[str, list[float]]:
    test = target.sample(TEST, TEST_SEED)
    errors = [scores(net, test) for net in learned]
    return {measure: [error[measure] for error in errors] for measure in ("value", "gradient")}


def functions_plot(file: Path, curves: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]) -> None:
    """The functions of one variable and what was learned of them; where the samples were is shaded."""
    bands = {name: (-FUNCTIONS[name].radius, FUNCTIONS[name].radius) for name in curves}
    lines_plot(file, curves, ("y", "F(y) − F(0)"), bands)


def samples_plot(file: Path, found: Sequence[Mapping]) -> None:
    """Mean errors against the number of samples."""
    lines_plot(file, _panels(found), ("samples", "error of ∇F, relative"), xscale="log", yscale="log")


@torch.no_grad()
def _from_zero(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    return function(y) - function(torch.zeros_like(y[:1]))


def _panels(found: Sequence[Mapping]) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    panels: dict[str, dict[str, list]] = {}
    for row in found:
        title = f"{row['function']}\nnoise {row['noise']:g}, {row['where']}"
        panels.setdefault(title, {}).setdefault(row["kind"], []).append((row["samples"], fmean(row["errors"])))
    return {
        title: {
            kind: (torch.tensor([n for n, _ in line]), torch.tensor([e for _, e in line])) for kind, line in of.items()
        }
        for title, of in panels.items()
    }
