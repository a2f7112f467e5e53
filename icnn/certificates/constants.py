"""How strongly convex, how smooth and how steep a network is in y: constants that are proved, not sampled.

    f = ½ y'Qy + v_k,    ∇²f = Q + Σ_i J_i' diag(c_i) J_i,    0 ≤ c_i ≤ max g''(v_i) · max z̄_i,    J_i = ∂v_i/∂y

`ranges` bounds g'' and z̄_i, `jacobian_bounds` the Jacobians and the largest eigenvalue.
"""

from math import inf
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from icnn.networks.energy import Curvature, LayeredEnergy
from icnn.networks.network import ConvexNetwork

from .boxes import Bound, Boxed, boxed
from .jacobian_bounds import by_matrices, by_vectors, magnitude, matrix, rounding
from .ranges import Range, cotangents, ranges

EXPLICIT = 256  # variables, up to which matrices are made
ENTRIES = 2**24  # of the Jacobians made at a time


class CurvatureBounds(NamedTuple):
    """m |d|² ≤ d'∇²f(y) d ≤ L |d|² and |∇f(y)| ≤ K: strong_convexity m, smoothness L, lipschitz K, each (*batch,).

    Where f is not twice differentiable, f − m/2 |y|² and L/2 |y|² − f are convex; L is infinite where f has a kink.
    """

    strong_convexity: Float[Tensor, "*batch"]
    smoothness: Float[Tensor, "*batch"]
    lipschitz: Float[Tensor, "*batch"]


@torch.no_grad()
def curvature_bounds(
    f: ConvexNetwork, x: Float[Tensor, "..."] | None = None, *, bounds: tuple[Bound, Bound] | None = None
) -> CurvatureBounds:
    """Constants of strong convexity, smoothness and steepness of y -> f(x, y), for each instance of x.

        f − m/2 |y|² and L/2 |y|² − f are convex,   |f(y) − f(y')| ≤ K |y − y'|   for all y, y' within bounds

    They hold in real arithmetic for the weights of now and need not be tight. m is that of the quadratic term alone. L
    and K are infinite where no finite constant is known: L at kinks (ReLU, maxout, norm) that may lie within bounds, K
    of a quadratic term without bounds, both for an activation that does not tell (`Activation.recession`,
    `Activation.curvature`).

    f: a network that is convex in y.
    x: (*batch, *f.x_shape), or None for a network without x.
    bounds: lower and upper of y, numbers or tensors of shape y_shape or (*batch, *y_shape), finite; None for all y.
    Returns `CurvatureBounds` in float64.
    Raises ValueError if f is not convex in y now, for contradictory or infinite bounds and for wrong shapes; TypeError
    for a network whose energy is not one of layers.
    Source: Collatz (1942), Wielandt (1950), for λ_max of non-negative matrices; the rest is interval arithmetic.
    """
    instances = boxed(f, x, bounds)
    energy = instances.energy
    if not isinstance(energy, LayeredEnergy):
        raise TypeError(f"{type(f).__name__} has an energy of its own, expected one of layers")
    count, size = instances.batch.numel(), instances.y_shape.numel()
    like = torch.zeros(count, *instances.y_shape, dtype=torch.float64, device=next(f.parameters()).device)
    if not count:
        return CurvatureBounds(*like.new_zeros(3, *instances.batch))
    widest = max((slope[0].numel() for _, slope in energy.layers(like[:1])), default=1)
    chunk = max(1, ENTRIES // (max(widest, size) * (size if size <= EXPLICIT else 1)))
    indices = torch.arange(count, device=like.device).split(chunk)
    parts = [_bounds(instances.at(index), like[index]) for index in indices]
    return CurvatureBounds(*(torch.cat(part).reshape(instances.batch) for part in zip(*parts, strict=True)))


def _bounds(instances: Boxed, like: Tensor) -> CurvatureBounds:
    energy = instances.energy
    assert isinstance(energy, LayeredEnergy)
    found = ranges(energy, instances.lower, instances.upper, like)
    weights = [_weight(one, z_bar) for one, z_bar in zip(found, cotangents(energy, found), strict=True)]
    bounded = by_matrices if like[0].numel() <= EXPLICIT else by_vectors
    low, high, smoothness = bounded(energy, found, weights, like)
    if energy.curvature is not None:
        middle, reach = _slopes(energy.curvature, instances, like)
        low, high = low + middle - reach, high + middle + reach
    slope = torch.maximum(low.abs(), high.abs()).flatten(1).norm(dim=1)
    strong = like.new_tensor(strong_convexity(energy.curvature, like)).expand(len(like))
    return CurvatureBounds(strong, *(bound.nan_to_num(nan=inf, posinf=inf) for bound in (smoothness, slope)))


def _weight(one: Range, z_bar: Tensor) -> Tensor:
    """max g''(v) · max z̄; nothing where z̄ is nothing, be it at a kink."""
    if one.activation.pieces > 1:
        z_bar = z_bar.unsqueeze(-1)
    return (one.curvature * z_bar).masked_fill(z_bar == 0, 0.0)


def _slopes(curvature: Curvature, instances: Boxed, like: Tensor) -> tuple[Tensor, Tensor]:
    """Q y is within middle ± reach."""
    if instances.lower is None or instances.upper is None:
        return torch.zeros_like(like), torch.full_like(like, inf)
    centre, radius = (instances.upper + instances.lower) / 2, (instances.upper - instances.lower) / 2
    return curvature.slope(centre), magnitude(curvature).slope(radius)


def strong_convexity(curvature: Curvature | None, like: Tensor) -> float:
    """The smallest eigenvalue of Q or, where Q would be too large, of its diagonal part; like: y, (m, *y_shape)."""
    if curvature is None:
        return 0.0
    least = float(curvature.diagonal.min())
    Q = matrix(curvature, like)[0] if like[0].numel() <= EXPLICIT else None
    if Q is None or not bool(Q.isfinite().all()):
        return least if least > 0 else 0.0
    eigenvalues = torch.linalg.eigvalsh(Q)
    return max(least, float(eigenvalues[0] - rounding(len(Q)) * eigenvalues[-1]), 0.0)
