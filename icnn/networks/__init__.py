"""Input convex networks, the maps that keep them convex, and a search for evidence that they are not."""

from .activations import ACTIVATIONS, CONVEX_ACTIVATIONS, Activation
from .bounds import Interval, output_bounds
from .certify_facts import Node
from .certify_verdict import Curvature, Verdict, certify
from .convexity import Violation, falsify
from .difference import DifferenceOfConvex
from .energy import ConvexStep, Energy, GatedStep, Gates, Tangent
from .ficnn import FICNN, ConvFICNN
from .initialisation import Affine
from .network import ConvexNetwork, Options
from .operators import Conv, Dense, Linear
from .picnn import PICNN, ConvPICNN
from .pieces import LogSumExp, MaxAffine
from .positivity import POSITIVITY, Constrained, NonNegative, convert, project_
from .report import LayerReport, Report, report
from .residual import ResidualICNN
from .terms import Quadratic, Signed
from .units import centred, leaky_relu, log_sum_exp, maxout, norm

__all__ = [
    "ACTIVATIONS",
    "CONVEX_ACTIVATIONS",
    "FICNN",
    "PICNN",
    "POSITIVITY",
    "Activation",
    "Affine",
    "Constrained",
    "Conv",
    "ConvFICNN",
    "ConvPICNN",
    "ConvexNetwork",
    "ConvexStep",
    "Curvature",
    "Dense",
    "DifferenceOfConvex",
    "Energy",
    "GatedStep",
    "Gates",
    "Interval",
    "LayerReport",
    "Linear",
    "LogSumExp",
    "MaxAffine",
    "Node",
    "NonNegative",
    "Options",
    "Quadratic",
    "Report",
    "ResidualICNN",
    "Signed",
    "Tangent",
    "Verdict",
    "Violation",
    "centred",
    "certify",
    "convert",
    "falsify",
    "leaky_relu",
    "log_sum_exp",
    "maxout",
    "norm",
    "output_bounds",
    "project_",
    "report",
]
