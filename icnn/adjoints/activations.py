"""Activations whose derivative is known from their value, so that a sweep back needs the value and nothing else."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ActivationName = Literal["tanh", "sigmoid", "relu", "softplus"]


class Activation(NamedTuple):
    """σ, and σ′ as a function of s = σ(z); both elementwise and differentiable."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


ACTIVATIONS = MappingProxyType(
    {
        "tanh": Activation(torch.tanh, lambda s: 1 - s.square()),
        "sigmoid": Activation(torch.sigmoid, lambda s: s * (1 - s)),
        "relu": Activation(torch.relu, lambda s: (s > 0).to(s.dtype)),
        "softplus": Activation(torch.nn.functional.softplus, lambda s: -torch.expm1(-s)),
    }
)


def activation_named(name: str) -> Activation:
    """The activation of this name; raises ValueError, naming those there are."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(map(repr, ACTIVATIONS))}; got {name!r}")
    return ACTIVATIONS[name]
