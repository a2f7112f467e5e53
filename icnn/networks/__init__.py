"""Input convex networks, the maps that keep them convex, and what their layers do to data."""

from .activations import ACTIVATIONS, CONVEX_ACTIVATIONS, Activation
from .difference import DifferenceOfConvex
from .energy import ConvexStep, Energy, GatedStep, Gates, Tangent
from .entrywise import EntrywiseICNN
from .ficnn import FICNN, ConvFICNN
from .initialisation import Affine
from .network import ConvexNetwork, Options
from .normalise import normalise_
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
    "Dense",
    "DifferenceOfConvex",
    "Energy",
    "EntrywiseICNN",
    "GatedStep",
    "Gates",
    "LayerReport",
    "Linear",
    "LogSumExp",
    "MaxAffine",
    "NonNegative",
    "Options",
    "Quadratic",
    "Report",
    "ResidualICNN",
    "Signed",
    "Tangent",
    "centred",
    "convert",
    "leaky_relu",
    "log_sum_exp",
    "maxout",
    "norm",
    "normalise_",
    "project_",
    "report",
]
