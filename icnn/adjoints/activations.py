"""Activations whose derivatives are known from their value, so that a sweep back needs the value and nothing else."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ActivationName = Literal["tanh", "sigmoid", "relu", "softplus", "identity"]


class Activation(NamedTuple):
    """σ, and σ′ and σ″ as functions of s = σ(z); all elementwise and differentiable."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]


ACTIVATIONS = MappingProxyType(
    {
        "tanh": Activation(torch.tanh, lambda s: 1 - s.square(), lambda s: -2 * s * (1 - s.square())),
        "sigmoid": Activation(torch.sigmoid, lambda s: s * (1 - s), lambda s: s * (1 - s) * (1 - 2 * s)),
        "relu": Activation(torch.relu, lambda s: (s > 0).to(s.dtype), torch.zeros_like),
        "softplus": Activation(
            torch.nn.functional.softplus, lambda s: -torch.expm1(-s), lambda s: -torch.expm1(-s) * torch.exp(-s)
        ),
        "identity": Activation(lambda z: z, torch.ones_like, torch.zeros_like),
    }
)


def activation_named(name: str) -> Activation:
    """The activation of this name; raises ValueError, naming those there are."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(map(repr, ACTIVATIONS))}; got {name!r}")
    return ACTIVATIONS[name]
