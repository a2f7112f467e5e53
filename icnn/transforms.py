"""What convex analysis does to a function: its conjugate, whose gradient inverts the gradient of the function."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .inference.flat import flat_energy
from .inference.implicit import first_order
from .inference.quasi_newton import minimise
from .networks import ConvexNetwork
from .solvers import SolverError, Status, failure_message

ROUNDING = 256  # of a residual, in units of the precision
ENOUGH = 500  # iterations


@dataclass(frozen=True, eq=False)
class Conjugate:
    """f* at a batch of p; value is differentiable (once), the rest is not.

    value: pᵀy − f(y), (*batch,). y: the maximiser found, (*batch, *y_shape). residual: the largest entry of
    |p − ∇f(y)|, (*batch,). status: OPTIMAL where the residual is within the tolerance; MAX_ITERATIONS, NUMERICAL (no
    further progress in this precision) or NONFINITE_INPUT where not: there value is only a lower bound of f*(p).
    """

    value: Tensor
    y: Tensor
    residual: Tensor
    status: Int[Tensor, "..."]
    iterations: Int[Tensor, "..."]


def conjugate(
    f: ConvexNetwork,
    p: Float[Tensor, "..."],
    x: Float[Tensor, "..."] | None = None,
    *,
    start: Float[Tensor, "..."] | None = None,
    tol: float = 1e-8,
    max_iter: int | None = None,
    on_failure: Literal["raise", "nan", "zero"] = "raise",
) -> Conjugate:
    """The convex conjugate of a network, f*(p) = sup_y pᵀy − f(x, y), for a batch of p at once.

    The maximiser satisfies ∇f(y) = p: it is ∇f*(p), the inverse of the gradient map. By Danskin's theorem the gradient
    of f*(p) is y with respect to p and −∇f(x, y) with respect to the weights and x, y held fixed.

    f: a network without kinks in y, convex now; give it a quadratic term or strong convexity, or the supremum is
        infinite for p out of the range of ∇f.
    p: (*batch, *y_shape). x: (*batch, *x_shape) for a network with x.
    start: where the search starts, as p; by default p itself.
    tol: of the residual, relative to 1 + max |p|, not below rounding.
    max_iter: a budget of iterations of limited-memory BFGS; to end for want of it is then no failure, and residual and
        status tell. By default 500, and an instance that needs more has failed.
    on_failure: "raise", "nan" to fill value and y of failed instances, "zero" to leave their best value and y without
        a gradient.
    Returns a Conjugate.
    Raises ValueError for an f that has kinks or is not convex now, and for wrong shapes; SolverError as asked for.
    Source: Rockafellar, Convex Analysis, 1970, theorems 23.5 and 26.5; Liu, Nocedal 1989 (the method).
    """
    _check(f, p, x, start, on_failure)
    batch, parameter = p.shape[: p.ndim - len(f.y_shape)], next(f.parameters())
    energy = flat_energy(f.given(x), batch, torch.Size(f.y_shape), parameter)
    target, first = (part.detach().double().reshape(batch.numel(), -1) for part in (p, p if start is None else start))
    tol, budget = max(tol, ROUNDING * torch.finfo(p.dtype).eps), ENOUGH if max_iter is None else max_iter
    limit = tol * (1 + torch.linalg.vector_norm(target, torch.inf, -1))

    def negative(y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        tangent = (energy if len(index) == len(target) else energy.at(index)).tangent(y)
        return tangent.value - torch.linalg.vecdot(target[index], y), tangent.slope - target[index]

    found, iterations = minimise(negative, first, limit, budget, torch.finfo(p.dtype).eps)
    residual = torch.linalg.vector_norm(found.slope, torch.inf, -1)
    status = torch.full_like(iterations, int(Status.NUMERICAL))
    status[iterations == budget] = int(Status.MAX_ITERATIONS)
    status[residual <= limit] = int(Status.OPTIMAL)
    for given in [target] if x is None else [target, x.reshape(len(target), -1)]:
        status[~given.isfinite().all(-1)] = int(Status.NONFINITE_INPUT)
    failed = status != Status.OPTIMAL
    if max_iter is not None:
        failed = failed & (status != Status.MAX_ITERATIONS)
    if on_failure == "raise" and failed.any():
        raise SolverError(failure_message(status.masked_fill(~failed, int(Status.OPTIMAL)).reshape(batch)))
    y, bad = found.y, failed.unsqueeze(-1)
    at, slope = y, p.double().reshape(batch.numel(), -1)
    if failed.any():  # keeps nan out of the gradients of the weights
        at, slope = at.masked_fill(bad, 0.0), slope.masked_fill(bad, 0.0)
        if x is not None:
            x = x.masked_fill(failed.reshape(batch + (1,) * len(f.x_shape or ())), 0.0)
            energy = flat_energy(f.given(x), batch, torch.Size(f.y_shape), parameter)
    value = torch.linalg.vecdot(slope, at) - energy(at)
    value = torch.where(failed, torch.nan if on_failure == "nan" else -found.value, value)
    if on_failure == "nan":
        y = y.masked_fill(bad, torch.nan)
    return Conjugate(
        first_order(value).reshape(batch).to(p.dtype),
        y.reshape(p.shape).to(p.dtype),
        *(part.reshape(batch) for part in (residual, status, iterations)),
    )


def _check(f: ConvexNetwork, p: Tensor, x: Tensor | None, start: Tensor | None, on_failure: str) -> None:
    if any(activation.piecewise_linear for activation in f.nonlinear):
        raise ValueError(f"f has kinks (activation {f.activation.name!r}), expected a network that is smooth in y")
    f.check_convex()
    if p.shape[p.ndim - len(f.y_shape) :] != torch.Size(f.y_shape):
        raise ValueError(f"p has shape {tuple(p.shape)}, expected (*batch, {', '.join(map(str, f.y_shape))})")
    if start is not None and start.shape != p.shape:
        raise ValueError(f"start has shape {tuple(start.shape)}, expected that of p, {tuple(p.shape)}")
    if x is not None and x.shape[: x.ndim - len(f.x_shape or ())] != p.shape[: p.ndim - len(f.y_shape)]:
        raise ValueError(f"x has shape {tuple(x.shape)} and p {tuple(p.shape)}, expected equal batch dimensions")
    if on_failure not in ("raise", "nan", "zero"):
        raise ValueError(f"on_failure must be one of 'raise', 'nan', 'zero'; got {on_failure!r}")
