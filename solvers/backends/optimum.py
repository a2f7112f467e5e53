"""From the approximate answer of a native solver to a certified optimum, or to a proof that there is none.

The native point tells which rows are active. With those held as equalities the optimality conditions are linear:
one solve with the sparse KKT matrix gives the point to rounding. Where the set was not quite right the signs of
the new multipliers and slacks correct it (the primal-dual active set method), each time at the cost of one
factorisation; where that does not settle, the native solver is run to a tighter tolerance, then the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from ..solution import Status
from .factor import SparseKKT
from .instance import CSR, Instance, Vector, certificate, largest
from .native import BACKENDS, Name, Report, Verdict, for_curved

CROSSOVER = 1e-8
CORRECTIONS = 8
WEAK = 1e-6
REACH = 1e6
DIAGNOSIS_TOL = 1e-9
DIAGNOSIS_ITER = 200


@dataclass(frozen=True, eq=False)
class Outcome:
    """Where one instance ended.

    lam and ray_lam run over the rows of J; kkt belongs to the active set at x. settled: x is the exact solution on that
    set, not the approximate one of a native solver.
    """

    x: Vector
    nu: Vector
    lam: Vector
    residuals: Vector
    status: Status
    iterations: int
    degenerate: bool
    ray_x: Vector
    ray_nu: Vector
    ray_lam: Vector
    kkt: SparseKKT | None
    solver: Name
    settled: bool = False

    @property
    def error(self) -> float:
        worst = self.residuals.max()
        return float(worst) if np.isfinite(worst) else np.inf


def optimise(program: Instance, solvers: Sequence[Name], descent: Vector | None, tol: float, max_iter: int) -> Outcome:
    """Solve one instance; what fails gets a status and, where there is one, a ray. Never raises for values.

    `descent` is a direction of negative curvature of Q, where it has one.
    """
    best = unsolved(program, solvers[0])
    if not program.finite:
        return replace(best, status=Status.NONFINITE_INPUT)
    if descent is not None:
        return replace(best, status=Status.NONCONVEX, ray_x=descent)
    if (program.lower > program.upper).any():
        return _crossed(program, best)
    verdicts: list[Verdict] = []
    for solver in solvers:
        found, verdict = attempt(program, solver, tol, max_iter)
        best = better(best, found)
        if best.error <= tol:
            return replace(best, status=Status.OPTIMAL)
        if verdict in ("infeasible", "unbounded") and not {"infeasible", "unbounded"} & set(verdicts):
            best = diagnose(program, best)
            if best.status != Status.NUMERICAL:
                return best
        verdicts.append(verdict)
    if not {"infeasible", "unbounded"} & set(verdicts):
        best = diagnose(program, best)
    exhausted = best.status == Status.NUMERICAL and "exhausted" in verdicts
    return replace(best, status=Status.MAX_ITERATIONS) if exhausted else best


def unsolved(program: Instance, solver: Name) -> Outcome:
    """The outcome of an instance that nobody has looked at: everything zero."""
    x, nu, lam = np.zeros_like(program.p), np.zeros_like(program.b), np.zeros_like(program.d)
    return Outcome(x, nu, lam, np.full(5, np.inf), Status.NUMERICAL, 0, False, x, nu, lam, None, solver)


def attempt(program: Instance, solver: Name, tol: float, max_iter: int) -> tuple[Outcome, Verdict]:
    """The best answer of one native solver, run to a loose and, where that misses tol, to a tight tolerance."""
    best = unsolved(program, solver)
    verdict: Verdict = "failed"
    for accuracy in (max(tol, CROSSOVER), 0.1 * tol):
        report = BACKENDS[solver](program, accuracy, max_iter)
        verdict = report.verdict
        if verdict in ("infeasible", "unbounded"):
            break
        best = better(best, polish(program, solver, report, tol))
        if best.settled or verdict == "exhausted":
            break
    return best, verdict


def better(one: Outcome, other: Outcome) -> Outcome:
    """The more accurate of two outcomes, one that is settled before one that is not, with the iterations of both."""
    first = min(one, other, key=lambda at: (not at.settled, at.error))
    return replace(first, iterations=one.iterations + other.iterations)


def polish(program: Instance, solver: Name, report: Report, tol: float) -> Outcome:
    """The best point of an active-set iteration that starts at a native solver's answer."""
    start = replace(unsolved(program, solver), iterations=report.iterations)
    best = _at(start, program, report.x, report.nu, np.where(program.present, report.lam.clip(0.0), 0.0))
    if not np.isfinite(best.error):
        return best
    active, seen = _active_rows(program, best), set()
    while len(seen) < CORRECTIONS and active.tobytes() not in seen:
        seen.add(active.tobytes())
        kkt = SparseKKT.factorise(program, active)
        x, nu, lam = _newton(kkt, report)
        found = replace(_at(start, program, x, nu, _clipped(program, lam)), kkt=kkt)
        if found.error <= tol:
            return replace(_finished(program, found), settled=True)
        best = min(best, found, key=lambda at: at.error)
        active = _corrected(program, active, x, lam)
    return _finished(program, best)


