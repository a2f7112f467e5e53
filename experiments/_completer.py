"""The model of the completion experiment: the unknown half is the argmin of a convex energy."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

import icnn
from experiments._pictures import halves
from experiments._unet import Shape, UNetPICNN
from icnn.networks import Energy, Tangent

log = logging.getLogger(__name__)


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

    def build(self, shape: Shape, coupling: bool) -> icnn.ConvexNetwork:
        """The energy f(x, y) of two halves of this shape; without coupling it is linear in y."""
        return icnn.ConvPICNN(
            shape,
            shape,
            self.convs,
            self.dense,
            activation=self.activation,
            x_activation=self.x_activation,
            positivity=self.positivity,
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

    def build(self, shape: Shape, coupling: bool) -> icnn.ConvexNetwork:
        """The energy f(x, y) of two halves of this shape; without coupling it is linear in y."""
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


class Completer(nn.Module):
    """Left halves from mirrored right halves: the argmin of the energy under the entropy."""

    def __init__(self, net: Plain | Unet, images: Tensor, iterations: int, coupling: bool) -> None:
        super().__init__()
        x_mean, y_mean = (half.mean(0) for half in halves(images))
        self.energy = CentredEnergy(net.build(y_mean.shape, coupling), x_mean, y_mean)
        self.iterations = iterations

    def forward(
        self, x: Float[Tensor, "n 1 height half"], callback: Callable[[int, Tensor], None] | None = None
    ) -> Float[Tensor, "n 1 height half"]:
        """Inference starts at the mean left half. callback: as in icnn.argmin.

        A picture whose inference fails keeps its last point, without gradient: it must not end a long run.
        """
        solution = icnn.argmin(
            self.energy,
            x,
            regularizer="entropy",
            start=self.energy.y_mean,
            max_iter=self.iterations,
            gradient="implicit" if torch.is_grad_enabled() else "none",
            on_failure="zero",
            callback=callback,
        )
        if (solution.status > icnn.Status.MAX_ITERATIONS).any():
            log.warning("some inferences failed: %s", solution)
        return solution.y


def squared_errors(
    completed: Float[Tensor, "*runs n 1 height half"], images: Float[Tensor, "n 1 height width"]
) -> Float[Tensor, "*runs n"]:
    """Mean squared error of each completed picture, on the scale 0..255 of its pixels."""
    return (255 * (completed - halves(images)[1])).square().flatten(-3).mean(-1)


def completion_loss(model: nn.Module, images: Float[Tensor, "n 1 height width"]) -> Float[Tensor, ""]:
    """Mean squared error of the completed halves."""
    return squared_errors(model(halves(images)[0]), images).mean()


@torch.no_grad()
def completions(
    model: nn.Module, images: Float[Tensor, "n 1 height width"], iterations: int, chunk: int = 100
) -> Float[Tensor, "iterations n 1 height half"]:
    """The minimiser after each bundle iteration, on the CPU.

    Where inference ends early, its last minimiser stands for the rest.
    """
    device = next(model.parameters()).device

    def complete(part: Tensor) -> Tensor:
        seen: list[Tensor] = []
        last = model(halves(part)[0].to(device), callback=lambda iteration, y: seen.append(y.clone()))
        seen = seen[: iterations - 1]
        return torch.stack(seen + [last] * (iterations - len(seen))).cpu()

    return torch.cat([complete(part) for part in images.split(chunk)], dim=1)


def final_error(model: nn.Module, images: Float[Tensor, "n 1 height width"]) -> float:
    """Mean squared error of the pictures that inference ends with."""
    return squared_errors(completions(model, images, 1)[-1], images).mean().item()
