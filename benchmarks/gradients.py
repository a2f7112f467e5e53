"""What each gradient of `icnn.argmin` costs, and how far it is from the exact one.

    python -m benchmarks.gradients [--quick] [--long] [--out FILE]

    ŷ = argmin over y in [0, 1]^n of f(x, y) + φ(y),    loss |ŷ - target|² / 2, or that of Fenchel and Young (danskin)

f is a PICNN with fresh weights times `spread`, in float64, so that inference has something to do. One thread. Every
way to the gradient of the loss in all weights is timed, forward and backward. Its error and cosine are those of its
slopes along random directions of the weights, against central differences between minimisers that are solved to 1e-12:
no gradient of ours takes part in the reference.

Graph: bytes of the distinct storages that autograd holds when backward begins, those of the weights not counted. Peak:
the most that torch has allocated at any time of forward and backward beyond what was there before.
"""

import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import icnn

from ._memory import peak_bytes
from ._report import command, log, machine, parser, table, turns, write

STEP = 1e-6
TARGET_DENSITY = 0.3
HEAD = ("gradient", "method", "iterations", "ms", "times the first", "graph MB", "peak MB", "error", "cosine", "gap")


class Size(NamedTuple):
    x: int
    y: int
    hidden: tuple[int, ...]
    batch: int
    spread: float
    directions: int


SMALL, BIBTEX = Size(10, 5, (50,), 16, 3.0, 100), Size(1836, 159, (600,), 128, 4.0, 10)


@dataclass(frozen=True)
class Way:
    """To a gradient: options of argmin, `max_iter` among them."""

    method: Any
    gradient: str
    max_iter: int | None = None
    tol: float = 1e-9
    truncation: int = 5

    @property
    def of_value(self) -> bool:
        return self.gradient == "danskin"

    @property
    def name(self) -> str:
        return f"truncated to {self.truncation}" if self.gradient == "truncated" else self.gradient


FOLLOWED = (
    *(Way("gradient", "unrolled", steps) for steps in (10, 30, 100)),
    *(Way("gradient", "truncated", 100, truncation=steps) for steps in (20, 5)),
    Way("gradient", "one_step", 100),
)
CUTS = (
    *(Way("bundle", "implicit", k) for k in (30, 10, 5)),
    *FOLLOWED,
    *(Way("bundle", "danskin", k) for k in (30, 5)),
)
CURVED = (
    *(Way(method, "implicit") for method in ("newton", "quasi_newton", "momentum")),
    *(Way("momentum", "unrolled", steps) for steps in (10, 30, 100)),
    *FOLLOWED,
    Way("momentum", "one_step", 100),
    Way("newton", "danskin"),
    Way("momentum", "danskin", 30),
)
PROGRAM = (Way("exact", "implicit"), *FOLLOWED, Way("exact", "danskin"))


WIDE = tuple(way for way in CURVED if way.method not in ("gradient", "quasi_newton"))
FIXED = tuple(Way(icnn.Descent("gradient", lr=0.1), "truncated", 200, truncation=steps) for steps in (50, 20, 5))


class Setting(NamedTuple):
    """A problem, the ways to its gradient, and how it is solved for the reference."""

    activation: str
    regularizer: Any
    size: Size
    ways: tuple[Way, ...]
    solved: Way


BUNDLE, EXACT = Way("bundle", "none", 1000, 1e-12), Way("exact", "none", None, 1e-12)
SMOOTH = Way("momentum", "implicit", 1000, 1e-12)  # completed by Newton's method
SETTINGS = {
    "ReLU, entropy": Setting("relu", "entropy", SMALL, CUTS, BUNDLE),
    "softplus, entropy": Setting("softplus", "entropy", SMALL, (*CURVED, *FIXED), SMOOTH),
    "ReLU, quadratic: a QP": Setting("relu", "quadratic", SMALL, (*PROGRAM, Way("bundle", "implicit")), EXACT),
    "ReLU, no regulariser: an LP": Setting("relu", None, SMALL, PROGRAM, EXACT),
    "ReLU, entropy, the size for BibTeX": Setting("relu", "entropy", BIBTEX, CUTS, BUNDLE),
    "softplus, entropy, the size for BibTeX": Setting("softplus", "entropy", BIBTEX, WIDE, SMOOTH),
}


