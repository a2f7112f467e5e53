"""Batched convex programs with exact gradients: QP, LP and entropy bundles. Knows nothing of networks."""

if __name__ != "icnn.solvers":
    raise ImportError(f"this package is icnn.solvers; it was imported as {__name__!r} (is its folder on sys.path?)")

from .api import ZeroGradientWarning, central_point, solve
from .certificate import certificate
from .problem import LP, QP, ConvexProblem, EntropyBundle
from .solution import Ray, Residuals, Solution, SolverError, Status, failure_message
from .sparse import SparseQP

__all__ = [
    "LP",
    "QP",
    "ConvexProblem",
    "EntropyBundle",
    "Ray",
    "Residuals",
    "Solution",
    "SolverError",
    "SparseQP",
    "Status",
    "ZeroGradientWarning",
    "central_point",
    "certificate",
    "failure_message",
    "solve",
]
