"""A start that is measured on data: weights and biases such that every unit has mean 0 and standard deviation 1.

The start of every network is made for standard normal inputs. For others it is moved, in this order:

    columns   of all maps that take y or x itself are divided by d_j, the standard deviation of y_j, x_j over the batch
    rows      of P, S and the offset are multiplied by r_i > 0: v_i = (P z + S y + b)_i has standard deviation 1
    bias      is moved: v_i has mean 0

Factors are positive, so a weight keeps its sign, and they are multiplied into the weights: the network that is left is
an ordinary one. (Batch normalisation carries statistics along; layer normalisation divides by what depends on y, and
is not convex in y.)
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .ficnn import FICNN, ConvexLayer, ConvFICNN
from .initialisation import Affine
from .network import ConvexNetwork
from .picnn import PICNN, ConvPICNN, GatedLayer
from .pieces import LogSumExp, MaxAffine
from .positivity import Constrained, NonNegative
from .residual import ResidualICNN
from .terms import Signed

Network = TypeVar("Network", bound=nn.Module)
Part = NonNegative | Signed | Affine
KNOWN = (FICNN, ConvFICNN, PICNN, ConvPICNN, ResidualICNN, MaxAffine, LogSumExp)
ROUNDING = 10  # in eps of the size of the terms: what varies less is taken for constant
GATE = 0.5  # standard deviation of the gates, as at the start of a network


@torch.no_grad()
def normalise_(net: Network, *batch: Float[Tensor, "..."], output: tuple[float, float] = (0.0, 1.0)) -> Network:
    """Move the weights of a fresh network, in place, to a start that suits the data, whatever their scale and offset.

        mean v_i = 0,   sd v_i = 1    over the batch, for the pre-activations v = P z + S y + b of every layer

    for every unit: every channel (its pixels are part of the batch), every piece of a unit with several. The context
    layers of a PICNN likewise; its gates get mean 1 (those of y in the last layer 0, as at the start) and standard
    deviation 1/2, less where they multiply a y_j whose mean is large beside its variation, which would drown. What does
    not vary over the batch keeps its scale. f, the last layer, gets the mean and standard deviation asked for; with an
    output activation it is its argument that gets them, and a quadratic term, left alone, comes on top.

    The optimiser still meets the inputs as they are, and weights of the inverse of their size: steps that suit
    standardised inputs are too long for the weights of large ones.

    net: FICNN, ConvFICNN, PICNN, ConvPICNN, ResidualICNN, MaxAffine or LogSumExp. f becomes another function, and no
        other kind of function: weights keep their signs, and the state its keys.
    batch: what the network is called with, y of shape (m, *y_shape), or x and y, with m of two or more, better many.
    output: mean and standard deviation of f, for instance those of the targets; (0, 1) by default.
    Returns net.
    Raises TypeError for another module; ValueError for a batch without two inputs or with values that are not finite,
        for a standard deviation that is not positive, and for weights of the wrong sign: `project_` the network first.
    Source: in the line of Mishkin, Matas, All you need is a good init, ICLR 2016, and Salimans, Kingma, Weight
        normalization, NeurIPS 2016, section 3, with the signs kept.
    """
    if not isinstance(net, KNOWN):
        raise TypeError(f"net is a {type(net).__name__}, expected one of {', '.join(kind.__name__ for kind in KNOWN)}")
    x, y = _door(net, batch, output)
    layers = [layer for layer in net.layers if isinstance(layer, ConvexLayer | GatedLayer)]
    contexts: Sequence[Tensor | None] = [None] * len(layers)
    if x is not None and isinstance(net, PICNN | ConvPICNN):
        contexts = _contexts(net, layers, x)
    _divide_columns([layer.skip for layer in layers if layer.skip is not None], y, 1.0 if x is None else 0.5)
    step, z = net.step if isinstance(net, ResidualICNN) else None, None
    for layer, u in zip(layers, contexts, strict=True):
        last = layer is layers[-1]
        if isinstance(layer, GatedLayer) and u is not None:
            _settle_gates(layer, u, y, mean=0.0 if last else 1.0)
        v = _settle_layer(layer, u, z, y, output if last else (0.0, 1.0))
        if not last:
            image = net.activation(v)
            z = image if step is None or z is None else z + step * image
    return net


def _door(net: ConvexNetwork, batch: Sequence[Tensor], output: tuple[float, float]) -> tuple[Tensor | None, Tensor]:
    """x, of as many instances as y, and y; nothing is changed before all is known to be right."""
    net(*batch)
    *context, y = batch
    shapes = [net.y_shape] if net.x_shape is None else [net.x_shape, net.y_shape]
    for name, value, shape in zip(["x", "y"][-len(batch) :], batch, shapes, strict=True):
        if value.ndim > 1 + len(shape) or (value is y and (y.ndim == len(shape) or len(y) < 2)):
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected two or more inputs of shape {shape}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} is not finite everywhere, expected numbers")
    if not output[1] > 0:
        raise ValueError(f"output is {output}, expected a mean and a positive standard deviation")
    if not all(part.holds() for part in net.modules() if isinstance(part, Constrained)):
        raise ValueError("net has negative weights where none may be; call icnn.project_(net) before normalise_")
    return (context[0].expand(len(y), *shapes[0]) if context else None), y


def _contexts(net: PICNN | ConvPICNN, layers: Sequence[ConvexLayer | GatedLayer], x: Tensor) -> list[Tensor]:
    """Settle the context layers; u of each layer of the network."""
    affines = [part for part in net.context if isinstance(part, Affine)]
    on_x, first = affines[:1], layers[0]
    if len(layers) > len(affines) and isinstance(first, GatedLayer):
        on_x += [first.offset] + ([] if first.skip_gate is None else [first.skip_gate])
    _divide_columns(on_x, x, 1.0 if affines else 0.5)
    contexts = [x]
    for part in affines:
        contexts.append(net.x_activation(_settle_affine(part, contexts[-1], 0.0, 1.0)))
    return contexts[-len(layers) :]


def _settle_gates(layer: GatedLayer, u: Tensor, y: Tensor, mean: float) -> None:
    """Gates of mean 1 and standard deviation GATE; mean: of those of y, less spread where y_j lies far from zero."""
    if layer.path_gate is not None:
        _settle_affine(layer.path_gate, u, 1.0, GATE)
    if layer.skip_gate is not None:
        centre, spread = _moments_of_channels(y)
        sd = GATE * spread / torch.hypot(centre, spread)
        _settle_affine(layer.skip_gate, u, mean, sd.reshape(-1, *(1 for _ in y.shape[2:])))


def _settle_layer(
    layer: ConvexLayer | GatedLayer, u: Tensor | None, z: Tensor | None, y: Tensor, target: tuple[float, float]
) -> Tensor:
    """Rows and bias of a layer; then its v."""
    if isinstance(layer, ConvexLayer):
        bias = layer.bias if layer.bias is not None else getattr(layer.skip, "bias", None)
        return _settle(lambda: layer()(z, y), (layer.path, layer.skip), bias, *target)
    assert u is not None
    return _settle(lambda: layer(u)(z, y), (layer.path, layer.skip, layer.offset), layer.offset.bias, *target)


def _settle_affine(part: Affine, u: Tensor, mean: float, sd: float | Tensor) -> Tensor:
    return _settle(lambda: part(u), (part,), part.bias, mean, sd)


def _settle(
    image: Callable[[], Tensor], parts: Sequence[Part | None], bias: Tensor | None, mean: float, sd: float | Tensor
) -> Tensor:
    """Rows and bias such that image() has this mean and standard deviation for each entry of the bias; image() then."""
    assert bias is not None
    centre, spread, constant = _moments(image(), bias)
    factor = (sd / spread).masked_fill(constant, 1.0)
    for part in parts:
        if part is not None:
            _multiply_rows(part, factor)
    bias.copy_(factor * (bias - centre) + mean)
    return image()


def _moments(v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation for each entry of the bias, and whether v does not vary there."""
    dims = [0, *(dim for dim, size in enumerate(bias.shape, 1) if size == 1)]
    spread, centre = torch.std_mean(v, dims, keepdim=True)
    size = v.abs().amax(dims, keepdim=True) + bias.abs()
    return centre[0], spread[0], (spread <= ROUNDING * torch.finfo(v.dtype).eps * size)[0]


