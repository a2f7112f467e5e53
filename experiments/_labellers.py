"""The ways to learn an energy of label sets, and the net without an energy: each has a loss and gives probabilities."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import icnn
from experiments._tagger import LAZY, Tagger
from icnn import losses

DESCENT = icnn.Descent("momentum", lr=0.3, beta=0.3)
STEPS = 30  # of gradient descent, as in the paper


@dataclass(frozen=True)
class Size:
    """What a network for labels consists of."""

    width: int = 2000
    """Features of the input."""
    units: int = 16
    """Convex units that couple the labels."""
    dropout: float = 0.2
    """Share of the features that are left out while fitting."""


@dataclass(frozen=True)
class Way:
    """How an energy is learned.

    loss: "argmin", squared errors of the argmin; "Fenchel-Young"; "max-margin". unrolled: the argmin is found, and
    differentiated, by STEPS of gradient descent, else by a few bundle iterations. positive: weight of an error at a
    label that is there. watched: the decision whose F1 on the validation rows is watched. calm: of the Tagger.
    epochs: where other than those of the recipe.
    """

    loss: str = "argmin"
    unrolled: bool = False
    coupling: bool = True
    convex: bool = True
    positive: float = 1.0
    watched: str = "expected F1"
    calm: float = LAZY
    epochs: int | None = None


HALF = "threshold 0.5"
WAYS = {
    "ICNN, argmin by bundles": Way(),
    "ICNN, argmin by bundles, positives weighted": Way(positive=6.0, watched=HALF, calm=1.0, epochs=5),
    "ICNN, argmin by unrolled descent": Way(unrolled=True),
    "ICNN, Fenchel-Young": Way("Fenchel-Young"),
    "ICNN, max-margin": Way("max-margin"),
    "no coupling, argmin by bundles": Way(coupling=False),
    "no coupling, argmin by bundles, positives weighted": Way(coupling=False, positive=6.0, watched=HALF),
    "no convexity, argmin by unrolled descent": Way(unrolled=True, convex=False),
}


class Labeller(nn.Module):
    """An energy, the way in which it is learned, and the argmin of energy minus entropy as probabilities."""

    def __init__(self, f: Tagger, way: Way, iterations: int) -> None:
        super().__init__()
        self.f, self.way = f, way
        gradient = "unrolled" if way.unrolled else "implicit"
        inference = dict(method=DESCENT, max_iter=STEPS) if way.unrolled else dict(method="bundle", max_iter=iterations)
        self.inference: dict[str, Any] = dict(regularizer="entropy", on_failure="zero") | inference
        match way.loss:
            case "argmin":
                criterion = partial(weighted_squares, way.positive)
                self.criterion = losses.Argmin(f, criterion, gradient=gradient, **self.inference)
            case "Fenchel-Young":
                self.criterion = losses.FenchelYoung(f, **self.inference)
            case "max-margin":
                self.criterion = losses.MaxMargin(f, **self.inference)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        if self.way.convex:
            return self.criterion(x, y)
        return weighted_squares(self.way.positive, descended(self.f.given(x), y.shape, create_graph=True), y).mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.way.convex:
            with torch.no_grad():
                return icnn.argmin(self.f, x, gradient="none", **self.inference).y
        shape = (*x.shape[:-1], *self.f.y_shape)
        return descended(self.f.given(x), shape, create_graph=False).detach()


def weighted_squares(positive: float, p: Tensor, y: Tensor) -> Tensor:
    """Σ_j w_j (p_j - y_j)², w = positive where y = 1, else 1."""
    return ((1 + (positive - 1) * y) * (p - y).square()).sum(-1)


def descended(energy: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, create_graph: bool) -> Tensor:
    """y after STEPS of gradient descent with momentum on f - H in logits, for an f that icnn.argmin would refuse."""
    assert DESCENT.lr is not None
    with torch.enable_grad():
        u = torch.zeros(shape, requires_grad=True)
        v = torch.zeros_like(u)
        for _ in range(STEPS):
            y = u.sigmoid()
            (slope,) = torch.autograd.grad(energy(y).sum(), y, create_graph=create_graph)
            v = DESCENT.beta * v - DESCENT.lr * (slope + u)
            u = u + v
        return u.sigmoid()


class FeedForward(nn.Module):
    """The paper's net without an energy: one hidden layer of 600 with batch norm, independent labels, cross-entropy."""

    def __init__(self, inputs: int, labels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, 600), nn.BatchNorm1d(600), nn.ReLU(), nn.Linear(600, labels), nn.Sigmoid()
        )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy(self.net(x), y)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
