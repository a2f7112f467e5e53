"""Is a claim about a random problem true? Judged in numpy from the data, in units without the bad scaling.

OPTIMAL is proved by feasibility and weak duality, a failure by its ray; what is not proved so, the independent solvers
decide.
"""

from collections.abc import Mapping

import numpy as np

from tests.solvers.judging import WRONG, is_farkas, is_recession
from tests.solvers.oracles import oracle
from tests.solvers.random_problems import Array, Data, Instance


def judge_one(
    instance: Instance, status: str, point: Mapping[str, Array], ray: Mapping[str, Array], check: bool
) -> tuple[str, int, str]:
    """The verdict, how often the oracle was asked, and where it contradicts the proof."""
    if status not in ("OPTIMAL", "PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE", "NONCONVEX"):
        return "admitted", 0, status
    proof = proved(instance, status, point, ray)
    if proof and not check:
        return "proved", 0, ""
    agrees = confirmed(instance, status, point["x"])
    if proof:
        return "proved", 1, "" if agrees else "the independent solvers disagree"
    wrong = "wrong solved" if status == "OPTIMAL" else "wrong"
    return ("confirmed" if agrees else wrong), 1, "no proof"


def proved(instance: Instance, status: str, point: Mapping[str, Array], ray: Mapping[str, Array]) -> bool:
    """Whether the numbers prove the status, in plain units (scaling by powers of two is exact)."""
    if status == "OPTIMAL":
        return proves_optimal(instance, point)
    if status == "PRIMAL_INFEASIBLE":
        return is_farkas(instance, dict(ray))
    direction = instance.units.columns * ray["x"]
    if not 0 < abs(direction).max() < np.inf:
        return False
    direction = direction / abs(direction).max()
    if status == "NONCONVEX":
        return bool(direction @ instance.plain.hessian @ direction < -1e-9)
    return instance.plain.violation(instance.x) < 1e-9 and is_recession(instance, direction)


def proves_optimal(instance: Instance, point: Mapping[str, Array]) -> bool:
    """x is feasible, Q >= 0, and weak duality leaves no room below f(x).

    For every feasible z, with r = Q x + p + A'nu + J'lam and lam >= 0,

        f(x) - f(z) <= nu'(b - A x) + lam'(d - J x) + r'(x - z),

    where the last term is bounded by |r|'(|x - z0| + |x| + |z0|): z0 is the point that the problem was built around,
    its minimiser, and the other two terms leave room for another one. Compared with the terms of the objective at z0,
    not at x, which may be far away.
    """
    data, units = instance.plain, instance.units
    x = units.columns * point["x"]
    if not (np.isfinite(x).all() and data.violation(x) <= WRONG and np.linalg.eigvalsh(data.hessian)[0] > -1e-9):
        return False
    nu, lam = units.A_rows * point["nu"] / units.cost, units.G_rows * point["lam"] / units.cost
    zero = np.zeros_like(x)
    low, up = (point[k] / (units.columns * units.cost) if point[k].size else zero for k in ("lam_lower", "lam_upper"))
    if min(v.min(initial=0.0) for v in (lam, low, up)) < 0 or not finite_where_used(data, low, up):
        return False
    r = data.hessian @ x + data.p + data.A.T @ nu + data.G.T @ lam - low + up
    slack = used(low, x - data.lower) + used(up, data.upper - x)
    gap = nu @ (data.b - data.A @ x) + lam @ (data.h - data.G @ x) + slack
    room = abs(r) @ (abs(x - instance.x) + abs(x) + abs(instance.x))
    return bool(max(gap, 0.0) + room <= WRONG * (data.size(instance.x) or 1.0))


def used(multiplier: Array, slack: Array) -> float:
    """multiplier'slack, where an absent bound has multiplier 0 and slack inf."""
    return float(np.where(multiplier > 0, multiplier * np.where(np.isfinite(slack), slack, 0.0), 0.0).sum())


def finite_where_used(data: Data, low: Array, up: Array) -> bool:
    return not ((low > 0) & ~np.isfinite(data.lower) | (up > 0) & ~np.isfinite(data.upper)).any()


def confirmed(instance: Instance, status: str, x: Array) -> bool:
    """What the independent solvers say of the claim."""
    answer = oracle(instance)
    if status != "OPTIMAL" or answer.outcome != "OPTIMAL":
        return status == answer.outcome
    return off_by(instance, x, answer.objective) <= WRONG


def off_by(instance: Instance, x: Array, objective: float) -> float:
    """The larger of the violation and the error of the objective, each relative to its terms."""
    plain = instance.units.columns * x
    error = abs(instance.units.cost * instance.plain.objective(plain) - objective) / (instance.size or 1.0)
    return max(instance.plain.violation(plain), error)
