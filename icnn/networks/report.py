"""What the layers of a network do to a batch: a table that shows collapse, explosion and dead units."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .energy import LayeredEnergy
from .network import ConvexNetwork


@dataclass(frozen=True)
class LayerReport:
    """One hidden layer over a batch.

    units: their number; dead: those with slope zero at every input; sd: standard deviation over the inputs, mean
    over the units; cosine: between the features of different inputs, mean; centred_cosine: the same for pairs of
    the features with their mean over the inputs taken off, in absolute value: 1 where all lie on one line.
    """

    units: int
    dead: int
    sd: float
    cosine: float
    centred_cosine: float


@dataclass(frozen=True)
class Report:
    """The hidden layers of a network over a batch, and mean and standard deviation of f."""

    layers: tuple[LayerReport, ...]
    mean: float
    sd: float

    def __str__(self) -> str:
        rows = [f"{'layer':>5} {'units':>6} {'dead':>5} {'sd':>9} {'cosine':>7} {'centred':>8}"]
        for number, layer in enumerate(self.layers, 1):
            facts = f"{layer.sd:9.3g} {layer.cosine:7.2f} {layer.centred_cosine:8.2f}"
            rows.append(f"{number:5} {layer.units:6} {layer.dead:5} {facts}")
        return "\n".join([*rows, f"    f: mean {self.mean:.3g}, sd {self.sd:.3g}"])


@torch.no_grad()
def report(net: ConvexNetwork, *batch: Float[Tensor, "..."]) -> Report:
    """Describe what a network does to a batch, layer by layer; print it to read it.

    batch: what the network is called with, y of shape (m, *y_shape), or x and y, with m of two or more.
    Raises TypeError for a network whose energy has no layers to look at; ValueError for a batch without two inputs.
    """
    *context, y = batch
    energy = net.given(*context)
    if not isinstance(energy, LayeredEnergy):
        raise TypeError(f"{type(net).__name__} has an energy of its own, expected one of layers")
    if y.ndim != 1 + len(net.y_shape) or len(y) < 2:
        raise ValueError(f"y has shape {tuple(y.shape)}, expected two or more inputs of shape {net.y_shape}")
    value = energy(y)
    layers = tuple(_layer(z.flatten(1), slope.flatten(1)) for z, slope in energy.layers(y))
    return Report(layers, float(value.mean()), float(value.std()))


def _layer(z: Tensor, slope: Tensor) -> LayerReport:
    moving = (slope != 0).any(0).reshape(z.shape[1], -1).any(1)
    dead = int((~moving).sum())
    return LayerReport(z.shape[1], dead, float(z.std(0).mean()), _cosine(z), _cosine(z - z.mean(0), absolute=True))


def _cosine(features: Tensor, absolute: bool = False) -> float:
    unit, count = F.normalize(features, dim=-1), len(features)
    cosines = unit @ unit.mT
    total = (cosines.abs() if absolute else cosines).sum() - cosines.diagonal().sum()
    return float(total / (count * (count - 1)))
