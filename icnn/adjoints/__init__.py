"""Adjoints in closed form beside that of the KKT system: sweeps back that are derived by hand, and said how."""

from .flow import lift, residual_flow

__all__ = ["lift", "residual_flow"]
