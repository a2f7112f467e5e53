"""Adjoints in closed form beside that of the KKT system: sweeps back that are derived by hand, and said how."""

from .counts import noisy_or_count
from .flow import lift, residual_flow
from .least_squares import dense_least_squares, fit_dense_least_squares

__all__ = ["dense_least_squares", "fit_dense_least_squares", "lift", "noisy_or_count", "residual_flow"]
