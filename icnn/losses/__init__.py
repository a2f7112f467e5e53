"""Losses of structured prediction: what makes labels the argmin of a convex energy."""

from .criteria import Argmin, soft_f1
from .perturbed import PerturbedFenchelYoung
from .structured import FenchelYoung, MaxMargin, Perceptron

__all__ = ["Argmin", "FenchelYoung", "MaxMargin", "Perceptron", "PerturbedFenchelYoung", "soft_f1"]
