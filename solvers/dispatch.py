"""Which method solves which problem.

Up to n = 500 the compiled active set was faster than every peer and than the loop (benchmarks/results/layers.md); the
limits above that are choices, to be replaced by the table of `python -m benchmarks.tune`.
"""

from typing import Literal

from .closed_form import is_separable
from .kernels import kernels_for
from .problem import LP, ConvexProblem
from .program import BoxEntropy, NegativeEntropy, Quadratic, is_diagonal
from .solution import Method
from .sparse import SparseQP

Choice = Literal["auto"] | Method
ACTIVE_SET_VARIABLES = 1000
ACTIVE_SET_ROWS = 4000
BUNDLE_CUTS = 64
SPARSE_METHODS = ("piqp", "clarabel", "highs")


def fitting_method(problem: ConvexProblem, operator: Literal["primal", "dual", "full"]) -> Method:
    """Closed form, compiled active set or interior point, in this order."""
    Q, p, A, _, G, _ = problem.program
    if isinstance(problem.phi, NegativeEntropy):
        few = G.shape[-2] <= BUNDLE_CUTS and isinstance(problem.phi, BoxEntropy)
        return "bundle" if few and kernels_for(p) is not None else operator
    if isinstance(problem, LP):
        return operator
    if is_separable(Q, p, A, G):
        return "closed_form"
    small = p.shape[-1] <= ACTIVE_SET_VARIABLES and A.shape[-2] + G.shape[-2] <= ACTIVE_SET_ROWS
    return "active_set" if small and kernels_for(p) is not None else operator


def check_method(problem: ConvexProblem | SparseQP, method: Choice) -> None:
    """Refuse a method that was asked for by name and does not fit."""
    if method == "auto":
        return
    if isinstance(problem, SparseQP) != (method in SPARSE_METHODS):
        raise ValueError(f"method={method!r} is not for a {type(problem).__name__}")
    if isinstance(problem, SparseQP):
        return
    Q, p, A, _, G, _ = problem.program
    quadratic = isinstance(problem.phi, Quadratic)
    requirements: dict[str, tuple[bool, str]] = {
        "dual": (is_diagonal(Q, p), "a diagonal Q, given as a vector; got a matrix"),
        "closed_form": (
            quadratic and is_separable(Q, p, A, G),
            "a diagonal Q, given as a vector, bounds, at most one equality and no G",
        ),
        "active_set": (quadratic and kernels_for(p) is not None, "a QP on the CPU, and numba"),
        "bundle": (
            isinstance(problem.phi, BoxEntropy) and kernels_for(p) is not None,
            "an EntropyBundle over the box, on the CPU, and numba",
        ),
    }
    fits, what = requirements.get(method, (True, ""))
    if not fits:
        raise ValueError(f"method={method!r} needs {what}")


def fitting_operator(problem: ConvexProblem) -> Literal["primal", "dual"]:
    """Dual where the Hessian is diagonal with few rows beside it, else primal."""
    _, p, A, _, G, _ = problem.program
    rows, n = A.shape[-2] + G.shape[-2], p.shape[-1]
    return "dual" if problem.diagonal_curvature and 2 * rows <= n else "primal"
