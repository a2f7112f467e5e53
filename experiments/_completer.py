"""The ways to complete a picture: the unknown half is the argmin of an energy, or what a convolutional net gives."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

import icnn
from experiments._completion_energies import CentredEnergy, Plain, Unet
from experiments._descent import descended
from experiments._pictures import halves
from experiments._unet import CONTRAST, UNet
from icnn import losses

log = logging.getLogger(__name__)

Callback = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Way:
    """How the unknown half is found, and how that is learned.

    iterations: of inference, in training and in the score; 0 for a fully convolutional net, which has no energy.
    descent: what the iterations are, by default bundles. loss: "squares", squared errors of what inference ends with,
    differentiated through bundles or through all steps of descent; "Fenchel-Young", of the energy.
    """

    iterations: int = 5
    descent: icnn.Descent | None = None
    loss: Literal["squares", "Fenchel-Young"] = "squares"
    coupling: bool = True
    convex: bool = True


DESCENT = icnn.Descent("momentum", lr=0.3, beta=0.3)
ICNN, NO_COUPLING = "ICNN", "no coupling"
DESCENDED, NO_CONVEXITY = "ICNN, gradient descent, 30 iterations", "no convexity, gradient descent, 30 iterations"
WAYS = {
    ICNN: Way(),
    "ICNN, 30 iterations": Way(30),
    "ICNN, gradient descent": Way(5, DESCENT),
    DESCENDED: Way(30, DESCENT),
    "ICNN, Fenchel-Young": Way(loss="Fenchel-Young"),
    NO_CONVEXITY: Way(30, DESCENT, convex=False),
    NO_COUPLING: Way(coupling=False),
    "fully convolutional net": Way(0),
}


class Completer(nn.Module):
    """Left halves from mirrored right halves: the argmin of an energy under the entropy."""

    def __init__(self, net: Plain | Unet, images: Tensor, way: Way) -> None:
        super().__init__()
        x_mean, y_mean = (half.mean(0) for half in halves(images))
        self.energy = CentredEnergy(net.build(y_mean.shape, way.coupling, way.convex), x_mean, y_mean)
        self.way = way

    def forward(
        self, x: Float[Tensor, "n 1 height half"], callback: Callback | None = None
    ) -> Float[Tensor, "n 1 height half"]:
        """Inference starts at the mean left half. callback: as in icnn.argmin.

        A picture whose inference fails keeps its last point, without gradient: it must not end a long run.
        """
        start, steps = self.energy.y_mean, self.way.iterations
        if self.way.descent is not None:
            return descended(self.energy, x, start, self.way.descent, steps, callback)
        solution = icnn.argmin(
            self.energy,
            x,
            regularizer="entropy",
            method="bundle",
            start=start,
            max_iter=steps,
            gradient="implicit" if torch.is_grad_enabled() else "none",
            on_failure="zero",
            callback=callback,
        )
        if (solution.status > icnn.Status.MAX_ITERATIONS).any():
            log.warning("some inferences failed: %s", solution)
        return solution.y

    def loss(self, images: Float[Tensor, "n 1 height width"]) -> Float[Tensor, ""]:
        """That of the way; squared errors are on the scale 0..255 of pixels."""
        x, y = halves(images)
        if self.way.loss == "squares":
            return squared_errors(self(x), images).mean()
        start, steps = self.energy.y_mean, self.way.iterations
        young = losses.FenchelYoung(self.energy, method="bundle", start=start, max_iter=steps, on_failure="zero")
        return young(x, y)


class Convolutional(nn.Module):
    """Left halves from mirrored right halves by convolutions alone, which add to the logits of the mean left half."""

    def __init__(self, channels: tuple[int, ...], images: Tensor) -> None:
        super().__init__()
        x_mean, y_mean = (half.mean(0) for half in halves(images))
        self.x_mean, self.start = nn.Buffer(x_mean), nn.Buffer(y_mean.logit(1e-3))
        self.unet = UNet(y_mean.shape, channels, dense=None)
        self.logits = nn.Conv2d(channels[0], 1, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "n 1 height half"], callback: Callback | None = None
    ) -> Float[Tensor, "n 1 height half"]:
        """callback: never called, since there are no iterations."""
        return (self.start + self.logits(self.unet(CONTRAST * (x - self.x_mean))[0])).sigmoid()

    def loss(self, images: Float[Tensor, "n 1 height width"]) -> Float[Tensor, ""]:
        """Mean squared error of the completed halves."""
        return squared_errors(self(halves(images)[0]), images).mean()


def squared_errors(
    completed: Float[Tensor, "*runs n 1 height half"], images: Float[Tensor, "n 1 height width"]
) -> Float[Tensor, "*runs n"]:
    """Mean squared error of each completed picture, on the scale 0..255 of its pixels."""
    return (255 * (completed - halves(images)[1])).square().flatten(-3).mean(-1)


@torch.no_grad()
def completions(
    model: nn.Module, images: Float[Tensor, "n 1 height width"], iterations: int, chunk: int = 100
) -> Float[Tensor, "iterations n 1 height half"]:
    """The completed half after each iteration, on the CPU.

    Where inference ends early, its last point stands for the rest.
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
