"""How far inference is from the minimum after so many evaluations of the network: bundles and gradient descent."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import icnn
from experiments._table import markdown_table

BUDGETS = (1, 2, 3, 5, 7, 10, 15, 20, 30)
EXACT = dict(method="bundle", max_iter=100, tol=1e-12)
ROUNDING = 1e-12


@torch.no_grad()
def gaps(
    f: icnn.ConvexNetwork, x: Tensor, methods: Mapping[str, str | icnn.Descent], start: Tensor | None = None
) -> dict[str, list[dict[str, float]]]:
    """For each method and budget of iterations: mean evaluations, and f - H above its minimum, median and worst.

    All methods minimise the same f(x, y) - H(y) over the unit box, from the same start; the minimum is the lower bound
    that a long run of bundles proves.
    """

    def solved(**options) -> icnn.ArgminSolution:
        asked = dict(regularizer="entropy", gradient="none", on_failure="zero", start=start)
        return icnn.argmin(f, x, **asked | options)  # pyright: ignore[reportArgumentType]

    exact = solved(**EXACT)
    minimum = exact.value - exact.gap
    found = {}
    for name, method in methods.items():
        solutions = [solved(method=method, max_iter=budget) for budget in BUDGETS]
        found[name] = [
            {
                "iterations": budget,
                "evaluations": solution.evaluations.double().mean().item(),
                "median": max((solution.value - minimum).median().item(), ROUNDING),
                "worst": max((solution.value - minimum).max().item(), ROUNDING),
            }
            for budget, solution in zip(BUDGETS, solutions, strict=True)
        ]
    return found


def gap_table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """What `gaps` found, one row for each method and budget."""
    head = ("method, iterations", "evaluations", "median", "worst")
    rows = [
        (
            f"{name}, {point['iterations']}",
            f"{point['evaluations']:.1f}",
            *(f"{point[key]:.0e}" for key in ("median", "worst")),
        )
        for name, points in found.items()
        for point in points
    ]
    return markdown_table(head, rows)
