"""Recover what makes an infection from how many are infected: noisy-or counts, with intervals that hold what they say.

Person i of a group has contacts j, each with an exposure I_ij (how long, how close to the peak of the illness) and a
distance D_ij, and catches the infection from each independently with probability σ(α I_ij + β D_ij). A survey tells for
each group how many are infected, not who: a count y_g of mean s_g(α, β) = N - Σ_i m_i. What are α and β?

The likelihood. y_g is a sum of independent Bernoullis that are not identical (Poisson's binomial). Its likelihood takes
sums over all subsets; its mean s_g and its variance v_g = Σ_i m_i (1 - m_i) do not. The quasi-likelihood equations

    Σ_g ∇s_g (y_g - s_g) / v_g = 0

need no more. At the truth they are zero in expectation; of all equations that are linear in y, these weights make the
best (Godambe, Heyde 1987); and as the variance is known, not estimated, their root has the covariance
(Σ_g ∇s_g ∇s_gᵀ / v_g)⁻¹ to first order in the number of groups. The sandwich, with the squared residual for v_g, is
reported beside it: it does not need v_g to be right, and pays by being too narrow for few groups.

Each round solves the least squares problem with v_g held fixed by scipy.optimize.least_squares, residuals and Jacobian
from `icnn.adjoints.noisy_or_count`, and takes v_g anew at its root, until that stands. Every repetition draws groups,
contacts and counts afresh. The last part times one count and its gradient against autograd.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich import get_console
from rich.progress import track
from scipy.optimize import least_squares
from torch import Generator

from experiments._config import Common
from experiments._costs import WAYS, cost
from experiments._figures import interval_plot
from experiments._record import Record, conducted, publish, write_record
from experiments._surveys import Contacts, counted, crowd, drawn
from experiments._table import markdown_table
from icnn.adjoints import noisy_or_count

log = logging.getLogger(__name__)

NAMES = ("alpha", "beta")
QUANTILE = 1.959964  # of the normal distribution, for 95 %
ROUNDS, STANDS = 20, 1e-7  # of new weights at most; a move of the root, in standard errors, that is none

Model = Callable[..., tuple[np.ndarray, np.ndarray]]  # s of every group and its gradient, at (α, β)


@dataclass(frozen=True)
class Config(Common):
    """Recover the two parameters of noisy-or counts, with intervals."""

    out: Path = Path("runs/coverage")
    """Folder of the results."""
    repetitions: int = 100
    """Surveys of each seed, with their estimates and intervals."""
    groups: int = 60
    """Counts in a survey."""
    alpha: float = 1.0
    """The true effect of exposure."""
    beta: float = -1.0
    """The true effect of distance."""
    factors: tuple[int, ...] = (1_000_000, 10_000_000, 100_000_000)
    """Contacts in all of the counts that are timed."""
    largest: int = 100_000_000
    """Contacts up to which autograd is timed too; it takes 25 bytes for each."""
    quick: bool = False
    """Few repetitions and contacts, to see that everything works."""


@dataclass(frozen=True)
class Estimate:
    """(α, β), their standard errors by the model and by the sandwich, and how many rounds that took."""

    value: np.ndarray
    errors: Mapping[str, np.ndarray]
    rounds: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; its exit status."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.coverage")
    if config.quick:
        config = replace(config, repetitions=min(config.repetitions, 10), factors=(100_000,))
    return conducted(config, run)


def run(config: Config) -> None:
    """Estimate, judge the intervals, time, and leave the results in config.out."""
    start, truth = time.perf_counter(), (config.alpha, config.beta)
    generators = [Generator().manual_seed(seed) for seed in config.seed]
    surveys = [generator for generator in generators for _ in range(config.repetitions)]
    estimates = []
    for generator in track(surveys, "surveys", console=get_console(), transient=True):
        contacts = drawn(config.groups, generator)
        estimates.append(estimate(contacts, counted(contacts, *truth, generator).numpy()))
    costs = [costs_of(size, config, generators[0]) for size in config.factors]
    data = {"generator": "experiments._surveys", "peak": "bytes that torch allocates beside the inputs"}
    metrics = {"coverage": judge(estimates, truth), "costs": costs}
    seconds = time.perf_counter() - start
    record = write_record(config.out / "record.json", "coverage", config, config.seed, data, metrics, seconds)
    publish(report, record, config.out)


def estimate(contacts: Contacts, counts: np.ndarray) -> Estimate:
    """The root of the quasi-likelihood equations, from no effect at all."""

    @lru_cache(maxsize=1)
    def model(alpha: float, beta: float) -> tuple[np.ndarray, np.ndarray]:
        return expected(contacts, alpha, beta)

    value, deviation = np.zeros(2), np.ones(len(counts))
    for done in range(1, ROUNDS + 1):
        before, value = value, weighted_root(model, counts, deviation, value)
        deviation = contacts.variance(*value).sqrt().numpy()
        errors = standard_errors(*model(*value), counts, deviation)
        if np.max(np.abs(value - before) / errors["model"]) < STANDS:
            return Estimate(value, errors, done)
    raise RuntimeError(f"the weights do not stand after {ROUNDS} rounds")


def weighted_root(model: Model, counts: np.ndarray, deviation: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Least squares with these standard deviations."""

    def residuals(at: np.ndarray) -> np.ndarray:
        return (model(*at)[0] - counts) / deviation

    def jacobian(at: np.ndarray) -> np.ndarray:
        return model(*at)[1] / deviation[:, None]

    return least_squares(residuals, start, jacobian, method="lm", xtol=1e-12).x  # pyright: ignore[reportArgumentType]


