"""Judges a solution by numpy alone, from the data and from what an independent solver says."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import icnn

from .oracles import Answer
from .random_problems import Array, Batch, Instance

WRONG = 1e-6


@dataclass(frozen=True)
class Verdict:
    """What one instance was, what the solver called it, and how far its answer is from the truth."""

    seed: int
    index: int
    outcome: str
    traits: frozenset[str]
    status: str
    error: float
    violation: float
    certificate: float
    ray: bool
    iterations: int

    @property
    def solved(self) -> bool:
        return self.outcome == self.status == "OPTIMAL"

    @property
    def named(self) -> bool:
        return self.outcome == self.status

    @property
    def solution(self) -> bool:
        """Whatever the status says: the answer is one (nan is not)."""
        return self.outcome == "OPTIMAL" and self.error <= WRONG and self.violation <= WRONG

    @property
    def wrong(self) -> bool:
        """OPTIMAL was claimed, and it is not."""
        return self.status == "OPTIMAL" and not self.solution


def judge(batch: Batch, solution: icnn.Solution, answers: Sequence[Answer]) -> list[Verdict]:
    """A verdict for each instance of the batch.

    The error of the objective is relative to |x|'|Q||x|/2 + |p|'|x|, the size of the terms that are added to
    it: what is left when they cancel says nothing about the solver. The violation is relative to the terms of
    the row, in plain units.
    """
    verdicts = []
    for index, (instance, answer) in enumerate(zip(batch.instances, answers, strict=True)):
        value = {name: flat(getattr(solution, name), batch)[index] for name in ("x", "objective", "status")}
        error = abs(value["objective"] - answer.objective) / (instance.size or 1.0)
        verdict = Verdict(
            seed=batch.seed,
            index=index,
            outcome=answer.outcome,
            traits=instance.traits,
            status=icnn.Status(int(value["status"])).name,
            error=float(error),
            violation=instance.plain.violation(instance.units.columns * value["x"]),
            certificate=float(flat(solution.residuals.max, batch)[index]),
            ray=proves(instance, {name: flat(r, batch)[index] for name, r in solution.ray._asdict().items()}),
            iterations=int(flat(solution.iterations, batch)[index]),
        )
        verdicts.append(verdict)
    return verdicts


def flat(tensor, batch: Batch) -> Array:
    """The batch dimensions as one."""
    array = tensor.detach().numpy()
    return array.reshape(len(batch.instances), *array.shape[len(batch.shape) :])


def proves(instance: Instance, ray: dict[str, Array]) -> bool:
    """Does the ray prove the outcome (nothing to prove for OPTIMAL)? Judged in plain units."""
    if instance.outcome == "OPTIMAL":
        return True
    if instance.outcome == "PRIMAL_INFEASIBLE":
        return is_farkas(instance, ray)
    direction = instance.units.columns * ray["x"]
    if not 0 < abs(direction).max() < np.inf:
        return False
    direction = direction / abs(direction).max()
    if instance.outcome == "NONCONVEX":
        return bool(direction @ instance.plain.hessian @ direction < -1e-9)
    return is_recession(instance, direction)


def is_farkas(instance: Instance, ray: dict[str, Array], tol: float = 1e-6) -> bool:
    """A'nu + G'lam - lam_lower + lam_upper = 0 and b'nu + h'lam - lower'lam_lower + upper'lam_upper < 0.

    With lam, lam_lower, lam_upper >= 0. Each to `tol` in plain units, relative to the largest multiplier.
    """
    data, units = instance.plain, instance.units
    nu, lam = units.A_rows * ray["nu"], units.G_rows * ray["lam"]
    zero = np.zeros_like(data.p)
    low, up = (ray[k] / units.columns if ray[k].size else zero for k in ("lam_lower", "lam_upper"))
    size = max(abs(part).max(initial=0.0) for part in (nu, lam, low, up))
    if not 0 < size < np.inf or min(part.min(initial=0.0) for part in (lam, low, up)) < 0:
        return False
    on_infinite = max(low[~np.isfinite(data.lower)].max(initial=0), up[~np.isfinite(data.upper)].max(initial=0))
    residual = abs(data.A.T @ nu + data.G.T @ lam - low + up).max()
    finite_lower, finite_upper = (np.where(np.isfinite(v), v, 0.0) for v in (data.lower, data.upper))
    value = data.b @ nu + data.h @ lam - finite_lower @ low + finite_upper @ up
    return bool(on_infinite == 0 and residual <= tol * size and value < -100 * tol * size)


def is_recession(instance: Instance, direction: Array, tol: float = 1e-6) -> bool:
    """Q d = 0, A d = 0, G d <= 0, d >= 0 where lower and d <= 0 where upper is finite, p'd < 0."""
    data = instance.plain
    bounded = np.concatenate((-direction[np.isfinite(data.lower)], direction[np.isfinite(data.upper)]))
    rises = np.concatenate((data.G @ direction, bounded)).max(initial=0.0)
    moves = np.concatenate((data.hessian @ direction, data.A @ direction))
    return bool(max(rises, abs(moves).max()) <= tol and data.p @ direction < -100 * tol)
