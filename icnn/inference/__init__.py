"""Prediction as optimisation: argmin_y f(x, y) over a convex set, differentiable in the network and in x."""

from .argmin import ArgminSolution, argmin
from .extrema import Extrema, Extremum, extrema

__all__ = ["ArgminSolution", "Extrema", "Extremum", "argmin", "extrema"]