class Case:
    """The network, the data and the losses of a setting."""

    def __init__(self, setting: Setting, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.setting, size = setting, setting.size
        self.f = icnn.PICNN(size.x, size.y, size.hidden, setting.activation)
        self.weights = list(self.f.parameters())
        with torch.no_grad():
            for weight in self.weights:
                weight.mul_(size.spread)
        self.x = torch.randn(size.batch, size.x) if size is SMALL else (torch.rand(size.batch, size.x) < 0.04).double()
        self.target = (torch.rand(size.batch, size.y) < TARGET_DENSITY).double()

    def solve(self, way: Way) -> icnn.inference.ArgminSolution:
        options: dict[str, Any] = vars(way)
        return icnn.argmin(self.f, self.x, regularizer=self.setting.regularizer, **options)

    def losses(self, way: Way) -> tuple[Tensor, Tensor]:
        """That of ŷ and that of Fenchel and Young, without its constant, summed over the batch."""
        solution = self.solve(way)
        distance = 0.5 * (solution.y - self.target).square().sum()
        return distance, (self.f(self.x, self.target) - solution.value).sum()

    def gradient(self, way: Way) -> Tensor:
        slopes = torch.autograd.grad(self.losses(way)[way.of_value], self.weights, materialize_grads=True)
        return torch.cat([slope.flatten() for slope in slopes])

    def directions(self) -> Iterator[Tensor]:
        """The same ones every time."""
        generator, size = torch.Generator().manual_seed(1), sum(weight.numel() for weight in self.weights)
        return (torch.randn(size, generator=generator) for _ in range(self.setting.size.directions))

    @torch.no_grad()
    def differences(self) -> Tensor:
        """Central differences of both losses along the directions, (2, directions)."""
        start, slopes = parameters_to_vector(self.weights), []
        for direction in self.directions():
            ends = []
            for sign in (1, -1):
                vector_to_parameters(start + sign * STEP * direction, self.weights)
                ends.append(torch.stack(self.losses(self.setting.solved)))
            slopes.append((ends[0] - ends[1]) / (2 * STEP))
        vector_to_parameters(start, self.weights)
        return torch.stack(slopes, -1)


def main() -> None:
    parse = parser(__doc__ or "", "gradients.md")
    parse.add_argument("--long", action="store_true", help="also networks of the size for BibTeX")
    args = parse.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    sections: list[str] = []
    for name, setting in SETTINGS.items():
        if setting.size is not SMALL and not args.long:
            continue
        sections += measured(name, setting, rounds=3 if args.quick else 7)
        log.info("%s\n", "\n\n".join(sections[-3:]))
    about = (
        "Medians of runs that take turns in one process, in milliseconds of processor time on one thread of a machine "
        "that others used too: ratios travel, milliseconds less so. The first row of each table is the unit. Gap and "
        "iterations are means over the batch."
    )
    write(args.out, "# Gradients of the argmin", f"`{command()}`", machine(("torch",)), about, *sections)


def measured(name: str, setting: Setting, rounds: int) -> Iterator[str]:
    """A heading, the size, and the table."""
    case, size = Case(setting), setting.size
    exact = case.differences()
    runs = {way: partial(case.gradient, way) for way in setting.ways}
    for run in runs.values():
        run()  # compiles what it needs
    seconds = turns(runs, rounds, 0.3 if size is SMALL else 2.0, time.process_time)
    yield f"## {name}"
    yield (
        f"x {size.x}, y {size.y}, hidden {' '.join(map(str, size.hidden))}, batch {size.batch}, weights times "
        f"{size.spread:.0f}; error and cosine along {size.directions} directions."
    )
    yield table(HEAD, [row(case, way, exact[int(way.of_value)], seconds, setting.ways[0]) for way in setting.ways])


def row(case: Case, way: Way, exact: Tensor, seconds: Mapping[Way, float], first: Way) -> list[object]:
    solution, gradient = case.solve(way), case.gradient(way)
    slopes = torch.stack([direction @ gradient for direction in case.directions()])
    error = (slopes - exact).norm() / exact.norm()
    cosine = torch.nn.functional.cosine_similarity(slopes, exact, dim=0)
    method = f"{solution.method}, lr {way.method.lr}" if isinstance(way.method, icnn.Descent) else solution.method
    iterations = f"{float(solution.iterations.double().mean()):.0f}" + (f" of {way.max_iter}" if way.max_iter else "")
    gap = f"{float(solution.gap.clamp_min(0).mean()):.0e}"
    time = f"{1e3 * seconds[way]:.1f}", f"{seconds[way] / seconds[first]:.2f}"
    memory = f"{graph_bytes(case, way) / 1e6:.2f}", f"{peak_bytes(partial(case.gradient, way)) / 1e6:.1f}"
    return [way.name, method, iterations, *time, *memory, f"{error:.0e}", f"{cosine:.2f}", gap]


class Kept:
    """A tensor that a graph holds."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def graph_bytes(case: Case, way: Way) -> int:
    """What the graph of the loss holds, the weights and data not counted."""
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        loss = case.losses(way)[way.of_value]
    own = {t.untyped_storage().data_ptr() for t in (*case.weights, case.x, case.target)}
    storages = (kept.tensor.untyped_storage() for kept in alive)
    held = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del loss
    return sum(size for pointer, size in held.items() if pointer not in own)


if __name__ == "__main__":
    main()
