"""Solving a batch of sparse programs, and the adjoint: (3) and (4) of `icnn.solvers.adjoint` on the stored entries.

The factor that made the answer exact is kept for the backward pass. Nothing of size n x n is ever made.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..adjoint import ADJOINT_ACCURACY
from ..forward import OnFailure
from ..solution import METHODS, SolverError, Status
from .curvature import negative_curvature
from .instance import CSR, rows_of
from .native import Name
from .optimum import Outcome, optimise
from .pattern import Canonical, instances

LARGE = 10_000  # nonzeros of an instance
RELEASING: tuple[Name, ...] = ("clarabel", "highs")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Rule:
    """How a batch is solved and how its adjoint treats failures; knows no autograd."""

    data: Canonical
    solvers: tuple[Name, ...]
    tol: float
    max_iter: int
    on_failure: OnFailure
    symmetry: float

    def solve(self) -> list[Outcome]:
        Q = self.data.patterns[0]
        distinct = Q.matrices(self.data.values[0].detach().numpy())
        symmetric = [symmetrised(M, self.symmetry) for M in distinct]
        descents = [negative_curvature(M) if np.isfinite(M.data).all() else None for M in symmetric]
        programs = [replace(program, Q=symmetric[k]) for program, k in zip(instances(self.data), Q.which, strict=True)]

        def one(i: int) -> Outcome:
            return optimise(programs[i], self.solvers, descents[Q.which[i]], self.tol, self.max_iter)

        return over_batch(one, len(programs), self._threads)

    @property
    def _threads(self) -> int:
        """PIQP holds the interpreter, and small instances spend their time in it: threads pay for neither."""
        size = sum(len(values) for values in self.data.values) / len(self.data.p)
        return torch.get_num_threads() if self.solvers[0] in RELEASING and size >= LARGE else 1

    def adjoint(self, outcomes: list[Outcome], g: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """c = -M^-1 g  (3) for every instance: c_x, c_nu, c_lam (rows of J)."""

        def one(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
            return adjoint_of(outcomes[i], *(part[i] for part in g))

        found = over_batch(one, len(outcomes), self._threads)
        errors = np.array([parts[3] for parts in found])
        good = np.array([outcome.status == Status.OPTIMAL for outcome in outcomes])
        inaccurate = good & ~(errors <= ADJOINT_ACCURACY)
        if self.on_failure == "raise" and inaccurate.any():
            where = np.flatnonzero(inaccurate)[:8].tolist()
            raise SolverError(f"the adjoint system could not be solved at batch indices {where} (flattened)")
        c = tuple(np.stack(parts) for parts in list(zip(*found, strict=True))[:3])
        for part in c:
            part[~good | inaccurate] = np.nan if self.on_failure == "nan" else 0.0
        return c


def adjoint_of(at: Outcome, *g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """c of one instance and the relative residual of its linear system; minimum-norm where M is singular."""
    if at.status != Status.OPTIMAL or at.kkt is None:
        return at.x * 0.0, at.nu * 0.0, at.lam * 0.0, 0.0
    r = -at.kkt.join(*g)
    z, error = at.kkt.minimum_norm_solve(r) if at.degenerate else at.kkt.solve(r)
    return *at.kkt.split(z), error


class SparseImplicit(torch.autograd.Function):
    """(rule, Q, A, G, p, b, h, lower, upper) -> (x, nu, lam, *further), with the backward pass (3), (4).

    Q, A, G are the stored entries. lam runs over the rows of J = [G; -I; I] with d = [h; -lower; upper].
    """

    @staticmethod
    def forward(ctx: Any, rule: Rule, *data: Tensor) -> tuple[Tensor, ...]:
        outcomes = rule.solve()
        x, nu, lam, residuals, ray_x, ray_nu, ray_lam = (
            torch.from_numpy(np.stack([getattr(at, name) for at in outcomes]))
            for name in ("x", "nu", "lam", "residuals", "ray_x", "ray_nu", "ray_lam")
        )
        status = torch.tensor([int(at.status) for at in outcomes])
        iterations = torch.tensor([at.iterations for at in outcomes])
        degenerate = torch.tensor([at.degenerate for at in outcomes])
        if rule.on_failure == "nan":
            bad = (status != Status.OPTIMAL).unsqueeze(-1)
            x, nu, lam = (t.masked_fill(bad, torch.nan) for t in (x, nu, lam))
        solved_by = torch.tensor([METHODS.index(at.solver) for at in outcomes])
        further = (status, solved_by, iterations, residuals, degenerate, ray_x, ray_nu, ray_lam)
        ctx.mark_non_differentiable(*further)
        ctx.rule, ctx.outcomes = rule, outcomes if any(ctx.needs_input_grad) else []
        ctx.save_for_backward(*data)
        return x, nu, lam, *further

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        return None, *SparseAdjoint.apply(ctx.rule, ctx.outcomes, wanted, *cotangents[:3], *ctx.saved_tensors)


class SparseAdjoint(torch.autograd.Function):
    """(rule, outcomes, which are wanted, x_bar, nu_bar, lam_bar, *data) -> the gradient (4) for the data.

    The data are arguments for one reason: whoever differentiates the gradient is told that it cannot be done.
    """

    @staticmethod
    def forward(
        ctx: Any, rule: Rule, outcomes: list[Outcome], wanted: tuple[bool, ...], *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        c_x, c_nu, c_rows = rule.adjoint(outcomes, tuple(t.numpy() for t in tensors[:3]))
        x, nu, rows = (np.stack([getattr(at, name) for at in outcomes]) for name in ("x", "nu", "lam"))
        m, n = rule.data.patterns[2].shape
        lam, c_lam = rows[:, :m], c_rows[:, :m]
        Q, A, G = rule.data.patterns
        bars = (
            Q.outer(((0.5 * c_x, x), (0.5 * x, c_x))) if wanted[0] else None,
            A.outer(((nu, c_x), (c_nu, x))) if wanted[1] else None,
            G.outer(((lam, c_x), (c_lam, x))) if wanted[2] else None,
            *(c_x, -c_nu, -c_lam, c_rows[:, m : m + n], -c_rows[:, m + n :]),
        )
        return tuple(
            torch.from_numpy(bar) if want and bar is not None else None for bar, want in zip(bars, wanted, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError("second derivatives of a sparse program are not available; a dense `QP` has them")


def over_batch(f: Callable[[int], T], batch: int, threads: int) -> list[T]:
    """f of every instance, in so many threads."""
    if min(threads, batch) < 2:
        return [f(i) for i in range(batch)]
    with ThreadPoolExecutor(min(threads, batch)) as pool:
        return list(pool.map(f, range(batch)))


def symmetrised(Q: CSR, tolerance: float) -> CSR:
    """Q, freed from rounding. Raises: ValueError, where max |Q - Q'| / max |Q| is more than the tolerance."""
    if np.array_equal(rows_of(Q), Q.indices):
        return Q
    difference = abs(Q - Q.T)
    defect = np.nan_to_num(difference.max() / max(abs(Q).max(), np.finfo(float).tiny))
    if defect > tolerance:
        raise ValueError(f"Q must be symmetric; max |Q - Q'| / max |Q| is {defect:.1e}. Pass (Q + Q') / 2.")
    return 0.5 * (Q + Q.T) if defect > 0 else Q
