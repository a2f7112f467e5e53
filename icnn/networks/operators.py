"""Linear maps between shaped spaces: what a weight does, apart from who owns it and how it is constrained.

Every operator is immutable, knows the shapes of its weight and bias, and maps (*batch, *inputs) to
(*batch, *outputs) for any number of batch dimensions, also none; its transpose maps them back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.grad import conv2d_input

Shape = tuple[int, ...]
Window = tuple[int, int, int]  # channels, kernel, stride
FEW = (
    16  # channels, below which oneDNN transposes a convolution an order of magnitude slower than a product of matrices
)


@runtime_checkable
class Operator(Protocol):
    """A linear map with a weight; the bias is added by its owner."""

    @property
    def inputs(self) -> Shape: ...
    @property
    def outputs(self) -> Shape: ...
    @property
    def weight_shape(self) -> Shape: ...
    @property
    def bias_shape(self) -> Shape: ...
    @property
    def fan_in(self) -> int: ...
    def __call__(self, weight: Tensor, value: Tensor) -> Tensor: ...
    def transpose(self, weight: Tensor, image: Tensor) -> Tensor: ...


class Linear(NamedTuple):
    """An operator with a weight, and a bias that its transpose ignores."""

    operator: Operator
    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        image = self.operator(self.weight, value)
        return image if self.bias is None else image + self.bias

    def transpose(self, image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.operator.transpose(self.weight, image)


@dataclass(frozen=True)
class Dense:
    """A full matrix from the flattened input to the flattened output."""

    inputs: Shape
    outputs: Shape

    @property
    def weight_shape(self) -> Shape:
        return (prod(self.outputs), prod(self.inputs))

    @property
    def bias_shape(self) -> Shape:
        return self.outputs

    @property
    def fan_in(self) -> int:
        return prod(self.inputs)

    def __call__(self, weight: Float[Tensor, "m n"], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        flat = F.linear(value.flatten(-len(self.inputs)), weight)
        return flat if len(self.outputs) == 1 else flat.unflatten(-1, self.outputs)

    def transpose(self, weight: Float[Tensor, "m n"], image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        flat = image.flatten(-len(self.outputs)) @ weight
        return flat if len(self.inputs) == 1 else flat.unflatten(-1, self.inputs)


@dataclass(frozen=True)
class Diagonal:
    """A factor for each entry."""

    inputs: Shape

    @property
    def outputs(self) -> Shape:
        return self.inputs

    @property
    def weight_shape(self) -> Shape:
        return self.inputs

    @property
    def bias_shape(self) -> Shape:
        return self.inputs

    @property
    def fan_in(self) -> int:
        return 1

    def __call__(self, weight: Float[Tensor, "..."], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return weight * value

    def transpose(self, weight: Float[Tensor, "..."], image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return weight * image


@dataclass(frozen=True)
class Conv:
    """A convolution in one or two dimensions, zero padding such that size H becomes ceil(H / stride) ("SAME").

    A signal is computed as a picture of width one.
    """

    inputs: Shape
    channels: int
    kernel: int
    stride: int = 1

    @property
    def outputs(self) -> Shape:
        return (self.channels, *(-(-size // self.stride) for size in self.inputs[1:]))

    @property
    def weight_shape(self) -> Shape:
        return (self.channels, self.inputs[0], *(self.kernel for _ in self.inputs[1:]))

    @property
    def bias_shape(self) -> Shape:
        return (self.channels, *(1 for _ in self.inputs[1:]))

    @property
    def fan_in(self) -> int:
        return prod(self.weight_shape[1:])

    def __call__(self, weight: Float[Tensor, "o i ..."], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        batch = value.shape[: -len(self.inputs)]
        padded = F.pad(value.reshape(-1, *_picture(self.inputs)), self._padding())
        image = F.conv2d(padded, weight.reshape(_picture(weight.shape, 4)), stride=self.stride)
        return image.reshape(*batch, *self.outputs)

    def transpose(self, weight: Float[Tensor, "o i ..."], image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        batch, (left, right, top, bottom) = image.shape[: -len(self.outputs)], self._padding()
        channels, height, width = _picture(self.inputs)
        size, image = (top + height + bottom, left + width + right), image.reshape(-1, *_picture(self.outputs))
        weight = weight.reshape(_picture(weight.shape, 4))
        if channels < FEW:
            columns = weight.flatten(1).mT @ image.flatten(-2)
            padded = F.fold(columns, size, tuple(weight.shape[2:]), stride=self.stride)
        else:
            padded = conv2d_input((len(image), channels, *size), weight, image, stride=self.stride)
        return F.pad(padded, (-left, -right, -top, -bottom)).reshape(*batch, *self.inputs)

    def _padding(self) -> list[int]:
        """Left, right, top and bottom of the picture."""
        sizes = zip(self.outputs[1:], self.inputs[1:], strict=True)
        totals = [max((out - 1) * self.stride + self.kernel - size, 0) for out, size in sizes]
        totals += [0] * (2 - len(totals))
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]


def _picture(shape: Sequence[int], dims: int = 3) -> Shape:
    return (*shape, *(1 for _ in range(dims - len(shape))))


@dataclass(frozen=True)
class Subpixel:
    """To a picture or signal that is `scale` times finer: a convolution whose channels become sub-pixels.

    The weight is that of a convolution with channels * scale² outputs (* scale for a signal); what sticks out beyond
    `outputs` is cut off.
    """

    inputs: Shape
    outputs: Shape
    scale: int = 1
    kernel: int = 3

    @property
    def coarse(self) -> Conv:
        return Conv(self.inputs, self.outputs[0] * self.scale ** len(self.inputs[1:]), self.kernel)

    @property
    def weight_shape(self) -> Shape:
        return self.coarse.weight_shape

    @property
    def bias_shape(self) -> Shape:
        return (self.outputs[0], *(1 for _ in self.outputs[1:]))

    @property
    def fan_in(self) -> int:
        return self.coarse.fan_in

    def __call__(self, weight: Float[Tensor, "o i ..."], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        coarse = self.coarse(weight, value)
        if len(self.inputs) == 2:
            return coarse.unflatten(-2, (-1, self.scale)).mT.flatten(-2)[..., : self.outputs[1]]
        return F.pixel_shuffle(coarse, self.scale)[..., : self.outputs[1], : self.outputs[2]]

    def transpose(self, weight: Float[Tensor, "o i ..."], image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        beyond = [self.scale * size - out for size, out in zip(self.inputs[1:], self.outputs[1:], strict=True)]
        fine = F.pad(image, [side for more in reversed(beyond) for side in (0, more)])
        if len(self.inputs) == 2:
            return self.coarse.transpose(weight, fine.unflatten(-1, (-1, self.scale)).mT.flatten(-3, -2))
        return self.coarse.transpose(weight, F.pixel_unshuffle(fine, self.scale))


@dataclass(frozen=True)
class Grouped:
    """An operator whose channels are taken in groups of `pieces`, which become the last dimension."""

    operator: Dense | Conv
    pieces: int

    @property
    def inputs(self) -> Shape:
        return self.operator.inputs

    @property
    def outputs(self) -> Shape:
        channels, *space = self.operator.outputs
        return (channels // self.pieces, *space, self.pieces)

    @property
    def weight_shape(self) -> Shape:
        return self.operator.weight_shape

    @property
    def bias_shape(self) -> Shape:
        channels, *space = self.operator.bias_shape
        return (channels // self.pieces, *space, self.pieces)

    @property
    def fan_in(self) -> int:
        return self.operator.fan_in

    def __call__(self, weight: Float[Tensor, "o ..."], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        channel = -len(self.operator.outputs)
        return self.operator(weight, value).unflatten(channel, (-1, self.pieces)).movedim(channel, -1)

    def transpose(self, weight: Float[Tensor, "o ..."], image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        channel = -len(self.operator.outputs)
        return self.operator.transpose(weight, image.movedim(-1, channel).flatten(channel - 1, channel))


def grouped(operators: Sequence[Dense | Conv], pieces: int) -> Sequence[Operator]:
    """Operators of layers whose units, but for those of the last, have this many pieces each."""
    if pieces == 1:
        return list(operators)
    return [Grouped(_wider(operator, pieces), pieces) for operator in operators[:-1]] + [operators[-1]]


def _wider(operator: Dense | Conv, times: int) -> Dense | Conv:
    if isinstance(operator, Conv):
        return replace(operator, channels=operator.channels * times)
    return replace(operator, outputs=(prod(operator.outputs) * times,))


def chain(shape: Shape, convs: Sequence[Window], dense: Sequence[int]) -> list[Dense | Conv]:
    """The operators of consecutive layers that start from `shape`: convolutions first, then full matrices."""
    operators: list[Dense | Conv] = []
    for channels, kernel, stride in convs:
        operators.append(Conv(shape, channels, kernel, stride))
        shape = operators[-1].outputs
    for width in dense:
        operators.append(Dense(shape, (width,)))
        shape = (width,)
    return operators


def skips(shape: Shape, convs: Sequence[Window], dense: Sequence[int]) -> list[Dense | Conv]:
    """Operators from the input straight to each layer of the chain; each sees that layer's window."""
    operators: list[Dense | Conv] = []
    scale = 1
    for channels, kernel, stride in convs:
        operators.append(Conv(shape, channels, kernel * scale, stride * scale))
        scale *= stride
    return operators + [Dense(shape, (width,)) for width in dense]
