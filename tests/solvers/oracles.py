"""What independent solvers say about the random problems: HiGHS, DAQP and Clarabel."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import qpsolvers
import scipy.sparse as sp

from .random_problems import Array, Data, Instance

SOLVERS = ("highs", "daqp", "clarabel")
FEASIBLE = 1e-9
SECONDS = 5.0


class Answer(NamedTuple):
    """The outcome, and the optimal value (nan where there is none) in the units of the instance."""

    outcome: str
    objective: float


def oracle(instance: Instance) -> Answer:
    """Solve the instance in its plain units (scaling by powers of two is exact, so it is the same problem).

    Feasibility is decided by the constraints with zero cost, boundedness by the linear program over the
    recession cone. Of several solvers the lowest value counts: each is that of a feasible point, so none can
    be below the optimal value.
    """
    data = instance.plain
    if np.linalg.eigvalsh(data.hessian)[0] < -1e-9:
        return Answer("NONCONVEX", math.nan)
    if (data.lower > data.upper).any() or math.isnan(minimum(linear(data, 0 * data.p), "highs")):
        return Answer("PRIMAL_INFEASIBLE", math.nan)
    if minimum(recession(data), "highs") < -1e-6:
        return Answer("DUAL_INFEASIBLE", math.nan)
    solvers = SOLVERS if data.hessian.any() else ("highs",)
    return Answer("OPTIMAL", instance.units.cost * float(np.nanmin([minimum(data, solver) for solver in solvers])))


def linear(data: Data, cost: Array) -> Data:
    return Data(0 * cost, cost, data.G, data.h, data.A, data.b, data.lower, data.upper)


def recession(data: Data) -> Data:
    """min p'd  s.t.  Q d = 0,  A d = 0,  G d <= 0,  d as the infinite bounds permit, |d| <= 1."""
    flat = np.concatenate((data.hessian, data.A))
    lower, upper = -1.0 * ~np.isfinite(data.lower), 1.0 * ~np.isfinite(data.upper)
    return Data(0 * data.p, data.p, data.G, 0 * data.h, flat, np.zeros(len(flat)), lower, upper)


def minimum(data: Data, solver: str) -> float:
    """The objective at the point that a solver returns, nan where it finds none that is feasible."""
    convert = np.asarray if solver == "daqp" else sp.csc_matrix
    G, h = (convert(data.G), data.h) if len(data.h) else (None, None)
    A, b = (convert(data.A), data.b) if len(data.b) else (None, None)
    problem = qpsolvers.Problem(convert(data.hessian), data.p, G, h, A, b, data.lower, data.upper)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # a solver that stopped short says so
        # the method of HiGHS for QPs may circle without end
        limit: dict[str, Any] = {"time_limit": SECONDS} if solver == "highs" else {}
        x = qpsolvers.solve_problem(problem, solver, **limit).x
    return data.objective(x) if x is not None and data.violation(x) < FEASIBLE else math.nan
