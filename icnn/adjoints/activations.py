"""Activations whose derivative is known from their value, so that a sweep back needs the value and nothing else."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ActivationName = Literal["tanh", "sigmoid", "relu", "softplus"]


class Activation(NamedTuple):
    """Elementwise σ, which may overwrite its argument, and (p, s) ↦ σ′(z) ∘ p with s = σ(z); both differentiable."""

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = MappingProxyType(
    {
        "tanh": Activation(torch.tanh_, torch.ops.aten.tanh_backward),
        "sigmoid": Activation(torch.sigmoid_, torch.ops.aten.sigmoid_backward),
        "relu": Activation(torch.relu_, lambda p, s: torch.ops.aten.threshold_backward(p, s, 0)),
        "softplus": Activation(torch.nn.functional.softplus, lambda p, s: -torch.expm1(-s) * p),
    }
)


def activation_named(name: str) -> Activation:
    """The activation of this name; raises ValueError, naming those there are."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(map(repr, ACTIVATIONS))}; got {name!r}")
    return ACTIVATIONS[name]
