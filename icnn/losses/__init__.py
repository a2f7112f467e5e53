"""Losses: for decisions by linear programs whose costs are predicted."""

from .programs import LinearDecision, log_barrier, perturbed, ridge
from .regrets import PerturbedFenchelYoung, SPOPlus, regret

__all__ = [
    "LinearDecision",
    "PerturbedFenchelYoung",
    "SPOPlus",
    "log_barrier",
    "perturbed",
    "regret",
    "ridge",
]
