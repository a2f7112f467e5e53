"""Input convex neural networks, and the convex programs inside them, for PyTorch."""

from typing import TYPE_CHECKING, Any

from . import adjoints, decoders, losses, transforms
from .certificates import (
    CurvatureBounds,
    Interval,
    Verdict,
    Violation,
    certify,
    curvature_bounds,
    falsify,
    output_bounds,
)
from .inference import (
    ArgminSolution,
    Ball,
    Box,
    Descent,
    EntropyRegularizer,
    Extrema,
    Extremum,
    Polytope,
    QuadraticRegularizer,
    Simplex,
    argmin,
    extrema,
)
from .layers import BundleEntropyLayer, LPLayer, QPLayer
from .networks import (
    FICNN,
    PICNN,
    ConvexNetwork,
    ConvFICNN,
    ConvPICNN,
    DifferenceOfConvex,
    EntrywiseICNN,
    LogSumExp,
    MaxAffine,
    ResidualICNN,
    centred,
    convert,
    leaky_relu,
    log_sum_exp,
    maxout,
    norm,
    normalise_,
    project_,
    report,
)
from .solvers import (
    LP,
    QP,
    ConvexProblem,
    EntropyBundle,
    Solution,
    SolverError,
    SparseQP,
    Status,
    ZeroGradientWarning,
    certificate,
    solve,
)

if TYPE_CHECKING:
    from .multilabel import MultiLabelClassifier as MultiLabelClassifier

__version__ = "0.1.0"

__all__ = [
    "FICNN",
    "LP",
    "PICNN",
    "QP",
    "ArgminSolution",
    "Ball",
    "Box",
    "BundleEntropyLayer",
    "ConvFICNN",
    "ConvPICNN",
    "ConvexNetwork",
    "ConvexProblem",
    "CurvatureBounds",
    "Descent",
    "DifferenceOfConvex",
    "EntropyBundle",
    "EntropyRegularizer",
    "EntrywiseICNN",
    "Extrema",
    "Extremum",
    "Interval",
    "LPLayer",
    "LogSumExp",
    "MaxAffine",
    "Polytope",
    "QPLayer",
    "QuadraticRegularizer",
    "ResidualICNN",
    "Simplex",
    "Solution",
    "SolverError",
    "SparseQP",
    "Status",
    "Verdict",
    "Violation",
    "ZeroGradientWarning",
    "adjoints",
    "argmin",
    "centred",
    "certificate",
    "certify",
    "convert",
    "curvature_bounds",
    "decoders",
    "extrema",
    "falsify",
    "leaky_relu",
    "log_sum_exp",
    "losses",
    "maxout",
    "norm",
    "normalise_",
    "output_bounds",
    "project_",
    "report",
    "solve",
    "transforms",
]


def __getattr__(name: str) -> Any:  # what needs an extra is imported when it is asked for
    if name == "MultiLabelClassifier":
        from .multilabel import MultiLabelClassifier

        return MultiLabelClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
