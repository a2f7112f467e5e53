"""Prediction as optimisation: argmin_y f(x, y) over a convex set, differentiable in the network and in x."""

from .argmin import ArgminSolution, argmin

__all__ = ["ArgminSolution", "argmin"]
