"""The smallest and the largest value of a network over a box, each between a point and a proof."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from icnn.certificates.boxes import Bound, Boxed, boxed
from icnn.networks import ConvexNetwork

from .maximum import maximum
from .minimum import minimum
from .tangents import Bracket


@dataclass(frozen=True, eq=False)
class Extremum:
    """lower ≤ min f ≤ upper = f(y), or lower = f(y) ≤ max f ≤ upper, for each instance; all in float64.

    lower, upper, gap = upper − lower: (*batch,). y: (*batch, *y_shape), within the box. exact: (*batch,), whether the
    gap is within the tolerance, so that y is a minimiser, or maximiser.
    """

    lower: Float[Tensor, "*batch"]
    upper: Float[Tensor, "*batch"]
    y: Float[Tensor, "..."]
    exact: Bool[Tensor, "*batch"]

    @property
    def gap(self) -> Float[Tensor, "*batch"]:
        return self.upper - self.lower

    def __repr__(self) -> str:
        exact = f"{int(self.exact.sum())} of {self.exact.numel()} exact"
        return f"Extremum(y: {tuple(self.y.shape)}, {exact})"


@dataclass(frozen=True)
class Extrema:
    """The smallest and the largest value of f over the box; f(y) is within [minimum.lower, maximum.upper]."""

    minimum: Extremum
    maximum: Extremum


@torch.no_grad()
def extrema(
    f: ConvexNetwork,
    x: Float[Tensor, "..."] | None = None,
    *,
    bounds: tuple[Bound, Bound],
    tol: float = 1e-9,
    max_iter: int = 100,
) -> Extrema:
    """The minimum and the maximum of y -> f(x, y) over a box, for each instance of x, with certificates.

        min f(x, y),   max f(x, y)   subject to   lower ≤ y ≤ upper

    Minimum. A piecewise linear f, also one with a quadratic term, is minimised as a linear or quadratic program in y
    and the units; its multipliers give an affine function below f, whose minimum over the box is `lower`. Any other f
    is minimised by L-BFGS-B and, where it has kinks, by a level method; `lower` is that of an average of tangents.
    Maximum. A vertex attains it. Up to 12 variables that are not fixed all vertices are tried, and it is exact; beyond,
    `lower` is that of a climb along vertices, and `upper` of branch and bound with chords in place of the activations.

    `icnn.output_bounds` bounds any module, in x as well, by intervals alone. These bounds are those of the weights of
    now, and hold to the rounding of float64.

    f: a network that is convex in y.
    x: (*batch, *f.x_shape), or None for a network without x.
    bounds: lower and upper of y, numbers or tensors of shape y_shape or (*batch, *y_shape), finite; equal ones fix a
        variable.
    tol: a gap of tol (1 + |f(y)|) is exact.
    max_iter: steps of the level method, each with a linear and a quadratic program.
    Returns `Extrema` in float64. Where the tolerance is not reached the gap tells, and `exact` is False.
    Raises ValueError if f is not convex in y now, for contradictory or infinite bounds and for wrong shapes.
    Source: Amos, Xu, Kolter (2017), section 3, for the programs; Lemaréchal, Nemirovskii, Nesterov (1995), New variants
    of bundle methods, for the level method; Rockafellar (1970), section 32, for vertices.
    """
    for name, value in (("tol", tol), ("max_iter", max_iter)):
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")
    instances = boxed(f, x, bounds)
    return Extrema(
        _extremum(minimum(instances, tol, max_iter), instances, tol), _extremum(maximum(instances, tol), instances, tol)
    )


def _extremum(found: Bracket, instances: Boxed, tol: float) -> Extremum:
    exact = torch.ones_like(found.lower, dtype=torch.bool).index_fill(0, found.open(tol), False)
    lower, upper, exact = (t.reshape(instances.batch) for t in (found.lower, found.upper, exact))
    return Extremum(lower, upper, found.y.reshape(instances.batch + instances.y_shape), exact)
