"""What the layers of a network do to a batch: a table that shows collapse, explosion, dead units and dead weights."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .energy import LayeredEnergy
from .network import ConvexNetwork
from .positivity import Constrained
from .terms import Signed

DEAD = 1e-6  # of the scale of a weight: the largest size of a dead one
STUCK = 1e-2  # the largest slope of the map at a dead one; at a weight of the size of the scale it is about one


@dataclass(frozen=True)
class LayerReport:
    """One hidden layer over a batch.

    units: their number; dead: those with slope zero at every input; sd: standard deviation over the inputs, mean
    over the units; cosine: between the features of different inputs, mean; centred_cosine: the same for pairs of
    the features with their mean over the inputs taken off, in absolute value: 1 where all lie on one line.
    dead_weights: the share of dead ones among the weights of the layer that must keep a sign; None where none must. A
    weight is dead if it does nothing, its size at most 1e-6 of its scale (the standard deviation at which such weights
    start), and cannot leave: the slope of its positivity map is at most 1e-2 there ("square", "softplus" and "exp" near
    zero, "abs" at zero itself), or, under "project", it is where project_ puts it, at zero, or below.
    """

    units: int
    dead: int
    sd: float
    cosine: float
    centred_cosine: float
    dead_weights: float | None


@dataclass(frozen=True)
class Report:
    """The hidden layers of a network over a batch; mean and standard deviation of f.

    dead_weights: of the last layer, which is f, with those of its quadratic term.
    """

    layers: tuple[LayerReport, ...]
    mean: float
    sd: float
    dead_weights: float | None

    def __str__(self) -> str:
        rows = [f"{'layer':>5} {'units':>6} {'dead':>5} {'dead weights':>13} {'sd':>9} {'cosine':>7} {'centred':>8}"]
        for number, layer in enumerate(self.layers, 1):
            dead = f"{layer.units:6} {layer.dead:5} {_percent(layer.dead_weights):>13}"
            rows.append(f"{number:5} {dead} {layer.sd:9.3g} {layer.cosine:7.2f} {layer.centred_cosine:8.2f}")
        facts = f"dead weights {_percent(self.dead_weights)}, mean {self.mean:.3g}, sd {self.sd:.3g}"
        return "\n".join([*rows, f"    f: {facts}"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


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
    found = zip(energy.layers(y), list(net.layers)[:-1], strict=True)
    layers = tuple(_layer(z.flatten(1), slope.flatten(1), layer) for (z, slope), layer in found)
    rest = [part for part in (*list(net.layers)[-1:], net.quadratic) if part is not None]
    return Report(layers, float(value.mean()), float(value.std()), _dead_weights(rest))


def _layer(z: Tensor, slope: Tensor, layer: nn.Module) -> LayerReport:
    moving = (slope != 0).any(0).reshape(z.shape[1], -1).any(1)
    dead, cosines = int((~moving).sum()), (_cosine(z), _cosine(z - z.mean(0), absolute=True))
    return LayerReport(z.shape[1], dead, float(z.std(0).mean()), *cosines, _dead_weights([layer]))


def _dead_weights(modules: Iterable[nn.Module]) -> float | None:
    parts = [part for module in modules for part in module.modules() if isinstance(part, Constrained)]
    found = [_is_dead(part) for part in parts]
    return float(torch.cat(found).double().mean()) if found else None


def _is_dead(part: Constrained) -> Tensor:
    """For each weight that must keep a sign."""
    with torch.inference_mode(False), torch.enable_grad():
        raw = part.raw.detach().requires_grad_()
        size = part.positivity.forward(raw, part.scale)
        (slope,) = torch.autograd.grad(size.sum(), raw)
    stuck = (size <= 0) if part.positivity.needs_projection else slope.abs() <= STUCK
    dead = stuck & (size <= DEAD * part.scale)
    return dead[(part.sign != 0).expand_as(dead)] if isinstance(part, Signed) else dead.flatten()


def _cosine(features: Tensor, absolute: bool = False) -> float:
    unit, count = F.normalize(features, dim=-1), len(features)
    cosines = unit @ unit.mT
    total = (cosines.abs() if absolute else cosines).sum() - cosines.diagonal().sum()
    return float(total / (count * (count - 1)))