def _at(outcome: Outcome, program: Instance, x: Vector, nu: Vector, lam: Vector) -> Outcome:
    return replace(outcome, x=x, nu=nu, lam=lam, residuals=certificate(program, x, nu, lam))


def _newton(kkt: SparseKKT, report: Report) -> tuple[Vector, Vector, Vector]:
    """The solution of the optimality conditions with the active rows as equalities, nearest to the native point."""
    program = kkt.program
    x, nu, lam = report.x, report.nu, np.where(kkt.active, report.lam, 0.0)
    stationarity = program.Q @ x + program.p + program.AT @ nu + program.pull(lam)
    violation = np.where(kkt.active, program.push(x) - program.d, 0.0)
    step, _ = kkt.solve(-kkt.join(stationarity, program.A @ x - program.b, violation))
    dx, dnu, dlam = kkt.split(step)
    return x + dx, nu + dnu, lam + dlam


def _clipped(program: Instance, lam: Vector) -> Vector:
    """Multipliers without a wrong sign; those of fixed variables pass to the bound where their sign is right."""
    free = np.where(program.held, lam, 0.0)
    _, lower, upper = program.split(free)
    signed = lower - upper
    moved = np.concatenate((np.zeros(len(program.h)), signed, -signed))
    return np.where(program.held, moved, lam).clip(0.0)


def _active_rows(program: Instance, at: Outcome) -> Vector:
    """Rows whose multiplier is larger than their slack, each in its unit, and one bound of each fixed variable."""
    size, cost = program.units.row[len(program.b) :], program.units.cost
    slack = program.d - program.push(at.x)
    active = program.present & (at.lam * np.square(size) / cost > slack)
    _, lower, upper = program.split(at.lam)
    up = upper > lower
    owner = np.concatenate((np.zeros(len(program.h), bool), ~up, up))
    return np.where(program.held, owner, active)


def _corrected(program: Instance, active: Vector, x: Vector, lam: Vector) -> Vector:
    """Active rows that pull are dropped, violated rows are added."""
    violated = program.d - program.push(x) < 0
    return np.where(program.held, active, np.where(active, lam > 0, program.present & violated))


def _weak_rows(program: Instance, at: Outcome) -> Vector:
    """Rows whose slack and multiplier both vanish to rounding: the derivative is one-sided there."""
    units, interior = program.units, program.present & ~program.held
    size = units.row[len(program.b) :]
    slack, lam = (program.d - program.push(at.x)) / size, at.lam * size / units.cost
    small_slack = np.abs(slack) <= WEAK * (1 + largest(at.x / units.column))
    return interior & small_slack & (np.abs(lam) <= WEAK * (1 + largest(lam[interior])))


