"""Convex programs as modules."""

from .programs import BundleEntropyLayer, LPLayer, QPLayer

__all__ = ["BundleEntropyLayer", "LPLayer", "QPLayer"]
