"""Energies as functions of float64 vectors, whatever the shapes and the dtype of the network behind them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icnn.networks import Energy, Tangent


class FlatEnergy(ABC):
    """The energy of m instances: y (*extra, m, n) to (*extra, m), both float64; differentiable.

    dtype: in which it is computed.
    """

    dtype: torch.dtype

    @property
    def eps(self) -> float:
        """The precision of its values."""
        return torch.finfo(self.dtype).eps

    @abstractmethod
    def __call__(self, y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]: ...

    @abstractmethod
    def tangent(self, y: Float[Tensor, "m n"]) -> Tangent:
        """Value (m,) and slope (m, n), without a graph."""

    @abstractmethod
    def pieces(self, y: Float[Tensor, "k m n"], units: Sequence[Tensor]) -> Tangent:
        """The tangents at points where `tangent` found these units, differentiable in the weights and x."""

    @abstractmethod
    def at(self, index: Int[Tensor, "some"]) -> "FlatEnergy":
        """The energy of some of the instances."""


@dataclass(frozen=True, eq=False)
class Explicit(FlatEnergy):
    """An energy that knows its tangents; it has one batch dimension, or none and no x."""

    energy: Energy
    y_shape: torch.Size
    dtype: torch.dtype

    def __call__(self, y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        return self.energy(self._shaped(y)).double()

    def tangent(self, y: Float[Tensor, "m n"]) -> Tangent:
        return self._flat(self.energy.tangent(self._shaped(y)))

    def pieces(self, y: Float[Tensor, "k m n"], units: Sequence[Tensor]) -> Tangent:
        return self._flat(self.energy.piece(self._shaped(y), units))

    def at(self, index: Int[Tensor, "some"]) -> "Explicit":
        return replace(self, energy=self.energy.at(index))

    def _shaped(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, self.y_shape).to(self.dtype)

    def _flat(self, tangent: Tangent) -> Tangent:
        slope = tangent.slope.flatten(-len(self.y_shape))
        return Tangent(tangent.value.double(), slope.double(), tangent.units)


@dataclass(frozen=True, eq=False)
class Opaque(FlatEnergy):
    """A function y -> f(x, y) of which nothing is known: tangents by autograd, always in the shapes of the whole batch.

    At a kink of f another order of summation may choose another slope, so tangents are taken again, for their
    derivatives, as they were taken first: column by column, beside instances that do not count.
    """

    energy: Callable[[Tensor], Tensor]
    batch: torch.Size
    y_shape: torch.Size
    dtype: torch.dtype
    index: Tensor | None = None

    def __call__(self, y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        extra = y.shape[:-2]
        if self.index is not None:
            y = y.new_full((*extra, self.batch.numel(), y.shape[-1]), 0.5).index_copy(-2, self.index, y)
        value = self.energy(y.reshape(extra + self.batch + self.y_shape).to(self.dtype))
        value = value.double().reshape(*extra, self.batch.numel())
        return value if self.index is None else value.index_select(-1, self.index)

    def tangent(self, y: Float[Tensor, "m n"]) -> Tangent:
        value, slope = self._with_slope(y, create_graph=False)
        return Tangent(value.detach(), slope, ())

    def pieces(self, y: Float[Tensor, "k m n"], units: Sequence[Tensor]) -> Tangent:
        columns = [self._with_slope(points, create_graph=True) for points in y]
        value, slope = (torch.stack(parts) for parts in zip(*columns, strict=True))
        return Tangent(value, slope, ())

    def at(self, index: Int[Tensor, "some"]) -> "Opaque":
        return replace(self, index=index if self.index is None else self.index[index])

    def _with_slope(self, y: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            value = self(y)
            (slope,) = torch.autograd.grad(value.sum(), y, create_graph=create_graph)
        return value, slope


@dataclass(frozen=True, eq=False)
class Tilted(FlatEnergy):
    """y -> energy(y) + linear'y; linear (m, n)."""

    energy: FlatEnergy
    linear: Tensor

    @property
    def dtype(self) -> torch.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.energy.dtype

    def __call__(self, y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        return self.energy(y) + (self.linear * y).sum(-1)

    def tangent(self, y: Float[Tensor, "m n"]) -> Tangent:
        return self._with_linear(y, self.energy.tangent(y), self.linear.detach())

    def pieces(self, y: Float[Tensor, "k m n"], units: Sequence[Tensor]) -> Tangent:
        return self._with_linear(y, self.energy.pieces(y, units), self.linear)

    def at(self, index: Int[Tensor, "some"]) -> "Tilted":
        return Tilted(self.energy.at(index), self.linear[index])

    def _with_linear(self, y: Tensor, tangent: Tangent, linear: Tensor) -> Tangent:
        return tangent._replace(value=tangent.value + (linear * y).sum(-1), slope=tangent.slope + linear)


def flat_energy(energy: Callable[[Tensor], Tensor], batch: torch.Size, y_shape: torch.Size, like: Tensor) -> FlatEnergy:
    """The energy of a batch of this shape; like: a tensor with the dtype and device of the network."""
    if not isinstance(energy, Energy):
        return Opaque(energy, batch, y_shape, like.dtype)
    if len(batch) != 1:
        energy = energy.at(torch.arange(batch.numel(), device=like.device))
    return Explicit(energy, y_shape, like.dtype)
