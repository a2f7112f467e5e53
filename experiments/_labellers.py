"""The ways to learn an energy of label sets, and the net without an energy: each has a loss and gives probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import icnn
from experiments._descent import descended
from experiments._tagger import Committee, Features, Tagger
from icnn import losses

DESCENT = icnn.Descent("gradient")  # steps of 2 / (k + 1), which kinks do not upset
STEPS = 30  # of gradient descent, as in the paper


@dataclass(frozen=True)
class Net:
    """What a network for labels consists of, and how its coupling and its F1 loss are weighed."""

    width: int = 2000
    """Features of the input."""
    units: int = 16
    """Convex units that couple the labels, beside the two that count them."""
    dropout: float = 0.2
    """Share of the features that are left out while fitting."""
    calm: float = 200.0
    """By what the features are divided where the coupling depends on them: the larger, the slower it follows them."""
    sharpness: float = 4.0
    """Factor of the energy, against the entropy, where F1 is learned."""
    shift: float = 1.75
    """Added to the logit of every label where F1 is learned: one in seven is worth a label."""
    f1_weight: float = 0.5
    """Of the F1 loss, beside the squared errors of the marginals."""


@dataclass(frozen=True)
class Way:
    """How an energy is learned.

    loss: "squares", squared errors of the argmin; "F1", one minus its soft F1, and beside it squared errors of the
    marginals, which are the argmin without coupling; "Fenchel-Young"; "max-margin". unrolled: the argmin is found, and
    differentiated, by STEPS of gradient descent, else by a few bundle iterations.
    """

    loss: Literal["squares", "F1", "Fenchel-Young", "max-margin"] = "squares"
    unrolled: bool = False
    coupling: bool = True
    convex: bool = True

    @property
    def watched(self) -> str:
        """The decision whose F1 on the validation rows is watched."""
        return "threshold 0.5" if self.loss == "F1" else "expected F1"


WAYS = {
    "ICNN, argmin by bundles": Way(),
    "ICNN, argmin by bundles, F1": Way("F1"),
    "ICNN, argmin by unrolled descent": Way(unrolled=True),
    "ICNN, argmin by unrolled descent, F1": Way("F1", unrolled=True),
    "ICNN, Fenchel-Young": Way("Fenchel-Young"),
    "ICNN, max-margin": Way("max-margin"),
    "no coupling": Way(coupling=False),
    "no coupling, F1": Way("F1", coupling=False),
    "no convexity, argmin by unrolled descent": Way(unrolled=True, convex=False),
    "no convexity, argmin by unrolled descent, F1": Way("F1", unrolled=True, convex=False),
}


class Labeller(nn.Module):
    """Features, an energy, the way in which they are learned, and the argmin of energy minus entropy as probabilities.

    x, y: the rows that will be learned from, (n, inputs) and (n, labels), whose usual sizes are where learning starts.
    """

    def __init__(self, x: Tensor, y: Tensor, net: Net, way: Way, iterations: int) -> None:
        super().__init__()
        size = torch.linalg.vector_norm(x, dim=1).mean().item()
        sharp = dict(sharpness=net.sharpness, shift=net.shift) if way.loss == "F1" else {}
        self.features = Features(x.shape[1], size, net.width, net.dropout)
        self.f = f = Tagger(
            net.width, y, units=net.units, calm=net.calm, coupling=way.coupling, convex=way.convex, **sharp
        )
        self.way, self.f1_weight = way, net.f1_weight
        self.inference: dict[str, Any] = dict(
            regularizer="entropy", method="bundle", max_iter=iterations, on_failure="zero"
        )
        if way.loss == "Fenchel-Young":
            self.criterion = losses.FenchelYoung(f, **self.inference)
        if way.loss == "max-margin":
            self.criterion = losses.MaxMargin(f, **self.inference)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.features(x)
        if self.way.loss in ("Fenchel-Young", "max-margin"):
            return self.criterion(h, y)
        p = self.argmin(h)
        if self.way.loss == "squares":
            return (p - y).square().sum(-1).mean()
        marginals = self.f.logits(h).sigmoid()
        return self.f1_weight * (1 - losses.soft_f1(p, y)).mean() + (marginals - y).square().sum(-1).mean()

    def argmin(self, h: Tensor) -> Tensor:
        if self.way.unrolled:
            return descended(self.f, h, h.new_full(self.f.y_shape, 0.5), DESCENT, STEPS)
        gradient = "implicit" if torch.is_grad_enabled() else "none"
        return icnn.argmin(self.f, h, gradient=gradient, **self.inference).y

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.argmin(self.features(x))


class Jury(nn.Module):
    """The argmin of the mean of several labellers' energies minus entropy, as probabilities."""

    def __init__(self, members: Sequence[Labeller], iterations: int) -> None:
        super().__init__()
        self.f, self.iterations = Committee([(member.features, member.f) for member in members]), iterations

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        asked: dict[str, Any] = dict(regularizer="entropy", method="bundle", gradient="none", on_failure="zero")
        return icnn.argmin(self.f, x, max_iter=self.iterations, **asked).y


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
