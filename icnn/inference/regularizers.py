"""What may be added to an energy so that its minimiser is unique."""

from dataclasses import dataclass

import torch

from .domains import Bound


@dataclass(frozen=True, eq=False)
class EntropyRegularizer:
    """φ(y) = weight · Σ p log p + (1 − p) log(1 − p), p = (y − lower)/(upper − lower) in a finite box,
    φ(y) = weight · Σ p log p, p = y/total, on the simplex.

    weight: positive.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < torch.inf:
            raise ValueError(f"weight is {self.weight}, expected a positive number")


@dataclass(frozen=True, eq=False)
class QuadraticRegularizer:
    """φ(y) = weight/2 · |y − centre|²; weight: positive; centre: a number, y_shape or (*batch, *y_shape)."""

    weight: float = 1.0
    centre: Bound = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < torch.inf:
            raise ValueError(f"weight is {self.weight}, expected a positive number")
