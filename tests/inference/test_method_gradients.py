"""Gradients of every method in the weights, x, the linear term and the data of every set, by finite differences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import icnn

STEP = 1e-5
N, BATCH = 4, 3
Data = dict[str, Tensor]


class Slopes(NamedTuple):
    """The derivative of a loss along one direction: by autograd, and from both sides by differences."""

    ours: float
    ahead: float
    behind: float

    @property
    def at_a_kink(self) -> bool:
        return abs(self.ahead - self.behind) > 1e-3 * (abs(self.ahead) + abs(self.behind) + 1e-2)

    @property
    def error(self) -> float:
        central = 0.5 * (self.ahead + self.behind)
        return abs(self.ours - central) / (1e-1 + abs(central))


def rand(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def box() -> Data:
    y = randn(BATCH, N)
    return dict(lower=y - rand(BATCH, N, low=0.1, high=0.8), upper=y + rand(BATCH, N, low=0.1, high=0.8))


def polytope() -> Data:
    y, G = randn(BATCH, N), randn(BATCH, 3, N)
    h = (G @ y.unsqueeze(-1)).squeeze(-1) + rand(BATCH, 3, high=0.4)
    return dict(G=G, h=h, lower=y - 0.7, upper=y + 0.9)


def with_equality() -> Data:
    y, G, A = randn(BATCH, N), randn(2, N), randn(BATCH, 1, N)
    h, b = y @ G.mT + rand(BATCH, 2, high=0.4), (A @ y.unsqueeze(-1)).squeeze(-1)
    return dict(G=G, h=h, A=A, b=b, lower=y - 0.7, upper=y + 0.9)


SETS: dict[str, tuple[Callable[..., Any], Callable[[], Data]]] = {
    "box": (icnn.Box, box),
    "simplex": (icnn.Simplex, lambda: dict(total=rand(BATCH, low=0.5, high=2.0))),
    "ball": (icnn.Ball, lambda: dict(radius=rand(BATCH, low=0.4, high=1.2), centre=randn(BATCH, N))),
    "polytope": (icnn.Polytope, polytope),
    "polytope with an equality": (icnn.Polytope, with_equality),
}
KINDS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "LP": ("relu", {}, None),
    "QP by a quadratic term": ("leaky_relu", dict(quadratic=2, strong_convexity=0.3), None),
    "QP by a regulariser": ("relu", {}, icnn.QuadraticRegularizer(0.7, 0.2)),
    "smooth": ("softplus", {}, None),
    "smooth and regularised": ("softplus", {}, "quadratic"),
    "smooth with entropy": ("softplus", {}, icnn.EntropyRegularizer(0.5)),
    "entropy": ("relu", {}, icnn.EntropyRegularizer(0.5)),
    "maxout": (icnn.maxout(2), {}, "quadratic"),
}
METHOD_OF = {
    "LP": ["exact"],
    "QP by a quadratic term": ["exact"],
    "QP by a regulariser": ["exact", "bundle"],
    "smooth": ["newton"],
    "smooth and regularised": ["newton"],
    "smooth with entropy": ["newton"],
    "entropy": ["bundle"],
    "maxout": ["exact"],
}
EVERYWHERE = [("LP", "exact"), ("smooth", "newton")]  # the others go the same ways
COMBINATIONS = [
    (kind, method, name)
    for kind, methods in METHOD_OF.items()
    for method in methods
    for name in SETS
    if name == "box" or (kind, method) in EVERYWHERE
]


class Inference:
    """One problem whose data are leaves."""

    def __init__(self, kind: str, name: str) -> None:
        activation, options, self.regularizer = KINDS[kind]
        self.f = icnn.PICNN(3, N, (5, 4), activation, **options).double()
        with torch.no_grad():
            for parameter in self.f.parameters():
                parameter.mul_(1.5)
        self.make, draw = SETS[name]
        data = draw()
        self.x, self.linear, self.loss = randn(BATCH, 3), 0.3 * randn(BATCH, N), randn(BATCH, N)
        self.groups: dict[str, list[Tensor]] = {"weights": list(self.f.parameters())}
        self.groups |= {key: [t] for key, t in {"x": self.x, "linear": self.linear, **data}.items()}
        self.data = data
        for t in (self.x, self.linear, *data.values()):
            t.requires_grad_()

    def solve(self, method: Any, gradient: Any = "implicit", **options: Any) -> icnn.ArgminSolution:
        options = dict(max_iter=100 if method == "bundle" else None, tol=1e-10) | options
        domain = self.make(**self.data)
        return icnn.argmin(
            self.f,
            self.x,
            domain,
            regularizer=self.regularizer,
            linear=self.linear,
            method=method,
            gradient=gradient,
            **options,
        )

    def of_y(self, method: Any, gradient: Any = "implicit", **options: Any) -> Tensor:
        return (self.loss * self.solve(method, gradient, **options).y).sum()

    def slopes(self, loss: Callable[[], Tensor], here: Tensor, step: float = STEP) -> dict[str, Slopes]:
        """Of each group of data, along a random direction of its own."""
        flat = [t for tensors in self.groups.values() for t in tensors]
        bars = iter(torch.autograd.grad(here, flat, materialize_grads=True))
        return {name: self._along([(t, next(bars)) for t in group], loss, step) for name, group in self.groups.items()}

    @torch.no_grad()
    def _along(self, pairs: list[tuple[Tensor, Tensor]], loss: Callable[[], Tensor], step: float) -> Slopes:
        kept, directions = [t.clone() for t, _ in pairs], [randn(*t.shape) for t, _ in pairs]
        values = []
        for length in (0.0, step, -step):
            for (t, _), d, old in zip(pairs, directions, kept, strict=True):
                t.copy_(old + length * d)
            values.append(float(loss()))
        for (t, _), old in zip(pairs, kept, strict=True):
            t.copy_(old)
        ours = sum(float((bar * d).sum()) for (_, bar), d in zip(pairs, directions, strict=True))
        return Slopes(ours, (values[1] - values[0]) / step, (values[0] - values[2]) / step)


@pytest.mark.parametrize(("kind", "method", "name"), COMBINATIONS, ids=map(" / ".join, COMBINATIONS))
def test_finite_differences(kind: str, method: str, name: str) -> None:
    found: dict[str, float] = {}
    for _ in range(2):
        problem = Inference(kind, name)
        if name != "box":  # x and the linear term reach the energy of every set in one way
            del problem.groups["x"], problem.groups["linear"]
        slopes = problem.slopes(lambda p=problem: p.of_y(method, "none"), problem.of_y(method))
        off_kinks = {group: each.error for group, each in slopes.items() if not each.at_a_kink}
        found |= {group: max(error, found.get(group, 0.0)) for group, error in off_kinks.items()}
        if set(found) == set(problem.groups):
            break
    assert set(found) == set(problem.groups), "no group stands at kinks alone"
    assert max(found.values()) <= 1e-5, found
