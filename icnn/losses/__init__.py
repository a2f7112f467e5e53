"""Losses: what makes labels the argmin of a convex energy, and what a predicted cost loses by its decision."""

from .criteria import Argmin, soft_f1
from .perturbation import PerturbedFenchelYoung
from .programs import LinearDecision, log_barrier, perturbed, ridge
from .regrets import PerturbedDecision, SPOPlus, regret
from .structured import FenchelYoung, MaxMargin, Perceptron

__all__ = [
    "Argmin",
    "FenchelYoung",
    "LinearDecision",
    "MaxMargin",
    "Perceptron",
    "PerturbedDecision",
    "PerturbedFenchelYoung",
    "SPOPlus",
    "log_barrier",
    "perturbed",
    "regret",
    "ridge",
    "soft_f1",
]
