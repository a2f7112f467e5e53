"""An energy of label sets for long, mostly empty inputs: one wide layer of features, then a convex path over labels.

With h = relu(W x), wide, and dropout on it while fitting,

    z = relu(W^y (y ∘ (W^{yh} h + b^y)) + W^h h + b)
    f(h, y) = sharpness * (w . (z ∘ [W^{zh} h + b^z]₊) - (a(h) + shift) . y),    w ≥ 0,    a affine,

a PICNN (Amos, Xu, Kolter 2017, equation 3) both of whose layers see the same h. Two of the units start as counts of the
labels, relu(few - 1ᵀy) and relu(1ᵀy - many), so that the argmin has between few and many of them, whatever h says of
each alone. Without coupling f is linear in y, and its argmin under the entropy sigmoid(sharpness (a(h) + shift)).
Without convexity the sign of w is free; it starts by chance, but for the counts.

W starts large against what a step of Adam changes: features move little, and a fit is close to one by the kernel of
random features, which on few examples of many words generalises better than features that are learned freely.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    Tangent,
)
from icnn.networks import Linear as Map

LAZY = 10.0  # times its usual size that W starts with, and by which its product is divided
USUAL = (0.5, 0.85)  # quantiles of the number of labels: few and many
FIRM = 10.0  # slope of the energy where there are fewer, or more


class Features(nn.Module):
    """x -> dropout(relu(W x + b)); size: a typical |x|."""

    def __init__(self, inputs: int, size: float, width: int, dropout: float) -> None:
        super().__init__()
        self.contrast, self.dropout = inputs**0.5 / (size * LAZY), dropout
        self.linear = nn.Linear(inputs, width)
        with torch.no_grad():
            self.linear.weight.mul_(LAZY)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.relu(self.linear(self.contrast * x)), self.dropout, self.training)


class Tagger(ConvexNetwork):
    """f(h, y), convex in y unless that is given up; affine in y without coupling.

    width: of h. examples: label sets (n, labels), whose frequencies and sizes are where f starts. units: of z, without
    the two that count. calm: by what h is divided where the coupling depends on it. One seed starts a alike in all.
    """

    def __init__(
        self,
        width: int,
        examples: Tensor,
        *,
        units: int,
        calm: float = 1.0,
        sharpness: float = 1.0,
        shift: float = 0.0,
        coupling: bool = True,
        convex: bool = True,
    ) -> None:
        labels = examples.shape[1]
        super().__init__((width,), (labels,), ACTIVATIONS["relu"])
        self.calm, self.shift = calm, shift
        self.logits = nn.Linear(width, labels)
        with torch.no_grad():
            self.logits.weight.mul_(0.1)
            self.logits.bias.copy_(examples.mean(0).logit(1e-4))
        if coupling:
            self.layers.append(Pairs(width, units, calm, examples))
        self.layers.append(Last(width, labels, units, sharpness, coupling, convex))

    def given(self, x: Tensor | None = None) -> Energy:
        if x is None or self.x_shape is None:
            raise ValueError("Tagger needs x, got None")
        self._check("x", x, self.x_shape)
        first, last = self.layers[:-1], self.layers[-1]
        calm = x / self.calm
        return self._energy([*(layer(calm) for layer in first), last(calm, self.logits(x) + self.shift)], x.shape[:-1])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.given(x)(y)


class Pairs(nn.Module):
    """y -> W^y (y ∘ (W^{yh} h + b^y)) + W^h h + b, the last two rows at the start few - 1ᵀy and 1ᵀy - many."""

    def __init__(self, width: int, units: int, calm: float, examples: Tensor) -> None:
        super().__init__()
        labels, rows = examples.shape[1], units + 2
        few, many = examples.sum(1).quantile(torch.tensor(USUAL))
        self.gate = Affine(Dense((width,), (labels,)), gain=0.1, bias=1.0)
        self.linear = Affine(Dense((labels,), (rows,)), bias=None)
        self.offset = Affine(Dense((width,), (rows,)), gain=0.5 * calm)
        assert self.offset.bias is not None
        with torch.no_grad():
            self.linear.weight[-2:] = torch.tensor([[-1.0], [1.0]])
            self.offset.weight[-2:] = 0
            self.offset.bias[-2:] = torch.stack((few, -many))

    def forward(self, h: Tensor) -> GatedStep:
        return GatedStep(ConvexStep(None, self.linear.linear), Gates(None, self.gate(h), self.offset(h)))


class Last(nn.Module):
    """(z, y) -> sharpness * (w . (z ∘ [W^{zh} h + b^z]₊) - a . y); no z without coupling."""

    def __init__(self, width: int, labels: int, units: int, sharpness: float, coupling: bool, convex: bool) -> None:
        super().__init__()
        self.gate = self.path = None
        self.sum, self.sharpness = Dense((labels,), (1,)), sharpness
        if coupling:
            out = Dense((units + 2,), (1,))
            self.gate = Affine(Dense((width,), (units + 2,)), gain=0.1, bias=1.0)
            start = torch.full(out.weight_shape, max(units, 1) ** -0.5)
            start[..., -2:] = FIRM / sharpness
            signs = torch.cat((torch.randint(2, (units,)) * 2 - 1, torch.ones(2)))
            self.path = NonNegative(out, "abs", start, scale=1.0) if convex else Free(out, start * signs)

    def forward(self, h: Tensor, a: Tensor) -> GatedStep:
        path = None if self.path is None else self.path.linear
        gate = None if self.gate is None else self.sharpness * F.relu(self.gate(h))
        skip = Map(self.sum, a.new_full(self.sum.weight_shape, -self.sharpness))
        return GatedStep(ConvexStep(path, skip), Gates(gate, a, torch.zeros_like(a[..., :1])))


class Free(nn.Module):
    """A linear map whose weights may have any sign."""

    def __init__(self, operator: Dense, start: Tensor) -> None:
        super().__init__()
        self.operator, self.weight = operator, nn.Parameter(start)

    @property
    def linear(self) -> Map:
        return Map(self.operator, self.weight)


class Committee(ConvexNetwork):
    """x -> the mean of the energies of nets that were fitted apart, (f_1 + ... + f_m) / m: as convex as they are."""

    def __init__(self, members: Sequence[tuple[Features, Tagger]]) -> None:
        features, f = members[0]
        super().__init__((features.linear.in_features,), f.y_shape, f.activation)
        self.members = nn.ModuleList(nn.ModuleList(member) for member in members)
        self.layers.extend(layer for _, f in members for layer in f.layers)

    def given(self, x: Tensor | None = None) -> "Mean":
        return Mean(tuple(f.given(features(x)) for features, f in self.members))  # pyright: ignore

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.given(x)(y)


@dataclass(frozen=True, eq=False)
class Mean(Energy):
    """y -> the mean of energies; their units stand one after the other, as many of each."""

    energies: tuple[Energy, ...]

    def __call__(self, y: Tensor) -> Tensor:
        return torch.stack([energy(y) for energy in self.energies]).mean(0)

    def tangent(self, y: Tensor) -> Tangent:
        return _mean([energy.tangent(y) for energy in self.energies])

    def piece(self, y: Tensor, units: Sequence[Tensor]) -> Tangent:
        each = len(units) // len(self.energies)
        parts = (units[i * each : (i + 1) * each] for i in range(len(self.energies)))
        return _mean([energy.piece(y, part) for energy, part in zip(self.energies, parts, strict=True)])

    def at(self, index: Tensor) -> "Mean":
        return Mean(tuple(energy.at(index) for energy in self.energies))


def _mean(tangents: Sequence[Tangent]) -> Tangent:
    value, slope = (torch.stack(part).mean(0) for part in list(zip(*tangents, strict=True))[:2])
    return Tangent(value, slope, tuple(unit for tangent in tangents for unit in tangent.units))