def _finished(program: Instance, at: Outcome) -> Outcome:
    """The operator of the final active set, weakly active rows included, and whether derivatives are unique."""
    weak = _weak_rows(program, at)
    active = _active_rows(program, at) | weak
    kkt = at.kkt
    if kkt is None or (kkt.active != active).any():
        kkt = SparseKKT.factorise(program, active)
    return replace(at, kkt=kkt, degenerate=bool(weak.any()) or kkt.singular())


def _crossed(program: Instance, at: Outcome) -> Outcome:
    worst = np.zeros_like(program.p)
    worst[np.argmax(program.lower - program.upper)] = 1.0
    ray = np.concatenate((np.zeros_like(program.h), worst, worst))
    return replace(at, status=Status.PRIMAL_INFEASIBLE, ray_lam=ray)


def diagnose(program: Instance, at: Outcome) -> Outcome:
    """A proved reason why there is no optimum, or the outcome as it stands."""
    farkas = farkas_ray(program)
    if farkas is not None:
        nu, lam = farkas
        return replace(at, status=Status.PRIMAL_INFEASIBLE, ray_nu=nu, ray_lam=lam)
    descent = recession_ray(program)
    if descent is not None:
        return replace(at, status=Status.DUAL_INFEASIBLE, ray_x=descent)
    return at


def farkas_ray(program: Instance) -> tuple[Vector, Vector] | None:
    """(nu, lam) that prove the constraints contradictory, scaled to b'nu + d'lam = -1.

    The multipliers of  minimise |u|^2/2 + |v|^2/2  subject to  A x - u = b,  G x - v <= h  and the bounds.
    """
    n, q, m = len(program.p), len(program.b), len(program.h)
    violation: CSR = sparse.diags_array(-program.units.row[: q + m], format="csr")
    free = np.full(q + m, np.inf)
    curvature: CSR = sparse.diags_array(np.concatenate((np.zeros(n), np.ones(q + m))), format="csr")
    A: CSR = sparse.hstack((program.A, violation[:q]), format="csr")
    G: CSR = sparse.hstack((program.G, violation[q:]), format="csr")
    elastic = Instance(
        curvature,
        np.zeros(n + q + m),
        A,
        program.b,
        G,
        program.h,
        np.concatenate((program.lower, -free)),
        np.concatenate((program.upper, free)),
    )
    at = _always_solvable(elastic)
    rows, lower, upper = elastic.split(at.lam)
    nu, lam = at.nu, np.concatenate((rows, lower[:n], upper[:n]))
    value = program.b @ nu + np.where(program.present, program.d, 0.0) @ lam
    leak = largest((program.AT @ nu + program.pull(lam)) * program.units.column)
    return (nu / -value, lam / -value) if value < 0 and leak * REACH < -value else None


def recession_ray(program: Instance) -> Vector | None:
    """A direction of endless descent, of unit length in the units of x: the projection of -p on the recession cone."""
    units, n = program.units, len(program.p)
    limits = [np.where(np.isfinite(v), 0.0, v) for v in (program.h, program.lower, program.upper)]
    curvature: CSR = sparse.diags_array(units.cost / np.square(units.column), format="csr")
    A: CSR = sparse.vstack((program.Q, program.A), format="csr")
    cone = Instance(curvature, program.p, A, np.zeros(n + len(program.b)), program.G, *limits)
    at = _always_solvable(cone)
    ray = at.x / max(largest(at.x / units.column), np.finfo(float).tiny)
    slope = -(program.p @ ray) / max(largest(program.p * units.column), np.finfo(float).tiny)
    rise = np.where(program.present, program.push(ray).clip(0.0), 0.0)
    leaks = (
        largest((program.Q @ ray) * units.column / units.cost),
        largest(np.concatenate((program.A @ ray, rise)) / units.row),
    )
    return ray if slope * 1e4 > 1 and max(leaks) * REACH < slope else None


def _always_solvable(program: Instance) -> Outcome:
    solvers = for_curved()
    at = unsolved(program, solvers[0])
    for solver in solvers:
        at = better(at, attempt(program, solver, DIAGNOSIS_TOL, DIAGNOSIS_ITER)[0])
        if at.error <= DIAGNOSIS_TOL:
            break
    return at
