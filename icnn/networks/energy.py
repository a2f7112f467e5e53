"""The energy y -> f(x, y) at one context: its value, its slope in y without autograd, and its linear pieces.

    v_1 = S_1 y + b_1,    z_i = g(v_i),    v_{i+1} = P_i z_i + S_{i+1} y + b_{i+1},    f = v_k

Backward, with cotangents v̄_k = 1, z̄_i = P_i' v̄_{i+1}, v̄_i = g'(v_i) ∘ z̄_i, the slope is Σ_i S_i' v̄_i. Where g is
piecewise linear, the slopes g'(v_i) of its units name the piece of f at y, on which both are affine.

Variations: a residual stack adds, z_{i+1} = z_i + h g(v_{i+1}); the output may have an activation η, f = η(v_k); a
quadratic term in y may be added to f.
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
    def transpose(self, v_bar: Tensor) -> tuple[Tensor | None, Tensor | None]: ...
    def at(self, index: Tensor, dims: int) -> "Step": ...


class ConvexStep(NamedTuple):
    """v = P z + S y + b; b belongs to S, or to P where there is no S."""

    path: Linear | None
    skip: Linear | None

    def __call__(self, z: Float[Tensor, "..."] | None, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        images = [] if self.path is None or z is None else [self.path(z)]
        images += [] if self.skip is None else [self.skip(y)]
        return images[0] if len(images) == 1 else images[0] + images[1]

    def transpose(self, v_bar: Float[Tensor, "..."]) -> tuple[Tensor | None, Tensor | None]:
        """Cotangents of z and y."""
        path, skip = (None if part is None else part.transpose(v_bar) for part in (self.path, self.skip))
        return path, skip

    def at(self, index: Tensor, dims: int) -> "ConvexStep":
        return self


class Gates(NamedTuple):
    """What the context x decides about a layer, each with its batch dimensions."""

    path: Tensor | None
    skip: Tensor | None
    offset: Tensor

    def at(self, index: Tensor, dims: int) -> "Gates":
        def some(gate: Tensor) -> Tensor:
            return gate.reshape(-1, *gate.shape[dims:]).index_select(0, index)

        path, skip = (None if gate is None else some(gate) for gate in (self.path, self.skip))
        return Gates(path, skip, some(self.offset))


class GatedStep(NamedTuple):
    """v = P (z ∘ a) + S (y ∘ c) + b, a, c and b decided by x."""

    linear: ConvexStep
    gates: Gates

    def __call__(self, z: Float[Tensor, "..."] | None, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        gated = None if z is None or self.gates.path is None else z * self.gates.path
        return self.linear(gated, y if self.gates.skip is None else y * self.gates.skip) + self.gates.offset

    def transpose(self, v_bar: Float[Tensor, "..."]) -> tuple[Tensor | None, Tensor | None]:
        """Cotangents of z and y."""
        pairs = zip(self.linear.transpose(v_bar), self.gates[:2], strict=True)
        z_bar, y_bar = (None if bar is None or gate is None else bar * gate for bar, gate in pairs)
        return z_bar, y_bar

    def at(self, index: Tensor, dims: int) -> "GatedStep":
        """The step at some instances of a flattened batch that has this many dimensions."""
        return self._replace(gates=self.gates.at(index, dims))


class Curvature(NamedTuple):
    """½ |L y|² + ½ Σ d y²; L (*y_shape) to (rank,), d of shape y_shape or less, not negative."""

    factor: Linear | None
    diagonal: Tensor

    def __call__(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        value = (self.diagonal * y.square()).flatten(-self.diagonal.ndim).sum(-1)
        if self.factor is not None:
            value = value + self.factor(y).square().sum(-1)
        return value / 2

    def slope(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        slope = self.diagonal * y
        return slope if self.factor is None else slope + self.factor.transpose(self.factor(y))


@dataclass(frozen=True, eq=False)
class LayeredEnergy(Energy):
    """The energy of a stack of steps. batch: of x, None without x; check: the door, called with y and batch.

    residual: h, None where a layer replaces the one before. output: η. curvature: the quadratic term.
    """

    steps: tuple[Step, ...]
    activation: Activation
    batch: torch.Size | None
    check: Callable[[Tensor, torch.Size | None], None]
    residual: float | None = None
    output: Activation | None = None
    curvature: Curvature | None = None

    def __call__(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        self.check(y, self.batch)
        z = None
        for step in self.steps[:-1]:
            z = self._join(z, self.activation(step(z, y)))
        value = self.steps[-1](z, y)
        value = (value if self.output is None else self.output(value)).squeeze(-1)
        return value if self.curvature is None else value + self.curvature(y)

    @torch.no_grad()
    def tangent(self, y: Float[Tensor, "..."]) -> Tangent:
        return self.sweep(y, lambda _, activation, v: (activation(v), activation.slope(v)))

    def piece(self, y: Float[Tensor, "..."], units: Sequence[Tensor]) -> Tangent:
        def affine(number: int, activation: Activation, v: Tensor) -> tuple[Tensor, Tensor]:
            return activation(v).detach() + activation.push(units[number], v - v.detach()), units[number]

        return self.sweep(y, affine)

    def at(self, index: Int[Tensor, "m"]) -> "LayeredEnergy":
        if self.batch is None:
            return self
        steps = tuple(step.at(index, len(self.batch)) for step in self.steps)
        return replace(self, steps=steps, batch=index.shape)

    @torch.no_grad()
    def layers(self, y: Float[Tensor, "..."]) -> list[tuple[Tensor, Tensor]]:
        """Features z and slopes of the units of each hidden layer."""
        self.check(y, self.batch)
        found: list[tuple[Tensor, Tensor]] = []
        for step in self.steps[:-1]:
            z = found[-1][0] if found else None
            v = step(z, y)
            found.append((self._join(z, self.activation(v)), self.activation.slope(v)))
        return found

    def _join(self, z: Tensor | None, image: Tensor) -> Tensor:
        return image if self.residual is None or z is None else z + self.residual * image

    def sweep(self, y: Tensor, activate: Callable[[int, Activation, Tensor], tuple[Tensor, Tensor]]) -> Tangent:
        """Forward to the value, backward to the slope; activate: number and g of a layer and v to (g(v), g'(v))."""
        self.check(y, self.batch)
        z, units = None, []
        for number, step in enumerate(self.steps[:-1]):
            image, unit = activate(number, self.activation, step(z, y))
            z = self._join(z, image)
            units.append(unit)
        value = self.steps[-1](z, y)
        if self.output is not None:
            value, unit = activate(len(units), self.output, value)
            units.append(unit)
        slope = self._backward(torch.ones_like(value), units)
        if self.curvature is not None:
            return Tangent(value.squeeze(-1) + self.curvature(y), slope + self.curvature.slope(y), tuple(units))
        return Tangent(value.squeeze(-1), slope, tuple(units))

    def _backward(self, v_bar: Tensor, units: Sequence[Tensor]) -> Tensor:
        if self.output is not None:
            v_bar = self.output.pull(units[-1], v_bar)
        z_bar, slope = self.steps[-1].transpose(v_bar)
        for step, unit in zip(reversed(self.steps[:-1]), reversed(units[: len(self.steps) - 1]), strict=True):
            assert z_bar is not None
            back, y_bar = step.transpose(self.activation.pull(unit, z_bar))
            z_bar = None if back is None else self._join(z_bar, back)
            slope = y_bar if slope is None else slope if y_bar is None else slope + y_bar
        assert slope is not None
        return slope
