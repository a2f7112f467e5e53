"""What is true of a function: convexity proved or refuted, bounds of its curvature, its slope and its values."""

from .bounds import Interval, output_bounds
from .constants import CurvatureBounds, curvature_bounds
from .convexity import Violation, falsify
from .facts import Node
from .verdict import Curvature, Verdict, certify

__all__ = [
    "Curvature",
    "CurvatureBounds",
    "Interval",
    "Node",
    "Verdict",
    "Violation",
    "certify",
    "curvature_bounds",
    "falsify",
    "output_bounds",
]
