"""Whether methods of inference agree on energies of one variable, where halving an interval finds any minimiser.

The slope of f(x, y) + φ(y) does not decrease in y, so that the interval between a point where it is negative and one
where it is not holds the minimiser. That asks nothing of icnn but the energy, takes kinks as they come, and is what
every method is measured against. f is to be in float64.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import icnn
from icnn import ConvexNetwork, Status

HALVINGS = 40


class Regularizer(NamedTuple):
    """φ as icnn takes it, written out, and its slope."""

    given: Any
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


NONE = Regularizer(None, torch.zeros_like, torch.zeros_like)
REGULARIZERS = {
    "entropy": Regularizer("entropy", lambda y: torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y), torch.logit),
    "quadratic": Regularizer(icnn.QuadraticRegularizer(1.0, 0.5), lambda y: (y - 0.5) ** 2 / 2, lambda y: y - 0.5),
}


def minimiser(f: ConvexNetwork, x: Tensor, regularizer: Regularizer) -> Tensor:
    """The minimiser (n, 1) of f(x, y) + φ(y) over [0, 1]."""
    with torch.no_grad():
        energy = f.given(x)
    low, high = torch.zeros_like(x[:, :1]), torch.ones_like(x[:, :1])
    for _ in range(HALVINGS):
        y = (0.5 * (low + high)).requires_grad_()
        slope = torch.autograd.grad(energy(y).sum(), y)[0] + regularizer.slope(y.detach())
        y = y.detach()
        low, high = torch.where(slope < 0, y, low), torch.where(slope < 0, high, y)
    return 0.5 * (low + high)


@torch.no_grad()
def value(f: ConvexNetwork, x: Tensor, y: Tensor, regularizer: Regularizer) -> Tensor:
    """f(x, y) + φ(y), (n,)."""
    return f(x, y) + regularizer.value(y).squeeze(-1)


def agreement(f: ConvexNetwork, x: Tensor, limits: Mapping[str, tuple[int | None, int]]) -> list[dict[str, Any]]:
    """For each regulariser and method that fits, how far its minimisers and its minima are from those of halving.

    limits: for each method the points of x that it gets, None for all, and its iterations. Of gaps the largest that is
    finite is kept: they are not where a program was not solved.
    """
    found = []
    for name, regularizer in REGULARIZERS.items():
        y = minimiser(f, x, regularizer)
        least = value(f, x, y, regularizer)
        for method, (points, steps) in limits.items():
            if method == "exact" and name == "entropy":
                continue
            options: dict[str, Any] = dict(regularizer=regularizer.given, method=method, max_iter=steps)
            solution = icnn.argmin(f, x[:points], gradient="none", on_failure="zero", **options)
            count = len(solution.y)
            distance = (solution.y - y[:count]).abs()
            found.append(
                {
                    "regularizer": name,
                    "method": method,
                    "points": count,
                    "certified": int((solution.status == Status.OPTIMAL).sum()),
                    "evaluations": solution.evaluations.double().mean().item(),
                    "most": solution.evaluations.max().item(),
                    "mean": distance.mean().item(),
                    "y": distance.max().item(),
                    "value": (solution.value - least[:count]).abs().max().item(),
                    "gap": solution.gap[solution.gap.isfinite()].max().item(),
                }
            )
    return found
