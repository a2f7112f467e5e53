"""Weights that must not be negative: maps that make them so, and the projection for the one that does not.

A parametrisation owns a raw parameter and shows `weight = map(raw)`; the optimiser moves raw. Nothing is
mutated in a forward pass. (torch.nn.utils.parametrize would refuse to pickle.)
"""

import copy
from abc import ABC, abstractmethod
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
ALMOST_ZERO = 1e-18  # of the scale: what takes the place of a zero weight under a map that has none
IDENTITY = 40.0  # beyond it softplus is taken as the identity: e^-40 is below the rounding of float64


@dataclass(frozen=True)
class Positivity:
    """From a raw weight to the weight in use, back for positive weights, and whether projection is needed.

    Both functions also take a scale, the standard deviation at which the weights start: a raw weight of that size
    stands for a weight of that size, and there the slope of every map is about one, so that one step of an
    optimiser means the same to all of them. reaches_zero: whether a weight can be zero.
    """

    name: str
    forward: Callable[[Tensor, float], Tensor]
    inverse: Callable[[Tensor, float], Tensor]
    needs_projection: bool = False
    reaches_zero: bool = True

    def raw(self, weight: Tensor, scale: float) -> Tensor:
        """The raw weight of a weight that is not negative."""
        return self.inverse(weight if self.reaches_zero else weight.clamp(min=ALMOST_ZERO * scale), scale)


def _same(raw: Tensor, scale: float) -> Tensor:
    return raw


def _abs(raw: Tensor, scale: float) -> Tensor:
    return raw.abs()


def _square(raw: Tensor, scale: float) -> Tensor:
    return raw.square() / scale


def _square_inverse(weight: Tensor, scale: float) -> Tensor:
    return (weight * scale).sqrt()


def _softplus(raw: Tensor, scale: float) -> Tensor:
    return scale * F.softplus(raw / scale, threshold=IDENTITY)


def _softplus_inverse(weight: Tensor, scale: float) -> Tensor:
    return weight + scale * torch.log(-torch.expm1(-weight / scale))


def _exp(raw: Tensor, scale: float) -> Tensor:
    return scale * torch.exp(raw / scale)


def _exp_inverse(weight: Tensor, scale: float) -> Tensor:
    return scale * torch.log(weight / scale)


_ALL = (
    Positivity("project", _same, _same, needs_projection=True),
    Positivity("abs", _abs, _same),
    Positivity("square", _square, _square_inverse),
    Positivity("softplus", _softplus, _softplus_inverse, reaches_zero=False),
    Positivity("exp", _exp, _exp_inverse, reaches_zero=False),
)

POSITIVITY: Mapping[str, Positivity] = MappingProxyType({positivity.name: positivity for positivity in _ALL})


class Constrained(nn.Module, ABC):
    """A linear map some of whose weights have a sign that they must keep: `weight = signed map(raw)`."""

    operator: Operator
    positivity: Positivity
    scale: float
    raw: nn.Parameter

    @property
    @abstractmethod
    def weight(self) -> Float[Tensor, "..."]: ...

    @abstractmethod
    def project_(self) -> None:
        """Set weights of the wrong sign to zero, where the map itself does not see to it."""

    @abstractmethod
    def holds(self) -> bool:
        """Whether every weight has its sign now (NaN has none)."""

    @abstractmethod
    def reparametrise_(self, positivity: str) -> None:
        """Change the map and keep the weights."""

    def extra_repr(self) -> str:
        return f"{self.operator}, positivity={self.positivity.name!r}"


class NonNegative(Constrained):
    """A linear map whose weight is meant to be non-negative: `weight = map(raw)`.

    operator: what the weight does (Dense, Conv). positivity: a name in POSITIVITY.
    start: the weight to begin with, positive, of shape operator.weight_shape; scale: its standard deviation.
    """

    def __init__(self, operator: Operator, positivity: str, start: Tensor, scale: float) -> None:
        super().__init__()
        self.operator, self.positivity, self.scale = operator, positivity_map(positivity), scale
        self.raw = nn.Parameter(self.positivity.raw(start, scale))

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
        return bool((self.weight >= 0).all())

    @torch.no_grad()
    def reparametrise_(self, positivity: str) -> None:
        weight, self.positivity = self.weight, positivity_map(positivity)
        self.raw.copy_(self.positivity.raw(weight, self.scale))


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
        if isinstance(part, Constrained):
            part.project_()
    return module


def convert(net: Module, to: str) -> Module:
    """A copy of a network that keeps its weights non-negative by another map, and is the same function to rounding.

    to: a name in POSITIVITY. Weights of zero become 1e-18 of their scale under "softplus" and "exp", which reach no
        zero; there, and under "square" at zero, the slope of the map vanishes and the optimiser does not move them.
    Raises ValueError for an unknown map, and for a network with weights of the wrong sign: `project_` it first.
    """
    positivity_map(to)
    other = copy.deepcopy(net)
    for part in other.modules():
        if isinstance(part, Constrained):
            if not part.holds():
                raise ValueError("net has negative weights where none may be; call icnn.project_(net) before convert")
            part.reparametrise_(to)
    return other
