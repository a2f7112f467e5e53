"""Input convex neural networks, and the convex programs inside them, for PyTorch."""

from .inference import ArgminSolution, argmin
from .layers import BundleEntropyLayer, LPLayer, QPLayer
from .networks import FICNN, PICNN, ConvexNetwork, ConvFICNN, ConvPICNN, Violation, falsify, project_
from .solvers import LP, QP, ConvexProblem, EntropyBundle, Solution, SolverError, SparseQP, Status, certificate, solve

__version__ = "0.1.0"

__all__ = [
    "FICNN",
    "LP",
    "PICNN",
    "QP",
    "ArgminSolution",
    "BundleEntropyLayer",
    "ConvFICNN",
    "ConvPICNN",
    "ConvexNetwork",
    "ConvexProblem",
    "EntropyBundle",
    "LPLayer",
    "QPLayer",
    "Solution",
    "SolverError",
    "SparseQP",
    "Status",
    "Violation",
    "argmin",
    "certificate",
    "falsify",
    "project_",
    "solve",
]
