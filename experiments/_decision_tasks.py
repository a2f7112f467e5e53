"""Linear programs whose costs depend on features, with synthetic data: shortest path and fractional knapsack.

Costs as in Elmachtoub and Grigas (2022), section 6: features x ~ N(0, I), and for each of n coefficients

    ((B x)_j / sqrt(p) + 3)^degree + 1, times noise uniform on [1 - w, 1 + w],      B_jk in {0, 1} with equal odds,

divided by a constant that makes them about one. No linear predictor can be right unless degree = 1.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from icnn.losses import LinearDecision

FEATURES = 5


@dataclass(frozen=True)
class Task:
    """One feasible set, and costs for it: sign is -1 where values are to be large."""

    name: str
    decision: LinearDecision
    size: int
    sign: float


@dataclass(frozen=True)
class Data:
    """Features (count, FEATURES), true costs, their means given the features, and the best decisions, (count, n)."""

    features: Tensor
    costs: Tensor
    expected: Tensor
    best: Tensor


def shortest_path(side: int) -> Task:
    """From one corner of a grid of nodes to the other, right and down, as a flow of one unit.

    The balance of the last node follows from the others and is left out.
    """
    node = torch.arange(side**2).reshape(side, side)
    right, down = torch.stack((node[:, :-1], node[:, 1:]), -1), torch.stack((node[:-1], node[1:]), -1)
    start, end = torch.cat((right.reshape(-1, 2), down.reshape(-1, 2))).mT
    inner = torch.arange(side**2 - 1).unsqueeze(-1)
    A = (start == inner).double() - (end == inner).double()
    b = (inner.squeeze(-1) == 0).double()
    return Task("shortest path", LinearDecision(A=A, b=b, lower=0.0, method="dual"), len(start), 1.0)


def knapsack(items: int, seed: int) -> Task:
    """Fractions of items of weight 3 to 8, together at most 30 % of all weight."""
    weight = 3 + 5 * torch.rand(1, items, dtype=torch.float64, generator=Generator().manual_seed(seed))
    decision = LinearDecision(weight, 0.3 * weight.sum(-1), lower=0.0, upper=1.0, method="dual")
    return Task("knapsack", decision, items, -1.0)


def draw(task: Task, degree: int, noise: float, counts: tuple[int, ...], seed: int) -> list[Data]:
    """Independent sets of these sizes, from one B."""
    generator = Generator().manual_seed(seed)
    B = torch.randint(2, (task.size, FEATURES), generator=generator).double()
    features = torch.randn(sum(counts), FEATURES, dtype=torch.float64, generator=generator)
    factor = 1 + noise * (2 * torch.rand(sum(counts), task.size, dtype=torch.float64, generator=generator) - 1)
    expected = task.sign * ((features @ B.mT / FEATURES**0.5 + 3) ** degree + 1) / 3.5**degree
    costs = expected * factor
    parts = (features, costs, expected, task.decision(costs))
    return [Data(*part) for part in zip(*(t.split(counts) for t in parts), strict=True)]
