"""What the units of a network can be while y varies in a box, or freely: their values, slopes and weights in f.

With P ≥ 0 and g non-decreasing, bounds of z are bounds of P z, and bounds of v are bounds of g(v); only S y needs
|S|: over y ∈ [c − r, c + r] it is S c ± |S| r. Backward, z̄_i = P'(g'(v) ∘ z̄_{i+1}) ≥ 0 is bounded by the largest g'.
"""

from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from icnn.networks.activations import Activation
from icnn.networks.energy import ConvexStep, GatedStep, LayeredEnergy, Step, Tangent
from icnn.networks.operators import Linear


class Range(NamedTuple):
    """The pre-activations of one layer, lower ≤ v ≤ upper, (*batch, *v_shape); infinite where y varies freely."""

    activation: Activation
    lower: Tensor
    upper: Tensor
    bounded: bool

    def support(self, t: Tensor) -> Tensor:
        """The largest derivative of g along t over the range; t (*extra, *batch, *v_shape)."""
        g, found = self.activation, None
        if g.pieces == 1 and self.bounded:  # the slopes of a convex g lie between those at the ends
            found = torch.maximum(g.slope(self.lower) * t, g.slope(self.upper) * t)
        if g.recession is not None:
            anywhere = g.recession(t)
            found = anywhere if found is None else torch.minimum(found, anywhere)
        if found is None:
            found = torch.full_like(t if g.pieces == 1 else t[..., 0], inf)
        return found.nan_to_num(nan=inf, posinf=inf, neginf=-inf)

    @property
    def steepest(self) -> Tensor:
        """The largest slope, one for each piece."""
        if self.activation.pieces == 1:
            return self.support(torch.ones_like(self.upper))
        recession, pieces = self.activation.recession, torch.eye(self.activation.pieces).to(self.upper)
        return torch.full_like(pieces[0], inf) if recession is None else recession(pieces)

    @property
    def curvature(self) -> Tensor:
        """c with ∇²g ⪯ diag(c) over the range, one for each piece."""
        g = self.activation
        if g.curvature is not None:
            return g.curvature(self.lower, self.upper)
        found = torch.full_like(self.upper, inf)
        if g.pieces == 1 and self.bounded:  # with equal slopes at its ends a convex g is affine
            found = found.masked_fill(g.slope(self.lower) == g.slope(self.upper), 0.0)
        return found


def linear_part(step: Step, absolute: bool = False) -> Step:
    """(z, y) to P z + S y, the part without bias; absolute: with |P| and |S|.

    Raises TypeError for a step of another kind.
    """
    if isinstance(step, ConvexStep):
        return ConvexStep(*(None if part is None else _bare(part, absolute) for part in step))
    if isinstance(step, GatedStep):
        linear, (path, skip, offset) = linear_part(step.linear, absolute), step.gates
        assert isinstance(linear, ConvexStep)
        if absolute:
            path, skip = (None if gate is None else gate.abs() for gate in (path, skip))
        return GatedStep(linear, step.gates._replace(path=path, skip=skip, offset=torch.zeros_like(offset)))
    raise TypeError(f"the energy has a step of type {type(step).__name__}, expected ConvexStep or GatedStep")


def _bare(part: Linear, absolute: bool) -> Linear:
    return part._replace(weight=part.weight.abs() if absolute else part.weight, bias=None)


def activations(energy: LayeredEnergy) -> list[Activation]:
    """That of each step, but for a last one without."""
    hidden = [energy.activation] * (len(energy.steps) - 1)
    return hidden if energy.output is None else [*hidden, energy.output]


def ranges(energy: LayeredEnergy, lower: Tensor | None, upper: Tensor | None, like: Tensor) -> list[Range]:
    """One for each step with an activation, by interval arithmetic; like: some y, (*batch, *y_shape)."""
    found: list[Range] = []
    centre, reach = like, None
    if lower is not None and upper is not None:
        centre, reach = (lower + upper) / 2, (upper - lower) / 2
    low = high = None
    for number, (step, activation) in enumerate(zip(energy.steps, activations(energy), strict=False)):
        v_low, v_high = _interval(step, low, high, centre, reach)
        found.append(Range(activation, v_low, v_high, reach is not None))
        if reach is None:
            low = high = joined(energy, number, low, activation(step(low, centre)))  # of which only the shape matters
        else:
            low = joined(energy, number, low, activation(v_low))
            high = joined(energy, number, high, activation(v_high))
    return found


