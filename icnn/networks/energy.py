"""The energy y -> f(x, y) at one context: its value, its slope in y without autograd, and its linear pieces.

    v_1 = S_1 y + b_1,    z_i = g(v_i),    v_{i+1} = P_i z_i + S_{i+1} y + b_{i+1},    f = v_k

Backward, with cotangents v̄_k = 1, z̄_i = P_i' v̄_{i+1}, v̄_i = g'(v_i) ∘ z̄_i, the slope is Σ_i S_i' v̄_i. Where g is
piecewise linear, the slopes g'(v_i) of its units name the piece of f at y, on which both are affine.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .activations import Activation
from .operators import Linear


class Tangent(NamedTuple):
    """f at y, (*batch,), its slope, (*batch, *y_shape), and the slopes of its units, (*batch, *z_shape) each."""

    value: Tensor
    slope: Tensor
    units: tuple[Tensor, ...]


class Energy(ABC):
    """y -> f(x, y), differentiable; y (*extra, *batch, *y_shape) with the batch dimensions of x to (*extra, *batch)."""

    @abstractmethod
    def __call__(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]: ...

    @abstractmethod
    def tangent(self, y: Float[Tensor, "..."]) -> Tangent:
        """Value and slope in one pass, without a graph; at a kink the slope that autograd takes."""

    @abstractmethod
    def piece(self, y: Float[Tensor, "..."], units: Sequence[Tensor]) -> Tangent:
        """The tangent with the slopes of the units held fixed, differentiable in the weights and x, not in y.

        For piecewise linear f; y may lie off the piece by rounding.
        """

    @abstractmethod
    def at(self, index: Tensor) -> "Energy":
        """The energy of some instances of the flattened batch, as a batch of one dimension."""


@runtime_checkable
class Step(Protocol):
    """One layer at one context: (z, y) to the next z before its activation; z is None in the first layer."""

    def __call__(self, z: Tensor | None, y: Tensor) -> Tensor: ...
    def transpose(self, v_bar: Tensor) -> tuple[Tensor | None, Tensor]: ...
    def at(self, index: Tensor, dims: int) -> "Step": ...


class ConvexStep(NamedTuple):
    """v = P z + S y + b; b belongs to S."""

    path: Linear | None
    skip: Linear

    def __call__(self, z: Float[Tensor, "..."] | None, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        v = self.skip(y)
        return v if self.path is None or z is None else self.path(z) + v

    def transpose(self, v_bar: Float[Tensor, "..."]) -> tuple[Tensor | None, Tensor]:
        """Cotangents of z and y."""
        return None if self.path is None else self.path.transpose(v_bar), self.skip.transpose(v_bar)

    def at(self, index: Tensor, dims: int) -> "ConvexStep":
        return self


class Gates(NamedTuple):
    """What the context x decides about a layer, each with its batch dimensions."""

    path: Tensor | None
    skip: Tensor
    offset: Tensor

    def at(self, index: Tensor, dims: int) -> "Gates":
        def some(gate: Tensor) -> Tensor:
            return gate.reshape(-1, *gate.shape[dims:]).index_select(0, index)

        return Gates(None if self.path is None else some(self.path), some(self.skip), some(self.offset))


class GatedStep(NamedTuple):
    """v = P (z ∘ a) + S (y ∘ c) + b, a, c and b decided by x."""

    linear: ConvexStep
    gates: Gates

    def __call__(self, z: Float[Tensor, "..."] | None, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        gated = None if z is None or self.gates.path is None else z * self.gates.path
        return self.linear(gated, y * self.gates.skip) + self.gates.offset

    def transpose(self, v_bar: Float[Tensor, "..."]) -> tuple[Tensor | None, Tensor]:
        """Cotangents of z and y."""
        z_bar, y_bar = self.linear.transpose(v_bar)
        gate = self.gates.path
        return None if z_bar is None or gate is None else z_bar * gate, y_bar * self.gates.skip

    def at(self, index: Tensor, dims: int) -> "GatedStep":
        """The step at some instances of a flattened batch that has this many dimensions."""
        return self._replace(gates=self.gates.at(index, dims))


@dataclass(frozen=True, eq=False)
class LayeredEnergy(Energy):
    """The energy of a stack of steps. batch: of x, None without x; check: the door, called with y and batch."""

    steps: tuple[Step, ...]
    activation: Activation
    batch: torch.Size | None
    check: Callable[[Tensor, torch.Size | None], None]

    def __call__(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        self.check(y, self.batch)
        z = None
        for step in self.steps[:-1]:
            z = self.activation(step(z, y))
        return self.steps[-1](z, y).squeeze(-1)

    @torch.no_grad()
    def tangent(self, y: Float[Tensor, "..."]) -> Tangent:
        return self._sweep(y, lambda number, v: (self.activation(v), self.activation.slope(v)))

    def piece(self, y: Float[Tensor, "..."], units: Sequence[Tensor]) -> Tangent:
        def affine(number: int, v: Tensor) -> tuple[Tensor, Tensor]:
            return self.activation(v).detach() + units[number] * (v - v.detach()), units[number]

        return self._sweep(y, affine)

    def at(self, index: Int[Tensor, "m"]) -> "LayeredEnergy":
        if self.batch is None:
            return self
        steps = tuple(step.at(index, len(self.batch)) for step in self.steps)
        return replace(self, steps=steps, batch=index.shape)

    def _sweep(self, y: Tensor, activate: Callable[[int, Tensor], tuple[Tensor, Tensor]]) -> Tangent:
        """Forward to the value, backward to the slope; activate: the number of a layer and v to (g(v), g'(v))."""
        self.check(y, self.batch)
        z, units = None, []
        for number, step in enumerate(self.steps[:-1]):
            z, unit = activate(number, step(z, y))
            units.append(unit)
        value = self.steps[-1](z, y)
        z_bar, slope = self.steps[-1].transpose(torch.ones_like(value))
        for step, unit in zip(reversed(self.steps[:-1]), reversed(units), strict=True):
            z_bar, y_bar = step.transpose(unit * z_bar)
            slope = slope + y_bar
        return Tangent(value.squeeze(-1), slope, tuple(units))
