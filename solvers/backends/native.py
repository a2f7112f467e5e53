"""Adapters to native solvers: PIQP and Clarabel for quadratic programs, HiGHS for linear ones.

Each takes an `Instance` and gives a `Report` in the notation of this package. Nothing they say is taken on trust:
their point is polished and certified, their verdict of infeasibility is proved again. PIQP comes first for a QP since
it was measured to take half the time of Clarabel on problems of control with 320 to 50,000 variables.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse

from .instance import CSR, Instance, Vector

Verdict = Literal["solved", "infeasible", "unbounded", "exhausted", "failed"]
Name = Literal["piqp", "clarabel", "highs"]
PACKAGES: dict[Name, str] = {"piqp": "piqp", "clarabel": "clarabel", "highs": "highspy"}
FOR_QP: tuple[Name, ...] = ("piqp", "clarabel")
FOR_LP: tuple[Name, ...] = ("highs", "clarabel", "piqp")
SIMPLEX_TOLERANCE = 1e-10
WIDTHS = 16, 128  # of the rows of a program in stages: below and above, or beyond LONGEST, a general LDL' is faster
LONGEST = 10_000
DENSITY = 0.4


class Report(NamedTuple):
    """Where a native solver ended: x, nu and lam over the rows of J, its verdict and its iterations."""

    x: Vector
    nu: Vector
    lam: Vector
    verdict: Verdict
    iterations: int


Backend = Callable[[Instance, float, int], Report]


def available(linear: bool, solver: str) -> tuple[Name, ...]:
    """The installed solvers for a problem, in the order in which they are tried; `solver` goes first.

    Raises: ImportError, naming what to install.
    """
    fitting = FOR_LP if linear else FOR_QP
    if solver != "auto" and solver not in fitting:
        raise ValueError(f"solver must be 'auto' or one of {fitting} for this problem; got {solver!r}")
    names: list[Name] = sorted(fitting, key=lambda name: name != solver)
    installed: list[Name] = [name for name in names if importlib.util.find_spec(PACKAGES[name]) is not None]
    missing = names[0] if solver != "auto" else None
    if not installed or (missing and missing not in installed):
        wanted = PACKAGES[missing] if missing else " or ".join(PACKAGES[name] for name in fitting)
        raise ImportError(f"sparse problems need {wanted}: pip install 'icnn[sparse]'")
    return tuple(installed)


def for_curved() -> tuple[Name, ...]:
    """The installed solvers for a QP that is at hand in any case: HiGHS too has an active-set method for it."""
    names: tuple[Name, ...] = ("piqp", "clarabel", "highs")
    return tuple(name for name in names if importlib.util.find_spec(PACKAGES[name]) is not None)


def solve_piqp(program: Instance, tol: float, max_iter: int) -> Report:
    """The proximal interior-point method of PIQP; bounds are passed as such."""
    import piqp  # pyright: ignore[reportMissingImports]

    solver = piqp.SparseSolver()
    settings = solver.settings
    settings.eps_abs = settings.eps_rel = settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = tol
    settings.max_iter = max_iter
    if in_stages(program):
        settings.kkt_solver = piqp.KKTSolver.sparse_multistage
    A = (_columns(program.A), program.b) if len(program.b) else (None, None)
    G = (_columns(program.G), None, program.h) if len(program.h) else (None, None, None)
    solver.setup(_symmetric(program.Q), program.p, *A, *G, program.lower, program.upper)
    verdicts: dict[object, Verdict] = {
        piqp.PIQP_SOLVED: "solved",
        piqp.PIQP_PRIMAL_INFEASIBLE: "infeasible",
        piqp.PIQP_DUAL_INFEASIBLE: "unbounded",
        piqp.PIQP_MAX_ITER_REACHED: "exhausted",
    }
    verdict = verdicts.get(solver.solve(), "failed")
    found = solver.result
    nu = found.y if len(program.b) else program.b
    rows = found.z_u if len(program.h) else program.h
    lam = np.concatenate((rows, found.z_bl, found.z_bu))
    return Report(np.array(found.x), np.array(nu), lam, verdict, found.info.iter)


def in_stages(program: Instance) -> bool:
    """Whether the rows couple neighbouring variables, densely, as in control: a block-banded factor is faster there."""
    spans, count = [_spans(M) for M in (program.Q, program.A, program.G)], program.A.nnz + program.G.nnz
    widest, total = max(span.max(initial=0) for span in spans), sum(span.sum() for span in spans[1:])
    few, many = WIDTHS
    return bool(few <= widest <= many and 4 * widest < len(program.p) <= LONGEST and count >= DENSITY * total)


def _spans(M: CSR) -> Vector:
    """How many columns each row reaches over, from its first entry to its last."""
    starts, ends = M.indptr[:-1], M.indptr[1:]
    filled = ends > starts
    return M.indices[ends[filled] - 1] - M.indices[starts[filled]] + 1


def solve_clarabel(program: Instance, tol: float, max_iter: int) -> Report:
    """The interior-point method of Clarabel; bounds become rows."""
    import clarabel as module

    clarabel: Any = module  # compiled: it tells a type checker nothing
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.max_iter = max_iter
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol
    n, q = len(program.p), len(program.b)
    eye: Any = sparse.eye_array(n, format="csr")
    J: CSR = sparse.vstack((program.G, -eye, eye), format="csr")
    J = J[program.present]
    rows: CSR = sparse.vstack((program.A, J), format="csc")
    limits = np.concatenate((program.b, program.d[program.present]))
    cones = [clarabel.ZeroConeT(q), clarabel.NonnegativeConeT(len(limits) - q)]
    found = clarabel.DefaultSolver(_symmetric(program.Q), program.p, sparse.csc_matrix(rows), limits, cones, settings)
    found = found.solve()
    status, z, lam = clarabel.SolverStatus, np.array(found.z), np.zeros(len(program.d))
    lam[program.present] = z[q:]
    verdicts: list[tuple[Any, Verdict]] = [
        (status.Solved, "solved"),
        (status.AlmostSolved, "solved"),
        (status.PrimalInfeasible, "infeasible"),
        (status.DualInfeasible, "unbounded"),
        (status.MaxIterations, "exhausted"),
    ]
    matching: list[Verdict] = [verdict for code, verdict in verdicts if code == found.status]
    return Report(np.array(found.x), z[:q], lam, (matching or ["failed"])[0], found.iterations)


def solve_highs(program: Instance, tol: float, max_iter: int) -> Report:
    """The simplex method of HiGHS, at most max_iter pivots for every row and column; its active-set method for a QP."""
    import highspy

    rows: CSR = sparse.vstack((program.A, program.G), format="csc")
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = rows.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = program.p, program.lower, program.upper
    lp.row_lower_ = np.concatenate((program.b, np.full(len(program.h), -np.inf)))
    lp.row_upper_ = np.concatenate((program.b, program.h))
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = rows.indptr, rows.indices, rows.data
    solver = highspy.Highs()
    solver.silent()
    feasibility = max(SIMPLEX_TOLERANCE, 0.1 * tol)
    options = dict(
        parallel="off",
        simplex_iteration_limit=max_iter * sum(rows.shape),
        qp_iteration_limit=max_iter * sum(rows.shape),
        primal_feasibility_tolerance=feasibility,
        dual_feasibility_tolerance=feasibility,
    )
    for name, value in options.items():
        solver.setOptionValue(name, value)
    solver.passModel(lp)
    if program.Q.nnz:
        solver.passHessian(_hessian(program.Q))
    solver.run()
    found, status = solver.getSolution(), highspy.HighsModelStatus
    verdicts: dict[object, Verdict] = {
        status.kOptimal: "solved",
        status.kInfeasible: "infeasible",
        status.kUnbounded: "unbounded",
        status.kUnboundedOrInfeasible: "unbounded",
        status.kIterationLimit: "exhausted",
    }
    dual, reduced = -np.array(found.row_dual), np.array(found.col_dual)
    q = len(program.b)
    lam = np.concatenate((dual[q:], reduced, -reduced)).clip(0.0)
    verdict = verdicts.get(solver.getModelStatus(), "failed")
    return Report(np.array(found.col_value), dual[:q], lam, verdict, solver.getInfo().simplex_iteration_count)


def _hessian(Q: CSR) -> CSR:
    import highspy

    lower: CSR = sparse.tril(Q, format="csc")
    hessian = highspy.HighsHessian()
    hessian.dim_ = lower.shape[0]
    hessian.format_ = highspy.HessianFormat.kTriangular
    hessian.start_, hessian.index_, hessian.value_ = lower.indptr, lower.indices, lower.data
    return hessian


BACKENDS: dict[Name, Backend] = {"piqp": solve_piqp, "clarabel": solve_clarabel, "highs": solve_highs}


def _columns(M: CSR) -> CSR:
    return M.tocsc()


def _symmetric(Q: CSR) -> CSR:
    """A symmetric matrix by columns: its rows, read as columns."""
    return sparse.csc_array((Q.data, Q.indices, Q.indptr), shape=Q.shape)
