"""Linear maps between shaped spaces: what a weight does, apart from who owns it and how it is constrained.

Every operator is immutable, knows the shapes of its weight and bias, and maps (*batch, *inputs) to
(*batch, *outputs) for any number of batch dimensions, also none; its transpose maps them back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
class Conv:
    """A two-dimensional convolution with zero padding such that size H becomes ceil(H / stride) ("SAME")."""

    inputs: Shape
    channels: int
    kernel: int
    stride: int = 1

    @property
    def outputs(self) -> Shape:
        return (self.channels, *(-(-size // self.stride) for size in self.inputs[1:]))

    @property
    def weight_shape(self) -> Shape:
        return (self.channels, self.inputs[0], self.kernel, self.kernel)

    @property
    def bias_shape(self) -> Shape:
        return (self.channels, 1, 1)

    @property
    def fan_in(self) -> int:
        return prod(self.weight_shape[1:])

    def __call__(self, weight: Float[Tensor, "o i k k"], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        batch = value.shape[:-3]
        padded = F.pad(value.reshape(-1, *self.inputs), self._padding())
        return F.conv2d(padded, weight, stride=self.stride).reshape(*batch, *self.outputs)

    def transpose(self, weight: Float[Tensor, "o i k k"], image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        batch, (left, right, top, bottom) = image.shape[:-3], self._padding()
        channels, height, width = self.inputs
        size, image = (top + height + bottom, left + width + right), image.reshape(-1, *self.outputs)
        if channels < FEW:
            columns = weight.flatten(1).mT @ image.flatten(-2)
            padded = F.fold(columns, size, self.kernel, stride=self.stride)
        else:
            padded = conv2d_input((len(image), channels, *size), weight, image, stride=self.stride)
        return F.pad(padded, (-left, -right, -top, -bottom)).reshape(*batch, *self.inputs)

    def _padding(self) -> list[int]:
        sizes = zip(reversed(self.outputs[1:]), reversed(self.inputs[1:]), strict=True)  # F.pad counts from the last
        totals = [max((out - 1) * self.stride + self.kernel - size, 0) for out, size in sizes]
        return [side for total in totals for side in (total // 2, total - total // 2)]


@dataclass(frozen=True)
class Subpixel:
    """To a picture that is `scale` times finer: a convolution whose channels become sub-pixels.

    The weight is that of a convolution with channels * scale² outputs; what sticks out beyond `outputs` is
    cut off.
    """

    inputs: Shape
    outputs: Shape
    scale: int = 1
    kernel: int = 3

    @property
    def coarse(self) -> Conv:
        return Conv(self.inputs, self.outputs[0] * self.scale**2, self.kernel)

    @property
    def weight_shape(self) -> Shape:
        return self.coarse.weight_shape

    @property
    def bias_shape(self) -> Shape:
        return (self.outputs[0], 1, 1)

    @property
    def fan_in(self) -> int:
        return self.coarse.fan_in

    def __call__(self, weight: Float[Tensor, "o i k k"], value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        fine = F.pixel_shuffle(self.coarse(weight, value), self.scale)
        return fine[..., : self.outputs[1], : self.outputs[2]]

    def transpose(self, weight: Float[Tensor, "o i k k"], image: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        height, width = (self.scale * size for size in self.inputs[1:])
        fine = F.pad(image, (0, width - self.outputs[2], 0, height - self.outputs[1]))
        return self.coarse.transpose(weight, F.pixel_unshuffle(fine, self.scale))


def chain(shape: Shape, convs: Sequence[Window], dense: Sequence[int]) -> list[Conv | Dense]:
    """The operators of consecutive layers that start from `shape`: convolutions first, then full matrices."""
    operators: list[Conv | Dense] = []
    for channels, kernel, stride in convs:
        operators.append(Conv(shape, channels, kernel, stride))
        shape = operators[-1].outputs
    for width in dense:
        operators.append(Dense(shape, (width,)))
        shape = (width,)
    return operators


def skips(shape: Shape, convs: Sequence[Window], dense: Sequence[int]) -> list[Conv | Dense]:
    """Operators from the input straight to each layer of the chain; each sees that layer's window."""
    operators: list[Conv | Dense] = []
    scale = 1
    for channels, kernel, stride in convs:
        operators.append(Conv(shape, channels, kernel * scale, stride * scale))
        scale *= stride
    return operators + [Dense(shape, (width,)) for width in dense]