def expected(contacts: Contacts, alpha: float, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """s of every group and its gradient (groups, 2)."""
    groups = len(contacts.groups) - 1
    each = [torch.full((groups,), part, dtype=torch.float64, requires_grad=True) for part in (alpha, beta)]
    s = noisy_or_count(each[0], each[1], contacts.I, contacts.D, contacts.offsets, contacts.groups)
    slopes = torch.autograd.grad(s.sum(), each)
    return s.detach().numpy(), torch.stack(slopes, -1).numpy()


def standard_errors(
    s: np.ndarray, slopes: np.ndarray, counts: np.ndarray, deviation: np.ndarray
) -> dict[str, np.ndarray]:
    """By A⁻¹, A = Σ ∇s ∇sᵀ / v, and by A⁻¹ B A⁻¹, B = Σ ∇s ∇sᵀ (y - s)² / v²."""
    slopes, residuals = slopes / deviation[:, None], (counts - s) / deviation
    inverse, scores = np.linalg.inv(slopes.T @ slopes), slopes * residuals[:, None]
    covariances = {"model": inverse, "sandwich": inverse @ scores.T @ scores @ inverse}
    return {name: np.sqrt(np.diag(covariance)) for name, covariance in covariances.items()}


def judge(estimates: Sequence[Estimate], truth: Sequence[float]) -> dict[str, dict]:
    """For each parameter what its estimates are worth, and how many of the intervals hold the truth."""
    values = np.stack([one.value for one in estimates])
    judged: dict[str, dict] = {}
    for k, (name, true) in enumerate(zip(NAMES, truth, strict=True)):
        found = judged[name] = {
            "truth": true,
            "mean": float(values[:, k].mean()),
            "sd": float(values[:, k].std(ddof=1)),
            "repetitions": len(estimates),
            "estimates": values[:, k].tolist(),
        }
        for kind in ("model", "sandwich"):
            errors = np.array([one.errors[kind][k] for one in estimates])
            covered = int((np.abs(values[:, k] - true) <= QUANTILE * errors).sum())
            found[kind] = {"covered": covered, "mean_error": float(errors.mean()), "errors": errors.tolist()}
    return judged


def costs_of(size: int, config: Config, generator: Generator) -> dict[str, Any]:
    """Every way at one size; autograd only where it is let."""
    contacts = crowd(size, generator)
    ways = [way for way in WAYS if way == "closed form" or size <= config.largest]
    found = {way: cost(way, contacts, config.alpha, config.beta)._asdict() for way in ways}
    log.info("%d contacts: %s", size, ", ".join(f"{way} {of['seconds']:.2f} s" for way, of in found.items()))
    return {"factors": size, **found}


def report(record: Record, folder: Path) -> str:
    """What the intervals hold and what a count costs; and intervals.png."""
    judged = record["metrics"]["coverage"]
    panels = {
        name: (torch.tensor(of["estimates"]), QUANTILE * torch.tensor(of["model"]["errors"]), of["truth"])
        for name, of in judged.items()
    }
    interval_plot(folder / "intervals.png", panels)
    return f"{coverage_table(judged)}\n\n{cost_table(record['metrics']['costs'])}"


def coverage_table(judged: Mapping[str, Mapping]) -> str:
    """One row for each parameter."""
    header = ("parameter", "truth", "mean", "sd", "standard error", "covered", "by the sandwich", "covered by it")
    rows = [
        (
            *(name, f"{of['truth']:g}", f"{of['mean']:.3f}", f"{of['sd']:.3f}"),
            *(f"{of['model']['mean_error']:.3f}", f"{of['model']['covered']} of {of['repetitions']}"),
            *(f"{of['sandwich']['mean_error']:.3f}", f"{of['sandwich']['covered']} of {of['repetitions']}"),
        )
        for name, of in judged.items()
    ]
    return f"95 % intervals over repetitions\n\n{markdown_table(header, rows)}"


def cost_table(costs: Sequence[Mapping]) -> str:
    """One row for each size: seconds, and memory beyond the inputs."""
    header = ("contacts", *(f"{way}, {unit}" for unit in ("s", "MB") for way in WAYS), "relative difference")
    rows = []
    for of in costs:
        ways = [of.get(way) for way in WAYS]
        seconds = ["–" if one is None else f"{one['seconds']:.2f}" for one in ways]
        peaks = ["–" if one is None else f"{one['peak'] / 1e6:.0f}" for one in ways]
        pairs = zip(*(one["found"] for one in ways if one), strict=True)
        difference = max((abs(x - y) / abs(y) for x, *others in pairs for y in others), default=None)
        rows.append((f"{of['factors']:,}", *seconds, *peaks, "–" if difference is None else f"{difference:.0e}"))
    return f"One count and its gradient in both parameters\n\n{markdown_table(header, rows)}"


if __name__ == "__main__":
    sys.exit(main())
