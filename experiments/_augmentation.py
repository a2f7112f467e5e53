"""Random changes of whole pictures, before they are cut in halves."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far a training picture may change; every number is drawn per picture from torch's generator."""

    flip: float = 0.0
    """Probability to mirror the picture, which exchanges the known and the unknown half."""
    rotate: float = 0.0
    """Rotation by up to this many degrees each way."""
    scale: float = 0.0
    """Magnification by up to this factor more or less."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Shift by up to this many pixels right or left, down or up, the edge repeated."""
    brightness: float = 0.0
    """Contrast by up to this factor more or less, offset by up to half of it."""
    mix: float = 0.0
    """Blend with another picture, the share drawn from Beta(mix, mix); 0 for none."""

    def __call__(self, images: Float[Tensor, "n 1 height width"]) -> Float[Tensor, "n 1 height width"]:
        """Changed pictures, pixels in [0, 1] as before."""
        if self.rotate or self.scale or any(self.shift):
            images = self._moved(images)
        if self.mix:
            images = self._mixed(images)
        if self.flip:
            images = torch.where(_uniform(images) < 2 * self.flip - 1, images.flip(-1), images)
        if self.brightness:
            contrast, offset = 1 + self.brightness * _uniform(images), self.brightness / 2 * _uniform(images)
            images = (contrast * images + offset).clamp(0, 1)
        return images

    def _moved(self, images: Tensor) -> Tensor:
        angle, zoom, right, down = (_uniform(images).flatten() for _ in range(4))
        angle, zoom = angle * math.radians(self.rotate), 1 + self.scale * zoom
        right, down = (
            2 * reach / size * move
            for reach, size, move in zip(self.shift, images.shape[:1:-1], (right, down), strict=True)
        )
        cosine, sine = zoom * angle.cos(), zoom * angle.sin()
        affine = torch.stack([cosine, -sine, right, sine, cosine, down], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def _mixed(self, images: Tensor) -> Tensor:
        share = torch.distributions.Beta(self.mix, self.mix).sample((len(images), 1, 1, 1))
        share = torch.maximum(share, 1 - share).to(images.device)
        return share * images + (1 - share) * images[torch.randperm(len(images)).to(images.device)]


def _uniform(images: Tensor) -> Tensor:
    """One number in [-1, 1) per picture; drawn on the CPU, so that every device sees the same ones."""
    return (2 * torch.rand(len(images), 1, 1, 1) - 1).to(images.device)
