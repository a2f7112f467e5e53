"""Nine convex functions to be learned, and the data of one regression problem."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_WIDTH = sqrt(3)  # of a uniform distribution of variance one
NOISE = 0.05  # standard deviation of the observations, of the target's one


@dataclass(frozen=True)
class Regression:
    """Standardised observations of a convex function; the function itself at the test inputs."""

    inputs: Tensor  # (n, d), uniform on [-√3, √3]^d
    observations: Tensor  # (n,)
    test_inputs: Tensor
    test_values: Tensor


class Draw:
    """Random matrices of one target."""

    def __init__(self, d: int, seed: int) -> None:
        self.d, self.generator = d, torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def directions(self, count: int) -> Tensor:
        """Rows of length one on average, (count, d): a row times y has variance one."""
        return self.normal(count, self.d) / sqrt(self.d)

    def uniform(self, count: int) -> Tensor:
        return HALF_WIDTH * (2 * torch.rand(count, self.d, generator=self.generator) - 1)


Target = Callable[[Tensor], Tensor]


def quadratic(draw: Draw) -> Target:
    """½ |R y|², R square."""
    R = draw.directions(draw.d)
    return lambda y: (y @ R.mT).square().sum(-1) / 2


def log_sum_exp(draw: Draw) -> Target:
    """log Σ exp(3 aᵢᵀy + bᵢ) over 2d planes."""
    a, b = 3 * draw.directions(2 * draw.d), draw.normal(2 * draw.d)
    return lambda y: torch.logsumexp(y @ a.mT + b, -1)


def max_affine(draw: Draw) -> Target:
    """maxᵢ aᵢᵀy + bᵢ over 2d planes."""
    a, b = draw.directions(2 * draw.d), draw.normal(2 * draw.d) / 2
    return lambda y: (y @ a.mT + b).amax(-1)


def norm(draw: Draw, order: float) -> Target:
    """‖R y + r‖ of an order, R square."""
    R, r = draw.directions(draw.d), draw.normal(draw.d) / 2
    return lambda y: torch.linalg.vector_norm(y @ R.mT + r, order, -1)


def entropy(draw: Draw) -> Target:
    """Σ wⱼ (uⱼ log uⱼ + (1 − uⱼ) log(1 − uⱼ)), u the inputs moved to the unit box, w of mean one."""
    weight = torch.rand(draw.d, generator=draw.generator) * 2

    def value(y: Tensor) -> Tensor:
        u = (1 + y / HALF_WIDTH) / 2
        return (weight * (torch.xlogy(u, u) + torch.xlogy(1 - u, 1 - u))).sum(-1)

    return value


def logistic(draw: Draw) -> Target:
    """Σ log(1 + exp(3 aᵢᵀy + bᵢ)) over 2d planes."""
    a, b = 3 * draw.directions(2 * draw.d), draw.normal(2 * draw.d)
    return lambda y: F.softplus(y @ a.mT + b).sum(-1)


def distance(draw: Draw) -> Target:
    """The distance to a box with random half-widths."""
    width = torch.rand(draw.d, generator=draw.generator) * 1.5
    return lambda y: torch.linalg.vector_norm(F.relu(y.abs() - width), dim=-1)


TARGETS: Mapping[str, Callable[[Draw], Target]] = MappingProxyType(
    {
        "quadratic": quadratic,
        "log-sum-exp": log_sum_exp,
        "max-affine": max_affine,
        "1-norm": partial(norm, order=1),
        "2-norm": partial(norm, order=2),
        "∞-norm": partial(norm, order=torch.inf),
        "entropy": entropy,
        "logistic": logistic,
        "distance to a box": distance,
    }
)


def regression(target: str, d: int, seed: int, train: int, test: int) -> Regression:
    """The data of one problem; the target is standardised over the training inputs, then observed with noise."""
    draw = Draw(d, seed)
    f = TARGETS[target](draw)
    inputs, test_inputs = draw.uniform(train), draw.uniform(test)
    values = f(inputs)
    mean, sd = values.mean(), values.std()
    observations = (values - mean) / sd + NOISE * draw.normal(train)
    return Regression(inputs, observations, test_inputs, (f(test_inputs) - mean) / sd)
