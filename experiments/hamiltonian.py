"""Learn separable Hamiltonians T(p) + V(q) from samples, with residual and with input convex networks.

The question: a Hamiltonian that was learned has a flow that a symplectic scheme follows for long times without losing
its energy. How near does that flow stay to the true one, and what is convexity worth where T, or V, is convex?

    residual    F(y) = η(wᵀ ResNet(y) + μ), ∇F by the sweep of the costate back (icnn.adjoints)
    convex      a smooth input convex network, ∇F by its own sweep back

Learned from derivatives alone: q̇ = ∇T(p) and ṗ = -∇V(q) at states drawn where the orbits live. These can be measured
along a motion, energies cannot; each gives d numbers where a value gives one; the constant that they leave open moves
nothing. What values, alone or with derivatives, would give instead is in the results.

Drift is the largest change of an energy over all periods, relative to |H| at the start. Trajectory errors compare the
flows themselves, the learned one and the true one by scipy's solver of order eight, so that no error of a step is in
them: the largest distance in (q, p) so far, relative to the largest |(q, p)|. Settings were chosen by other samples
than those of the scores.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Generator, Tensor

from experiments._config import Common
from experiments._convexity import Study, functions_plot, samples_plot
from experiments._energies import Kind, Nets, Normalised, Samples, Supervision, learn, sampled, scores, side_by_side
from experiments._figures import lines_plot, orbits_plot
from experiments._flows import drawn, followed, times, truth
from experiments._hamiltonian_results import tables
from experiments._hamiltonians import System, henon_heiles, kepler, kinetic, pendulum, solved
from experiments._record import Record, conducted, publish, write_record

log = logging.getLogger(__name__)

TEST_SEED = 1_000
SUPERVISIONS: tuple[Supervision, ...] = ("values", "derivatives", "both")
TRUE = "true H"


@dataclass(frozen=True)
class Config(Common):
    """Learn separable Hamiltonians from samples."""

    out: Path = Path("runs/hamiltonian")
    """Folder of the results and checkpoints; the run that it holds is continued."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Samples and networks are drawn once per seed."""
    systems: tuple[str, ...] = ("small", "large", "kepler", "henon-heiles")
    """Pendulum with a small and a large swing, Kepler's two bodies, Hénon and Heiles."""
    samples: int = 400
    """States to learn from."""
    test: int = 2000
    """States of the score."""
    width: int = 10
    """Of the residual networks."""
    steps: int = 3
    """Of the residual networks."""
    convex: tuple[int, ...] = (10, 10, 10)
    """Widths of the input convex networks."""
    ridge: float = 1e-10
    """Of the weights, beside residuals that are relative."""
    evaluations: int = 100
    """Of the residuals, in a fit."""
    periods: int = 100
    """Of the orbits."""
    few: tuple[int, ...] = (6, 12, 24, 48)
    """Numbers of samples in the study of convexity."""
    noise: float = 0.1
    """Of the derivatives in that study, relative."""
    quick: bool = False
    """One system, few samples and periods, to see that everything works."""

    @property
    def nets(self) -> Nets:
        return Nets(self.width, self.steps, self.convex)


