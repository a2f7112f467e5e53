"""Activations whose derivatives are known from their value, so that a sweep back needs the value and nothing else."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ActivationName = Literal["tanh", "sigmoid", "relu", "softplus", "identity"]


class Activation(NamedTuple):
    """Elementwise σ, which may overwrite its argument, and what its derivatives are to s = σ(z); all differentiable.

    pull: (p, s) to σ′(z) ∘ p. bend: s to σ″(z).
    """

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]

    def slope(self, s: Tensor) -> Tensor:
        """σ′(z)."""
        return self.pull(torch.ones_like(s), s)


def _softplus(z: Tensor) -> Tensor:
    return torch.nn.functional.softplus(z, threshold=40.0)  # at its default of 20 torch steps down by 2e-9 to z


ACTIVATIONS = MappingProxyType(
    {
        "tanh": Activation(torch.tanh_, torch.ops.aten.tanh_backward, lambda s: -2 * s * (1 - s.square())),
        "sigmoid": Activation(torch.sigmoid_, torch.ops.aten.sigmoid_backward, lambda s: s * (1 - s) * (1 - 2 * s)),
        "relu": Activation(torch.relu_, lambda p, s: torch.ops.aten.threshold_backward(p, s, 0), torch.zeros_like),
        "softplus": Activation(
            _softplus, lambda p, s: -torch.expm1(-s) * p, lambda s: -torch.expm1(-s) * torch.exp(-s)
        ),
        "identity": Activation(lambda z: z, lambda p, s: p, torch.zeros_like),
    }
)


def activation_named(name: str) -> Activation:
    """The activation of this name; raises ValueError, naming those there are."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(map(repr, ACTIVATIONS))}; got {name!r}")
    return ACTIVATIONS[name]
