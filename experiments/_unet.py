"""A PICNN for pictures: a U-net reads the known picture x, a convex path of patches the unknown picture y.

With the features u_s of the U-net at stride s (u_1 at full resolution) and patches of side 4 and 8,

    z_1 = relu(W_1^y (y ∘ gate(u_1)) + W_1^u u_4)
    z_2 = relu(W_2^z (z_1 ∘ [gate(u_4)]₊) + W_2^y (y ∘ gate(u_1)) + W_2^u u_8)
    f(x, y) = w . (z_2 ∘ [gate(u_8)]₊) - a(u_1) . y,        W_2^z ≥ 0, w ≥ 0.

Gates are affine maps of the features, pixel by pixel; W^u and a see 3 x 3 of them.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn.networks import (
    ACTIVATIONS,
    Affine,
    Conv,
    ConvexNetwork,
    ConvexStep,
    Dense,
    Energy,
    GatedStep,
    Gates,
    NonNegative,
)
from icnn.networks import Linear as Map

Shape = tuple[int, ...]  # channels, height, width
Features = Sequence[Tensor]  # of strides 1, 2, 4, ...

CONTRAST = 2.0  # brings centred pixels to about half a unit of spread


class UNet(nn.Module):
    """Features of pictures (n, *shape): a list of (n, channels[i], height / 2^i, width / 2^i).

    dense: width where it is narrowest; None for two convolutions in place of full matrices.
    """

    def __init__(self, shape: Shape, channels: Sequence[int], dense: int | None) -> None:
        super().__init__()
        if any(size % 2 ** (len(channels) - 1) for size in shape[1:]):
            raise ValueError(f"pictures of shape {shape} cannot be halved {len(channels) - 1} times")
        self.shapes = [(count, shape[1] >> i, shape[2] >> i) for i, count in enumerate(channels)]
        kernels = [5] + [3] * (len(channels) - 2)
        self.encoder = nn.ModuleList(
            nn.Conv2d(fine, coarse, kernel, stride=2, padding=kernel // 2)
            for (fine, coarse), kernel in zip(pairwise((shape[0], *channels[1:])), kernels, strict=True)
        )
        self.bottleneck = _convolutions(channels[-1]) if dense is None else _matrices(prod(self.shapes[-1]), dense)
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(2 * coarse, fine, 4, stride=2, padding=1)
            for coarse, fine in pairwise(reversed(channels))
        )

    def forward(self, x: Tensor) -> Features:
        encoded = [x]
        for layer in self.encoder:
            encoded.append(F.relu(layer(encoded[-1])))
        features = [self.bottleneck(encoded[-1]).view_as(encoded[-1])]
        for layer in self.decoder:
            features.append(F.relu(layer(torch.cat([features[-1], encoded.pop()], dim=1))))
        return features[::-1]


def _matrices(size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, size), nn.ReLU())


def _convolutions(channels: int) -> nn.Sequential:
    first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class Path(nn.Module):
    """z -> W (z ∘ [gate(u)]₊) with W ≥ 0; u has the resolution of z."""

    def __init__(self, unet: UNet, level: int, operator: Conv | Dense, start: Tensor) -> None:
        super().__init__()
        self.level = level
        self.gate = Affine(Conv(unet.shapes[level], operator.inputs[0], 1), gain=0.1, bias=1.0)
        self.linear = NonNegative(operator, "project", start, scale=1.0)

    def forward(self, features: Features) -> tuple[Map, Tensor]:
        return self.linear.linear, F.relu(self.gate(features[self.level]))


class Patches(nn.Module):
    """y -> W^y (y ∘ gate(u_1)) + W^u u, W^y a view of patches that do not overlap; u has their resolution."""

    def __init__(self, unet: UNet, level: int, y_shape: Shape, units: int) -> None:
        super().__init__()
        self.level = level
        self.gate = Affine(Conv(unet.shapes[0], y_shape[0], 1), gain=0.0, bias=1.0)
        self.linear = Affine(Conv(y_shape, units, 2**level, 2**level), bias=None)
        self.offset = Affine(Conv(unet.shapes[level], units, 3), gain=0.5)

    def forward(self, features: Features) -> tuple[Map, Tensor, Tensor]:
        return self.linear.linear, self.gate(features[0]), self.offset(features[self.level])


class Linear(nn.Module):
    """y -> -a(u_1) . y, so that sigmoid(a) is the argmin under the entropy of this term alone."""

    def __init__(self, unet: UNet, y_shape: Shape) -> None:
        super().__init__()
        self.logits = Affine(Conv(unet.shapes[0], y_shape[0], 3), gain=0.017)
        self.sum = Dense(y_shape, (1,))

    def forward(self, features: Features) -> tuple[Map, Tensor, Tensor]:
        a = self.logits(features[0])
        return Map(self.sum, a.new_full(self.sum.weight_shape, -1.0)), a, torch.zeros_like(a.flatten(-3)[..., :1])


class Layer(nn.Module):
    """(z, y) -> path(z) + direct(y); the first layer has no path."""

    def __init__(self, path: Path | None, direct: Patches | Linear) -> None:
        super().__init__()
        self.path, self.direct = path, direct

    def forward(self, features: Features) -> GatedStep:
        path, path_gate = (None, None) if self.path is None else self.path(features)
        skip, skip_gate, offset = self.direct(features)
        return GatedStep(ConvexStep(path, skip), Gates(path_gate, skip_gate, offset))


class UNetPICNN(ConvexNetwork):
    """f(x, y), convex in y, for two pictures of one shape; without coupling it is linear in y.

    channels: of the features at stride 1, 2, 4, ...; the two convex layers stand at strides 4 and 8.
    dense: width of the U-net where it is narrowest. units: of each convex layer, per patch.
    One seed starts the U-net and the linear term alike with and without coupling.
    """

    def __init__(self, shape: Shape, channels: Sequence[int], dense: int, units: int, coupling: bool = True) -> None:
        super().__init__(shape, shape, ACTIVATIONS["relu"])
        self.unet = unet = UNet(shape, channels, dense)
        linear, path = Linear(unet, shape), None
        if coupling:
            fine, coarse = Patches(unet, 2, shape, units), Patches(unet, 3, shape, units)
            z1, z2 = fine.linear.operator.outputs, coarse.linear.operator.outputs
            down, out = Conv(z1, units, 4, 2), Dense(z2, (1,))
            step = Path(unet, 2, down, torch.randn(down.weight_shape).abs() / units)
            path = Path(unet, 3, out, torch.full(out.weight_shape, 0.05))
            self.layers.extend([Layer(None, fine), Layer(step, coarse)])
        self.layers.append(Layer(path, linear))

    def given(self, x: Tensor | None = None) -> Energy:
        if x is None or self.x_shape is None:
            raise ValueError("UNetPICNN needs x, got None")
        self._check("x", x, self.x_shape)
        batch = x.shape[:-3]
        features = [u.reshape(*batch, *u.shape[1:]) for u in self.unet(CONTRAST * x.reshape(-1, *self.x_shape))]
        return self._energy((layer(features) for layer in self.layers), batch)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.given(x)(y)
