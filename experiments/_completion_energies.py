"""The energies of the completion experiment: of the unknown half of a picture, given the known one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

import icnn
from experiments._unet import Shape, UNetPICNN
from icnn.networks import Energy, Tangent


@dataclass(frozen=True)
class Plain:
    """icnn.ConvPICNN, by default the paper's network: convolutions, then full matrices."""

    convs: tuple[tuple[int, int, int], ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    """Channels, kernel, stride of each convolution."""
    dense: tuple[int, ...] = (512,)
    """Widths of the layers after the convolutions."""
    activation: str = "relu"
    """Of the convex path."""
    x_activation: str = "relu"
    """Of the path of the known half."""
    positivity: str = "project"
    """How the weights of the convex path are kept non-negative."""

    def build(self, shape: Shape, coupling: bool, convex: bool) -> icnn.ConvexNetwork:
        """The energy f(x, y) of two halves of this shape; without coupling it is linear in y.

        Not convex is an energy whose weights are free: one that is kept convex by projection, which is left out.
        """
        return icnn.ConvPICNN(
            shape,
            shape,
            self.convs,
            self.dense,
            activation=self.activation,
            x_activation=self.x_activation,
            positivity=self.positivity if convex else "project",
            coupling=coupling,
        )


@dataclass(frozen=True)
class Unet:
    """A PICNN whose path of the known half is a U-net."""

    channels: tuple[int, ...] = (8, 16, 32, 48, 64)
    """Features at stride 1, 2, 4, ..."""
    dense: int = 256
    """Width of the U-net where it is narrowest."""
    units: int = 32
    """Of each convex layer, per patch."""

    def build(self, shape: Shape, coupling: bool, convex: bool) -> icnn.ConvexNetwork:
        """As in Plain; convex or not, it is the projection that makes the difference."""
        return UNetPICNN(shape, self.channels, self.dense, self.units, coupling)


class CentredEnergy(icnn.ConvexNetwork):
    """f(x - mean x, y - mean y) - b . y, b free: as convex as f.

    b starts at the logit of mean y: with f = 0 the argmin under the entropy is mean y.
    """

    def __init__(self, network: icnn.ConvexNetwork, x_mean: Tensor, y_mean: Tensor) -> None:
        super().__init__(network.x_shape, network.y_shape, network.activation)
        self.network, self.layers = network, network.layers
        self.x_mean, self.y_mean = nn.Buffer(x_mean), nn.Buffer(y_mean)
        self.b = nn.Parameter(y_mean.logit(1e-3))

    def given(self, x: Tensor) -> Energy:
        energy = self.network.given(x - self.x_mean)
        assert isinstance(energy, Energy)
        return Centred(energy, self.y_mean, self.b)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.given(x)(y)


@dataclass(frozen=True, eq=False)
class Centred(Energy):
    """y -> energy(y - mean) - b . y"""

    energy: Energy
    mean: Tensor
    b: Tensor

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(y - self.mean) - (self.b * y).flatten(-3).sum(-1)

    def tangent(self, y: Tensor) -> Tangent:
        return self._with_linear(y, self.energy.tangent(y - self.mean), self.b.detach())

    def piece(self, y: Tensor, units: Sequence[Tensor]) -> Tangent:
        return self._with_linear(y, self.energy.piece(y - self.mean, units), self.b)

    def at(self, index: Tensor) -> "Centred":
        return replace(self, energy=self.energy.at(index))

    def _with_linear(self, y: Tensor, tangent: Tangent, b: Tensor) -> Tangent:
        return tangent._replace(value=tangent.value - (b * y).flatten(-3).sum(-1), slope=tangent.slope - b)