def _moments_of_channels(value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each entry of a vector, or channel of a picture; 1 for those that do not vary."""
    zero = value.new_zeros(value.shape[1], *(1 for _ in value.shape[2:]))
    centre, spread, constant = _moments(value, zero)
    return centre.flatten(), spread.masked_fill(constant, 1.0).flatten()


def _divide_columns(parts: Sequence[Part], value: Tensor, share: float) -> None:
    """Let maps of x or y start as if every entry, or channel, had standard deviation 1.

    share: the part of a unit variance that the first of them gives then. Its weights are measured too, so that a
    second call finds the columns as they should be.
    """
    columns = parts[0].weight.reshape(len(parts[0].weight), value.shape[1], -1)
    size = (columns.square().mean((0, 2)) * parts[0].operator.fan_in / share).sqrt()
    _, spread = _moments_of_channels(value)
    factor = spread * size.masked_fill(size == 0, 1.0)
    for part in parts:
        weight = part.weight
        columns = weight.reshape(len(weight), len(factor), -1) / factor[:, None]
        _write(part, columns.reshape(weight.shape))


def _multiply_rows(part: Part, factor: Tensor) -> None:
    weight = part.weight
    rows = factor.flatten().repeat_interleave(len(weight) // factor.numel())  # sub-pixels of one channel share it
    _write(part, weight * rows.reshape(-1, *(1 for _ in weight.shape[1:])))


def _write(part: Part, weight: Tensor) -> None:
    """Set a weight, through its positivity map where it has one."""
    if isinstance(part, Affine):
        part.weight.copy_(weight)
        return
    raw = part.positivity.raw(weight.abs(), part.scale)
    part.raw.copy_(raw if isinstance(part, NonNegative) else torch.where(part.sign == 0, weight, raw))
