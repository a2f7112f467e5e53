"""An energy of label sets for long, mostly empty inputs: one wide layer of features, then a convex path over labels.

With h = relu(W x), wide, and dropout on it while fitting,

    z = relu(W^y (y ∘ (W^{yh} h + b^y)) + W^h h + b)
    f(x, y) = w . (z ∘ [W^{zh} h + b^z]₊) - a(h) . y,    w ≥ 0,    a affine,

a PICNN (Amos, Xu, Kolter 2017, equation 3) both of whose layers see the same h. Without coupling f = -a(h) . y, whose
argmin under the entropy is sigmoid(a(h)): a net with one hidden layer. Without convexity the sign of w is free.

W starts large against what a step of Adam changes: features move little, and a fit is close to one by the kernel of
random features, which on few examples of many words generalises better than features that are learned freely.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icnn.networks import (
    ACTIVATIONS,
    Affine,
    ConvexNetwork,
    ConvexStep,
    Dense,
    Energy,
    GatedStep,
    Gates,
    NonNegative,
)
from icnn.networks import Linear as Map

LAZY = 10.0  # times its usual size that W starts with, and by which its product is divided


class Tagger(ConvexNetwork):
    """f(x, y), convex in y unless that is given up; affine in y without coupling.

    inputs, labels: sizes of x and y. frequencies: of the labels, where the argmin starts. size: a typical |x|.
    width: of h. units: of z. dropout: of h. calm: as LAZY, for how the coupling depends on h. One seed starts the three
    kinds alike.
    """

    def __init__(
        self,
        inputs: int,
        frequencies: Tensor,
        size: float,
        *,
        width: int,
        units: int,
        dropout: float,
        calm: float = LAZY,
        coupling: bool = True,
        convex: bool = True,
    ) -> None:
        labels = len(frequencies)
        super().__init__((inputs,), (labels,), ACTIVATIONS["relu"])
        self.contrast, self.dropout, self.calm = inputs**0.5 / (size * LAZY), dropout, calm
        self.features = nn.Linear(inputs, width)
        self.logits = nn.Linear(width, labels)
        with torch.no_grad():
            self.features.weight.mul_(LAZY)
            self.logits.weight.mul_(0.1)
            self.logits.bias.copy_(frequencies.logit(1e-4))
        if coupling:
            self.layers.append(Pairs(width, labels, units, calm))
        self.layers.append(Last(width, labels, units if coupling else 0, convex))

    def given(self, x: Tensor | None = None) -> Energy:
        if x is None or self.x_shape is None:
            raise ValueError("Tagger needs x, got None")
        self._check("x", x, self.x_shape)
        h = F.dropout(F.relu(self.features(self.contrast * x)), self.dropout, self.training)
        first, last = self.layers[:-1], self.layers[-1]
        calm = h / self.calm
        return self._energy([*(layer(calm) for layer in first), last(calm, self.logits(h))], x.shape[:-1])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.given(x)(y)


class Pairs(nn.Module):
    """y -> W^y (y ∘ (W^{yh} h + b^y)) + W^h h + b."""

    def __init__(self, width: int, labels: int, units: int, calm: float) -> None:
        super().__init__()
        self.gate = Affine(Dense((width,), (labels,)), gain=0.1, bias=1.0)
        self.linear = Affine(Dense((labels,), (units,)), bias=None)
        self.offset = Affine(Dense((width,), (units,)), gain=0.5 * calm)

    def forward(self, h: Tensor) -> GatedStep:
        return GatedStep(ConvexStep(None, self.linear.linear), Gates(None, self.gate(h), self.offset(h)))


class Last(nn.Module):
    """(z, y) -> w . (z ∘ [W^{zh} h + b^z]₊) - a . y; no z without units."""

    def __init__(self, width: int, labels: int, units: int, convex: bool) -> None:
        super().__init__()
        self.gate = self.path = None
        self.sum = Dense((labels,), (1,))
        if units:
            out = Dense((units,), (1,))
            self.gate = Affine(Dense((width,), (units,)), gain=0.1, bias=1.0)
            start = torch.full(out.weight_shape, units**-0.5)
            self.path = NonNegative(out, "abs", start, scale=1.0) if convex else Free(out, start)

    def forward(self, h: Tensor, a: Tensor) -> GatedStep:
        path = None if self.path is None else self.path.linear
        gate = None if self.gate is None else F.relu(self.gate(h))
        skip = Map(self.sum, a.new_full(self.sum.weight_shape, -1.0))
        return GatedStep(ConvexStep(path, skip), Gates(gate, a, torch.zeros_like(a[..., :1])))


class Free(nn.Module):
    """A linear map whose weights may have any sign."""

    def __init__(self, operator: Dense, start: Tensor) -> None:
        super().__init__()
        self.operator, self.weight = operator, nn.Parameter(start)

    @property
    def linear(self) -> Map:
        return Map(self.operator, self.weight)
