"""Weights that must not be negative: maps that make them so, and the projection for the one that does not.

A parametrisation owns a raw parameter and shows `weight = map(raw)`; the optimiser moves raw. Nothing is
mutated in a forward pass. (torch.nn.utils.parametrize would refuse to pickle.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .operators import Linear, Operator

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Positivity:
    """From a raw weight to the weight in use, back for positive weights, and whether projection is needed.

    Both functions also take a scale: the standard deviation at which the weights start, so that a map which
    bends (softplus) bends where the weights are.
    """

    name: str
    forward: Callable[[Tensor, float], Tensor]
    inverse: Callable[[Tensor, float], Tensor]
    needs_projection: bool = False


def _same(raw: Tensor, scale: float) -> Tensor:
    return raw


def _abs(raw: Tensor, scale: float) -> Tensor:
    return raw.abs()


def _softplus(raw: Tensor, scale: float) -> Tensor:
    return scale * F.softplus(raw / scale)


def _softplus_inverse(weight: Tensor, scale: float) -> Tensor:
    return weight + scale * torch.log(-torch.expm1(-weight / scale))


POSITIVITY: Mapping[str, Positivity] = MappingProxyType(
    {
        "project": Positivity("project", _same, _same, needs_projection=True),
        "abs": Positivity("abs", _abs, _same),
        "softplus": Positivity("softplus", _softplus, _softplus_inverse),
    }
)


class NonNegative(nn.Module):
    """A linear map whose weight is meant to be non-negative: `weight = map(raw)`.

    operator: what the weight does (Dense, Conv). positivity: "project", "abs" or "softplus".
    start: the weight to begin with, positive, of shape operator.weight_shape; scale: its standard deviation.
    """

    def __init__(self, operator: Operator, positivity: str, start: Tensor, scale: float) -> None:
        super().__init__()
        self.operator, self.positivity, self.scale = operator, positivity_map(positivity), scale
        self.raw = nn.Parameter(self.positivity.inverse(start, scale))

    @property
    def weight(self) -> Float[Tensor, "..."]:
        return self.positivity.forward(self.raw, self.scale)

    @property
    def linear(self) -> Linear:
        return Linear(self.operator, self.weight)

    def forward(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.linear(value)

    @torch.no_grad()
    def project_(self) -> None:
        if self.positivity.needs_projection:
            self.raw.clamp_(min=0)

    @torch.no_grad()
    def holds(self) -> bool:
        """Whether every weight is non-negative now (NaN is not)."""
        return bool((self.weight >= 0).all())

    def extra_repr(self) -> str:
        return f"{self.operator}, positivity={self.positivity.name!r}"


def positivity_map(name: str) -> Positivity:
    """The map of that name. Raises ValueError for an unknown one."""
    if name not in POSITIVITY:
        raise ValueError(f"positivity {name!r} is unknown; known are {', '.join(POSITIVITY)}")
    return POSITIVITY[name]


def project_(module: Module) -> Module:
    """Set the negative entries of all weights that must be non-negative to zero, in place.

    Call it after each optimiser step of a network built with positivity="project" (Amos, Xu, Kolter 2017,
    section 5); networks built with other maps are left as they are. Returns the module.
    """
    for part in module.modules():
        if isinstance(part, NonNegative):
            part.project_()
    return module