def highest(energy: LayeredEnergy, found: list[Range], lower: Tensor, upper: Tensor) -> Tensor:
    """The upper end of f without its quadratic term over a box, (*batch,)."""
    if energy.output is not None:
        return energy.output(found[-1].upper).squeeze(-1)
    high = None
    for number, one in enumerate(found):
        high = joined(energy, number, high, one.activation(one.upper))
    return _interval(energy.steps[-1], high, high, (lower + upper) / 2, (upper - lower) / 2)[1].squeeze(-1)


def _interval(
    step: Step, low: Tensor | None, high: Tensor | None, centre: Tensor, reach: Tensor | None
) -> tuple[Tensor, Tensor]:
    v_low, v_high = step(low, centre), step(high, centre)
    if reach is None:
        return torch.full_like(v_low, -inf), torch.full_like(v_high, inf)
    spread = linear_part(step, absolute=True)(None if low is None else torch.zeros_like(low), reach)
    return v_low - spread, v_high + spread


def joined(energy: LayeredEnergy, number: int, z: Tensor | None, image: Tensor) -> Tensor:
    """What follows after a step: the image of its activation, or z + h image between the ends of a residual stack."""
    if z is None or energy.residual is None or number == len(energy.steps) - 1:
        return image
    return z + energy.residual * image


def cotangents(energy: LayeredEnergy, found: list[Range]) -> list[Tensor]:
    """The largest derivative of f with respect to g(v), one for each range; h times that of z for z + h g(v)."""
    if not found:
        return []
    v_bar = torch.ones_like(found[0].upper.flatten(1)[:, :1])
    back: list[Tensor] = []
    if energy.output is not None:
        back.append(v_bar)
        v_bar = pull(found[-1], v_bar)
    z_bar = None
    for number in reversed(range(len(energy.steps) - 1)):
        image = energy.steps[number + 1].transpose(v_bar)[0]
        assert image is not None
        z_bar = joined(energy, number, z_bar, image).nan_to_num(nan=inf, posinf=inf)
        back.append(z_bar if energy.residual is None or number == 0 else energy.residual * z_bar)
        v_bar = pull(found[number], z_bar)
    return back[::-1]


def pull(found: Range, cotangent: Tensor) -> Tensor:
    """The largest cotangent of v; none where g(v) has none, however steep it is."""
    if found.activation.pieces > 1:
        cotangent = cotangent.unsqueeze(-1)
    return (found.steepest * cotangent).masked_fill(cotangent == 0, 0.0)


def replaced(energy: LayeredEnergy, y: Tensor, lines: list[tuple[Tensor, Tensor]]) -> Tangent:
    """The affine function that f is with s'v + o, (s, o) of each range, in place of its activations, seen at y.

    With s'v + o below every g it lies below f, above every g above it. A quadratic term is replaced by its tangent.
    """

    def affine(number: int, activation: Activation, v: Tensor) -> tuple[Tensor, Tensor]:
        slope, offset = lines[number]
        return activation.push(slope, v) + offset, slope

    return energy.sweep(y, affine)


def chords(found: Range) -> tuple[Tensor, Tensor]:
    """The slope and offset of an affine function above g over a bounded range: the chord, or the largest value."""
    g, low, high = found.activation, found.lower, found.upper
    if g.pieces > 1:
        return torch.zeros_like(high), g(high)
    width = high - low
    slope = torch.where(width > 0, (g(high) - g(low)) / width.masked_fill(width <= 0, 1.0), 0.0)
    slope = torch.minimum(slope, g.slope(high))  # of ends that nearly coincide rounding alone would be steeper
    return slope, torch.maximum(g(low) - slope * low, g(high) - slope * high)
