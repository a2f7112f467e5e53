"""Every network convex, and really curved: all architectures, positivity maps and activations; and edits found out.

    python -m benchmarks.convexity [--quick] [--out FILE]

Each network is asked in float64 at the start, after 200 steps of Adam towards a convex function, and after 200 steps
from the start again towards the negative of it, which pushes the weights to the border of what is allowed:

    violation    max  [f(t y₁ + (1 − t) y₂) − t f(y₁) − (1 − t) f(y₂)]₊ / (|f| + sd f)      demanded: at most 1e-10
    curvature    median [t f(y₁) + (1 − t) f(y₂) − f(t y₁ + (1 − t) y₂)] / sd f              demanded: above 1e-3
    certify      the verdict of icnn.certify                  demanded: CONVEX, or AFFINE where the curvature is zero

over 10,000 random chords, ends normal of standard deviation 2, each at an x of its own; |f| is the largest of the three
values, sd f the standard deviation over all ends. Towards a concave function the best convex one may be affine:
there the curvature is only reported, zero if below 1e-14. Beside a curvature that is too small stands the share of
units that move over 256 inputs, in the layer where it is least.

Then networks with an edit that breaks convexity: where certify stops, and the chord that falsify finds, by its gap and
its share of the largest |f| at its three points.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

import icnn
from icnn.certificates import Curvature, Verdict, Violation
from icnn.networks import (
    CONVEX_ACTIVATIONS,
    POSITIVITY,
    Activation,
    ConvexNetwork,
    centred,
    leaky_relu,
    log_sum_exp,
    maxout,
    norm,
)

from ._edits import EDITS, REFUSED, Users, steep, unproject_
from ._report import arguments, command, log, machine, table, write

VIOLATION, FLAT = 1e-10, 1e-3  # at most, and above
ROUNDING = 1e-14  # a curvature below it is none
SPREAD = 2.0  # standard deviation of the ends of chords
BATCH, RATE = 32, 3e-3
CONVS, DENSE = ((8, 3, 1), (8, 2, 2)), (12,)
START, TO_CONVEX, TO_CONCAVE = "start", "convex target", "concave target"
WHEN = (START, TO_CONVEX, TO_CONCAVE)
HEAD = ("architecture", "nets", "worst violation", *(f"least curvature, {when}" for when in WHEN), "CONVEX", "AFFINE")
EDIT_HEAD = ("edit", "certify stops at", "reason", "gap of the chord", "gap / size of f")

Build = Callable[..., ConvexNetwork]
UNITS: tuple[str | Activation, ...] = (
    *CONVEX_ACTIVATIONS,
    leaky_relu(0.2),
    centred("softplus"),
    maxout(2),
    norm(2),
    log_sum_exp(2),
)
FICNN = partial(icnn.FICNN, 5, (12, 8))
PICNN = partial(icnn.PICNN, 4, 5, (12, 8))
PICTURE = partial(icnn.ConvFICNN, (1, 4, 3), CONVS, DENSE)
PICTURE_OF_X = partial(icnn.ConvPICNN, (2, 4, 3), (1, 4, 3), CONVS, DENSE)
SIGNAL = partial(icnn.ConvFICNN, (2, 7), CONVS, DENSE)
SIGNAL_OF_X = partial(icnn.ConvPICNN, (1, 6), (2, 6), CONVS, DENSE)
RESIDUAL = partial(icnn.ResidualICNN, 5, 8, 3)
OF_ALL_UNITS: Mapping[str, Build] = MappingProxyType(
    {
        "FICNN": FICNN,
        "FICNN, no skips": partial(FICNN, skips=False),
        "FICNN, quadratic": partial(FICNN, quadratic=2),
        "FICNN, strong convexity": partial(FICNN, strong_convexity=0.3),
        "FICNN, monotone": partial(FICNN, monotone=(1, -1, 0, 1, 0)),
        "PICNN": PICNN,
        "PICNN, quadratic": partial(PICNN, quadratic=2),
        "PICNN, monotone": partial(PICNN, monotone=1),
        "ConvFICNN": PICTURE,
        "ConvFICNN, no skips": partial(PICTURE, skips=False),
        "ConvPICNN": PICTURE_OF_X,
        "ConvFICNN of a signal": SIGNAL,
        "ConvPICNN of a signal": SIGNAL_OF_X,
        "ResidualICNN": RESIDUAL,
        "ResidualICNN, monotone": partial(RESIDUAL, monotone=-1),
    }
)
OF_THEIR_OWN_UNIT: Mapping[str, Build] = MappingProxyType(
    {
        "MaxAffine": partial(icnn.MaxAffine, 5, 16),
        "MaxAffine, quadratic": partial(icnn.MaxAffine, 5, 16, quadratic=2),
        "MaxAffine, monotone": partial(icnn.MaxAffine, 5, 16, monotone=1),
        "LogSumExp": partial(icnn.LogSumExp, 5, 16),
        "LogSumExp, quadratic": partial(icnn.LogSumExp, 5, 16, quadratic=2),
        "LogSumExp, monotone": partial(icnn.LogSumExp, 5, 16, monotone=1),
    }
)


class Effort(NamedTuple):
    steps: int
    chords: int
    maps: tuple[str, ...]
    units: tuple[str | Activation, ...]


FULL = Effort(200, 10_000, tuple(POSITIVITY), UNITS)
QUICK = Effort(20, 1_000, ("project", "exp"), ("relu", maxout(2)))


@dataclass(frozen=True)
class Finding:
    """One network at one time."""

    architecture: str
    net: str
    when: str
    violation: float
    curvature: float
    verdict: Verdict
    alive: float

    @property
    def faults(self) -> list[str]:
        """The demands that it misses."""
        flat = self.when != TO_CONCAVE and not self.curvature > FLAT
        faults = [f"violation {self.violation:.1e}"] * (not self.violation <= VIOLATION)
        faults += [f"curvature {self.curvature:.1e}, units alive: {self.alive:.0%} in one layer"] * flat
        return faults + [repr(self.verdict)] * (not self.proved)

    @property
    def proved(self) -> bool:
        """Whether the verdict is convex, and affine only where no chord is bent."""
        bent = self.curvature > ROUNDING
        return self.verdict.curvature is Curvature.CONVEX or (self.verdict.curvature is Curvature.AFFINE and not bent)


def main() -> None:
    args = arguments(__doc__ or "", "convexity.md")
    effort = QUICK if args.quick else FULL
    findings = list(examine_all(effort))
    faults = [[f.architecture, f.net, f.when, "; ".join(f.faults)] for f in findings if f.faults]
    missed = table(("architecture", "net", "when", "missed"), faults) if faults else "Every demand is met."
    about = f"{effort.chords:,} chords for each of {len(findings) // len(WHEN)} networks at each of the three times."
    parts = [about, table(HEAD, summaries(findings)), missed, "## Edits", table(EDIT_HEAD, list(edited()))]
    write(args.out, "# Convexity", f"`{command()}`", machine(("torch",)), *parts)


def examine_all(effort: Effort) -> Iterator[Finding]:
    """The findings, architecture by architecture."""
    for architecture, build in OF_ALL_UNITS.items():
        log.info("%s", architecture)
        for positivity, unit in itertools.product(effort.maps, effort.units):
            name = unit if isinstance(unit, str) else unit.name
            make = partial(build, positivity=positivity, activation=unit)
            yield from examine(architecture, f"{positivity}, {name}", make, effort)
    for architecture, build in OF_THEIR_OWN_UNIT.items():
        for positivity in effort.maps:
            yield from examine(architecture, positivity, partial(build, positivity=positivity), effort)


def examine(architecture: str, net: str, make: Build, effort: Effort) -> Iterator[Finding]:
    """One network, as it starts and as it is trained."""
    torch.manual_seed(0)
    start = make().double()
    target = convex_target(start)
    trained = {
        START: start,
        TO_CONVEX: train(copy.deepcopy(start), target, effort.steps),
        TO_CONCAVE: train(copy.deepcopy(start), lambda *inputs: -target(*inputs), effort.steps),
    }
    for when, f in trained.items():
        yield Finding(architecture, net, when, *measure(f, effort.chords), icnn.certify(f), least_alive(f))


def draw(f: ConvexNetwork, count: int, spread: float = 1.0) -> tuple[Tensor, ...]:
    """Normal inputs of f: y, or x and y."""
    shapes = [shape for shape in (f.x_shape, f.y_shape) if shape is not None]
    *context, y = (torch.randn(count, *shape, dtype=torch.float64) for shape in shapes)
    return *context, spread * y


def convex_target(f: ConvexNetwork) -> Callable[..., Tensor]:
    """log Σ exp of eight affine functions of (x, y), and a square, to mean zero and unit variance."""
    size = sum(part[0].numel() for part in draw(f, 1))
    slopes, offsets = (torch.randn(*shape, dtype=torch.float64) for shape in ((size, 8), (8,)))
    direction = torch.randn(size, dtype=torch.float64)

    def target(*inputs: Tensor) -> Tensor:
        flat = torch.cat([part.flatten(1) for part in inputs], -1) / size**0.5
        return torch.logsumexp(3 * flat @ slopes + offsets, -1) + (flat @ direction).square()

    sample = target(*draw(f, 1000))
    mean, spread = sample.mean(), sample.std()
    return lambda *inputs: (target(*inputs) - mean) / spread


def train(f: ConvexNetwork, target: Callable[..., Tensor], steps: int) -> ConvexNetwork:
    optimiser = torch.optim.Adam(f.parameters(), lr=RATE)
    for _ in range(steps):
        inputs = draw(f, BATCH)
        loss = (f(*inputs) - target(*inputs)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        icnn.project_(f)
    return f


@torch.no_grad()
def measure(f: ConvexNetwork, count: int) -> tuple[float, float]:
    """The largest violation and the median curvature over random chords."""
    *context, y1 = draw(f, count, SPREAD)
    y2, t = draw(f, count, SPREAD)[-1], torch.rand(count, dtype=torch.float64)
    weight = t.reshape(-1, *(1 for _ in f.y_shape))
    first, second, middle = f.given(*context)(torch.stack([y1, y2, weight * y1 + (1 - weight) * y2]))
    gap = middle - t * first - (1 - t) * second
    spread = torch.stack([first, second]).std()
    size = torch.stack([first, second, middle]).abs().amax(0)
    return float((gap / (size + spread)).max().clamp(min=0)), float(-gap.median() / spread)


def least_alive(f: ConvexNetwork) -> float:
    """The share of units that move on inputs such as those of the training, in the layer where it is least."""
    layers = icnn.report(f, *draw(f, 256)).layers
    return min((1 - layer.dead / layer.units for layer in layers), default=1.0)


def summaries(findings: list[Finding]) -> list[list[str]]:
    """A row for each architecture."""
    names = dict.fromkeys(finding.architecture for finding in findings)
    return [summary(name, [f for f in findings if f.architecture == name]) for name in names]


def summary(name: str, findings: list[Finding]) -> list[str]:
    curvatures = [min(f.curvature for f in findings if f.when == when) for when in WHEN]
    verdicts = [sum(f.verdict.curvature is which for f in findings) for which in (Curvature.CONVEX, Curvature.AFFINE)]
    worst = max(f.violation for f in findings)
    nets = len({f.net for f in findings})
    cells = [f"{value:.2g}" if value > ROUNDING else "0" for value in curvatures]
    return [name, str(nets), f"{worst:.0e}", *cells, *map(str, verdicts)]


def edited() -> Iterator[list[str]]:
    """A row for each edit."""
    for name in EDITS:
        torch.manual_seed(0)
        f = steep(name)
        found = icnn.falsify(f, y_shape=(3,), bounds=(-3, 3))
        yield edit_row(f"`Users`: {name}", icnn.certify(f, torch.zeros(2, 3)), found, f)
    for name, build in {"FICNN": FICNN, "PICNN": PICNN, "ConvFICNN": PICTURE, "ConvPICNN": PICTURE_OF_X}.items():
        for layer in range(1, len(build().layers)):
            torch.manual_seed(0)
            f = build(positivity="project")
            unproject_(f, layer)
            x = None if f.x_shape is None else torch.randn(16, *f.x_shape)
            found = icnn.falsify(f, x, bounds=(-3, 3))
            yield edit_row(f"{name}: not projected, layer {layer}", icnn.certify(f), found, f)
    for name in REFUSED:
        yield [f"`Users`: {name}", *stop(icnn.certify(Users(name), torch.zeros(2, 3))), "not followed", ""]


def edit_row(name: str, verdict: Verdict, found: Violation | None, f: torch.nn.Module) -> list[str]:
    if found is None:
        return [name, *stop(verdict), "**none found**", ""]
    return [name, *stop(verdict), f"{found.gap:.2g}", f"{found.gap / size_at(f, found):.1g}"]


@torch.no_grad()
def size_at(f: torch.nn.Module, found: Violation) -> float:
    """The largest |f| at the three points of a chord."""
    middle = found.t * found.y1 + (1 - found.t) * found.y2
    y, context = torch.stack([found.y1, found.y2, middle]), () if found.x is None else (found.x.double(),)
    return float(copy.deepcopy(f).double().eval()(*context, y).abs().max())


def stop(verdict: Verdict) -> list[str]:
    where = "**convex**" if verdict.node is None else f"`{verdict.node}`"
    return [where, verdict.reason]


if __name__ == "__main__":
    main()
