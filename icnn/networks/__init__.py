"""Input convex networks, the maps that keep them convex, and a search for evidence that they are not."""

from .activations import ACTIVATIONS, CONVEX_ACTIVATIONS, Activation
from .convexity import Violation, falsify
from .energy import ConvexStep, Energy, GatedStep, Gates, Tangent
from .ficnn import FICNN, ConvFICNN
from .initialisation import Affine
from .network import ConvexNetwork
from .operators import Conv, Dense, Linear
from .picnn import PICNN, ConvPICNN
from .positivity import POSITIVITY, NonNegative, project_

__all__ = [
    "ACTIVATIONS",
    "CONVEX_ACTIVATIONS",
    "FICNN",
    "PICNN",
    "POSITIVITY",
    "Activation",
    "Affine",
    "Conv",
    "ConvFICNN",
    "ConvPICNN",
    "ConvexNetwork",
    "ConvexStep",
    "Dense",
    "Energy",
    "GatedStep",
    "Gates",
    "Linear",
    "NonNegative",
    "Tangent",
    "Violation",
    "falsify",
    "project_",
]
