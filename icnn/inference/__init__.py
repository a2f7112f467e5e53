"""Prediction as optimisation: argmin_y f(x, y) over a convex set, differentiable in the network and in x."""

from .argmin import ArgminSolution, argmin
from .descent import Descent
from .domains import Ball, Box, Domain, Polytope, Simplex
from .extrema import Extrema, Extremum, extrema
from .regularizers import EntropyRegularizer, QuadraticRegularizer

__all__ = [
    "ArgminSolution",
    "Ball",
    "Box",
    "Descent",
    "Domain",
    "EntropyRegularizer",
    "Extrema",
    "Extremum",
    "Polytope",
    "QuadraticRegularizer",
    "Simplex",
    "argmin",
    "extrema",
]