def systems() -> dict[str, System]:
    """The systems by the name of their option."""
    return {
        "small": pendulum(1.4, "pendulum, swing 1.4"),
        "large": pendulum(2.5, "pendulum, swing 2.5"),
        "kepler": kepler(0.3),
        "henon-heiles": henon_heiles(0.08),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.hamiltonian")
    if config.quick:
        small = dict(systems=("small",), samples=40, test=200, width=5, steps=2, convex=(5, 5), evaluations=8)
        config = replace(config, **small, periods=1, few=(6,), seed=config.seed[:1])
    return conducted(config, run)


def run(config: Config) -> None:
    """Learn every Hamiltonian, follow its orbits, and leave the results in config.out."""
    begin = time.process_time()
    study = Study(config.nets, config.seed, min(config.evaluations, 60))
    functions = _kept(config, "functions", study.of_functions)
    few = _kept(config, "samples", lambda: study.of_samples(config.few, config.noise))
    functions_plot(config.out / "functions.png", functions["curves"])
    log.info("functions: %.0f s", time.process_time() - begin)
    judged = {}
    for name, system in systems().items():
        if name in config.systems:
            judged[system.name] = _Job(config, name, system).judged()
            log.info("%s: %.0f s", system.name, time.process_time() - begin)
    for figure, label in (("energy", "change of energy, relative"), ("distance", "distance from the true orbit")):
        panels = {name: _by_period(found[figure]) for name, found in judged.items()}
        lines_plot(config.out / f"{figure}.png", panels, ("periods", label), xscale="log", yscale="log")
    orbits_plot(config.out / "orbits.png", {name: found["orbits"] for name, found in judged.items()})
    metrics = {
        "functions": functions["errors"],
        "samples": few,
        "systems": {name: of["metrics"] for name, of in judged.items()},
    }
    data = {"test": config.test, "orbits of a system": "all of one energy; the worst counts"}
    seconds, file = time.process_time() - begin, config.out / "record.json"
    publish(report, write_record(file, "hamiltonian", config, config.seed, data, metrics, seconds), config.out)


def report(record: Record, folder: Path) -> str:
    """The tables; the figures are of lines that a record does not hold, but samples.png."""
    samples_plot(folder / "samples.png", record["metrics"]["samples"])
    return tables(record["metrics"])


def _by_period(lines: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (torch.arange(1, len(line) + 1), line) for name, line in lines.items()}


@dataclass(frozen=True)
class _Job:
    """One system: what is learned of it, and where that leads."""

    config: Config
    name: str
    system: System

    def judged(self) -> dict[str, Any]:
        """The metrics, and the lines of the pictures."""
        kinds: tuple[Kind, ...] = ("residual", "convex")
        metrics: dict[str, Any] = {part: {kind: self.scores(part, kind) for kind in kinds} for part in ("T", "V")}
        metrics["V by supervision"] = {given: self.scores("V", "residual", given) for given in SUPERVISIONS}
        reference = self._kept("reference", self.reference)
        flows = {TRUE: self._kept("true", partial(self.flow, reference))}
        for of_T, of_V in self.pairs():
            name = of_T if of_T == of_V else f"{of_T} T, {of_V} V"
            flows[name] = self._kept(f"{of_T}-{of_V}", partial(self.flow, reference, (of_T, of_V)))
        metrics["flows"] = {name: flow["metrics"] for name, flow in flows.items()}
        return {
            "metrics": metrics,
            "energy": {f"{name}, {way}": line for name, of in flows.items() for way, line in of["energy"].items()},
            "distance": {name: of["distance"] for name, of in flows.items() if name != TRUE},
            "orbits": {name: drawn(reference) if name == TRUE else of["orbit"] for name, of in flows.items()},
        }

    def pairs(self) -> list[tuple[Kind, Kind]]:
        """Kinds of T and V; where V is not convex, also those that are convex where they may be."""
        mixed: list[tuple[Kind, Kind]] = [] if self.system.convex else [("convex", "residual")]
        return [("residual", "residual"), *mixed, ("convex", "convex")]

    def reference(self) -> Tensor:
        return solved(truth(self.system), self.system.starts, times(self.system, self.config.periods), rtol=1e-10)

    def flow(self, reference: Tensor, pair: tuple[Kind, Kind] | None = None) -> dict[str, Any]:
        """Of the Hamiltonians learned by all seeds with such networks; of the true one without a pair."""
        gradients, parts = truth(self.system), [(kinetic, self.system.potential)]
        if pair is not None:
            of_T, of_V = (
                [self.learned(part, kind, seed) for seed in self.config.seed]
                for part, kind in zip("TV", pair, strict=True)
            )
            gradients = side_by_side(of_T, self.system.d), side_by_side(of_V, self.system.d)
            parts = list(zip(of_T, of_V, strict=True))
        return followed(self.system, gradients, parts, reference, self.config.periods)

    def scores(self, part: str, kind: Kind, given: Supervision = "derivatives") -> dict[str, list[float]]:
        """Errors on the test states, by seed."""
        test = self.sample(part, self.config.test, TEST_SEED)
        found = [scores(self.learned(part, kind, seed, given), test) for seed in self.config.seed]
        return {measure: [of[measure] for of in found] for measure in ("value", "gradient")}

    def learned(self, part: str, kind: Kind, seed: int, given: Supervision = "derivatives") -> Normalised:
        """T or V, learned by such a network from such samples of this seed."""
        samples = self.sample(part, self.config.samples, seed)
        net = self.config.nets.build(kind, samples, seed)

        def weights() -> dict[str, Tensor]:
            left = learn(net, samples, given, self.config.ridge, self.config.evaluations)
            log.info("%s, %s by %s from %s, seed %d: %.1e left", self.system.name, part, kind, given, seed, left)
            return net.state_dict()

        net.load_state_dict(self._kept(f"{part}-{kind}-{given}-seed{seed}", weights))
        return net

    def sample(self, part: str, count: int, seed: int) -> Samples:
        """Of T at momenta or of V at positions."""
        generator = Generator().manual_seed(2 * seed + (part == "T"))
        if part == "T":
            return sampled(kinetic, self.system.momenta(count, generator))
        return sampled(self.system.potential, self.system.positions(count, generator))

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        return _kept(self.config, f"{self.name}-{name}", make)


def _kept(config: Config, name: str, make: Callable[[], Any]) -> Any:
    """What make returns, from the checkpoints if it is there."""
    file = config.out / "checkpoints" / f"{name}.pt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)
    return torch.load(file)


if __name__ == "__main__":
    sys.exit(main())
