"""What each gradient of `icnn.argmin` costs, and how far it is from the exact one.

    python -m benchmarks.gradients [--quick] [--out FILE]

    ŷ = argmin over y in [0, 1]^n of f(x, y) + φ(y),    loss |ŷ - target|² / 2, or that of Fenchel and Young (danskin)

f is a PICNN with fresh weights times `spread`, in float64, so that inference has something to do. One thread. Every
way to the gradient of the loss in all weights is timed, forward and backward. Bias is the error relative to the exact
gradient, of the minimiser to 1e-12, which central differences along random directions of the weights confirm.

Graph: bytes of the distinct storages that autograd holds when backward begins, those of the weights not counted. Peak:
the most that torch has allocated at any time of forward and backward beyond what was there before.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

import icnn

from ._report import arguments, command, log, machine, table, turns, write

STEP, DIRECTIONS = 1e-6, 5
TARGET_DENSITY = 0.3
HEAD = ("gradient", "method", "iterations", "ms", "times the first", "graph MB", "peak MB", "error", "cosine", "gap")


class Size(NamedTuple):
    x: int
    y: int
    hidden: tuple[int, ...]
    batch: int
    spread: float


SMALL, BIBTEX = Size(10, 5, (50,), 16, 3.0), Size(1836, 159, (600,), 128, 4.0)


@dataclass(frozen=True)
class Way:
    """To a gradient: options of argmin, `max_iter` among them."""

    method: str
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


class Setting(NamedTuple):
    """A problem, the ways to its gradient, and the one that is exact."""

    activation: str
    regularizer: Any
    size: Size
    ways: tuple[Way, ...]
    exact: Way


EXACT = {
    "bundle": Way("bundle", "implicit", 1000, 1e-12),
    "newton": Way("newton", "implicit", 100, 1e-12),
    "exact": Way("exact", "implicit", None, 1e-12),
}
SETTINGS = {
    "ReLU, entropy": Setting("relu", "entropy", SMALL, CUTS, EXACT["bundle"]),
    "softplus, entropy": Setting("softplus", "entropy", SMALL, CURVED, EXACT["newton"]),
    "ReLU, quadratic: a QP": Setting("relu", "quadratic", SMALL, (*PROGRAM, Way("bundle", "implicit")), EXACT["exact"]),
    "ReLU, no regulariser: an LP": Setting("relu", None, SMALL, PROGRAM, EXACT["exact"]),
    "ReLU, entropy, the size for BibTeX": Setting("relu", "entropy", BIBTEX, CUTS, EXACT["bundle"]),
    "softplus, entropy, the size for BibTeX": Setting("softplus", "entropy", BIBTEX, CURVED, EXACT["newton"]),
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
        options: dict[str, Any] = asdict(way)
        return icnn.argmin(self.f, self.x, regularizer=self.setting.regularizer, **options)

    def loss(self, way: Way) -> Tensor:
        """Summed over the batch; that of Fenchel and Young without its constant."""
        solution = self.solve(way)
        if way.of_value:
            return (self.f(self.x, self.target) - solution.value).sum()
        return 0.5 * (solution.y - self.target).square().sum()

    def followed(self, of_value: bool) -> Tensor:
        """The loss at the minimiser to 1e-12, which the exact gradient of ŷ is followed through."""
        y = self.solve(self.setting.exact).y
        if of_value:
            return (self.f(self.x, self.target) - self.f(self.x, y) - self.regularized(y)).sum()
        return 0.5 * (y - self.target).square().sum()

    def regularized(self, y: Tensor) -> Tensor:
        phi = {"entropy": -torch.special.entr(y) - torch.special.entr(1 - y), "quadratic": 0.5 * y.square()}
        return phi[self.setting.regularizer].sum(-1) if self.setting.regularizer else torch.zeros_like(y[:, 0])

    def gradient(self, loss: Tensor) -> Tensor:
        slopes = torch.autograd.grad(loss, self.weights, materialize_grads=True)
        return torch.cat([slope.flatten() for slope in slopes])

    @torch.no_grad()
    def difference(self, direction: Tensor, of_value: bool) -> float:
        """The central difference of the loss along a direction of the weights."""
        start, ends = torch.nn.utils.parameters_to_vector(self.weights), []
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(start + sign * STEP * direction, self.weights)
            ends.append(float(self.followed(of_value)))
        torch.nn.utils.vector_to_parameters(start, self.weights)
        return (ends[0] - ends[1]) / (2 * STEP)


def main() -> None:
    args = arguments(__doc__ or "", "gradients.md")
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    sections: list[str] = []
    for name, setting in SETTINGS.items():
        if args.quick and setting.size is not SMALL:
            continue
        sections += measured(name, setting, rounds=3 if args.quick else 15)
        log.info("%s", "\n\n".join(sections[-3:]))
    about = (
        "Medians of runs that take turns in one process on a machine that is shared: ratios travel, milliseconds do "
        "not. float64. Error and cosine are those of the gradient in all weights."
    )
    write(args.out, "# Gradients of the argmin", f"`{command()}`", machine(("torch",)), about, *sections)


def measured(name: str, setting: Setting, rounds: int) -> Iterator[str]:
    """A heading, what was confirmed, and the table."""
    case, size = Case(setting), setting.size
    exact = {kind: case.gradient(case.followed(kind)) for kind in (False, True)}
    confirmed = max(confirmation(case, gradient, kind) for kind, gradient in exact.items())
    seconds = turns({way: both(case, way) for way in setting.ways}, rounds, patience=0.5 if size is SMALL else 10.0)
    yield f"## {name}"
    yield (
        f"x {size.x}, y {size.y}, hidden {' '.join(map(str, size.hidden))}, batch {size.batch}, weights times "
        f"{size.spread:.0f}. The exact gradients differ from central differences by {confirmed:.0e}."
    )
    yield table(HEAD, [row(case, way, exact[way.of_value], seconds, setting.ways[0]) for way in setting.ways])


def confirmation(case: Case, gradient: Tensor, of_value: bool) -> float:
    """The largest error along random directions, relative to the root mean square of the slopes there."""
    directions = torch.randn(DIRECTIONS, len(gradient))
    slopes = directions @ gradient
    differences = torch.tensor([case.difference(direction, of_value) for direction in directions])
    return float((differences - slopes).abs().max() / slopes.square().mean().sqrt())


def both(case: Case, way: Way) -> Callable[[], Tensor]:
    return lambda: case.gradient(case.loss(way))


def row(case: Case, way: Way, exact: Tensor, seconds: Mapping[Way, float], first: Way) -> list[object]:
    solution = case.solve(way)
    gradient = both(case, way)()
    error = (gradient - exact).norm() / exact.norm()
    cosine = torch.nn.functional.cosine_similarity(gradient, exact, dim=0)
    iterations = f"{float(solution.iterations.double().mean()):.0f}"
    gap = f"{float(solution.gap.clamp_min(0).mean()):.0e}"
    time = f"{1e3 * seconds[way]:.1f}", f"{seconds[way] / seconds[first]:.2f}"
    memory = f"{graph_bytes(case, way) / 1e6:.2f}", f"{peak_bytes(both(case, way)) / 1e6:.1f}"
    return [way.name, solution.method, iterations, *time, *memory, f"{error:.0e}", f"{cosine:.4f}", gap]


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
        loss = case.loss(way)
    own = {t.untyped_storage().data_ptr() for t in (*case.weights, case.x, case.target)}
    storages = (kept.tensor.untyped_storage() for kept in alive)
    held = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del loss
    return sum(size for pointer, size in held.items() if pointer not in own)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that is allocated at a time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes), default=0)


if __name__ == "__main__":
    main()
