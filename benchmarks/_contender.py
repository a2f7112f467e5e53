"""What is measured: a library with its options, ready to solve one case; ours, and what adapters to others share."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import icnn

from ._problems import Case, Data, Point


class Contender(ABC):
    """One library with one choice of its options, ready to solve one case."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    speaks_torch: ClassVar[bool] = True
    case: Case

    @classmethod
    def fits(cls, n: int, batch: int) -> bool:
        """Whether the library is measured on cases of this size."""
        return n <= 1000

    @abstractmethod
    def __init__(self, case: Case) -> None: ...

    @abstractmethod
    def forward(self) -> object:
        """Solve, in the way that asks for no gradient."""

    @abstractmethod
    def both(self) -> object:
        """Solve, and the gradient of |x - target|^2 / 2 for the data wanted."""

    @abstractmethod
    def answer(self) -> tuple[Point, Data]:
        """The point and the gradient."""

    def point(self) -> Tensor:
        """The solution alone, (batch, n)."""
        return self.answer()[0].x

    def admits(self) -> list[bool]:
        """For each instance, whether the library itself says that the last answer is no solution."""
        return [False] * self.case.batch


class Layer(Contender):
    """A library that speaks torch."""

    def __init__(self, case: Case) -> None:
        self.case = case

    @abstractmethod
    def solve(self, data: Data) -> Point:
        """The layer, differentiable in x."""

    def forward(self) -> Point:
        with torch.no_grad():
            return self.solve(self.case.data)

    def both(self) -> tuple[Point, Data]:
        case = self.case
        data = {k: t.detach().requires_grad_() if k in case.wanted else t for k, t in case.data.items()}
        point = self.solve(data)
        (0.5 * (point.x - case.target).square().sum()).backward()
        grads = {name: data[name].grad for name in case.wanted}
        return point, {k: torch.zeros_like(data[k]) if g is None else g for k, g in grads.items()}

    def point(self) -> Tensor:
        return self.forward().x.reshape(self.case.batch, -1)

    def answer(self) -> tuple[Point, Data]:
        point, gradients = self.both()
        return Point(*(t.detach().reshape(self.case.batch, -1) for t in point)), gradients


class Rows(NamedTuple):
    """The same problem with bounds as rows of G, dense matrices, as most libraries want it."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor


def rows(case: Case, data: Data) -> Rows:
    """Differentiable in the data; a matrix that the batch shares has no batch dimension."""
    n, p = case.n, data["p"]
    eye = torch.eye(n, dtype=p.dtype)
    G = [data["G"]] if "G" in data else [sign * eye for sign, _ in bounds(data)] or [eye[:0]]
    A, b = data.get("A", p.new_zeros(0, n)), data.get("b", p.new_zeros(case.batch, 0))
    Q = data["Q"] if data["Q"].dim() > 1 else torch.diag(data["Q"])
    return Rows(Q, p, torch.cat(G, -2), right_side(case, data), A, b)


def right_side(case: Case, data: Data) -> Tensor:
    """h of the rows: that of G, or -lower and upper."""
    h = [data["h"]] if "h" in data else [sign * bound for sign, bound in bounds(data)] or [data["p"][..., :0]]
    return torch.cat([t.expand(case.batch, -1) for t in h], -1)


def bounds(data: Data) -> list[tuple[float, Tensor]]:
    """The bounds that are there, with the sign of their row."""
    return [(sign, data[name]) for sign, name in ((-1.0, "lower"), (1.0, "upper")) if name in data]


def full(case: Case, data: Data) -> Rows:
    """With a batch dimension everywhere."""
    return Rows(*(t if t.shape[:1] == (case.batch,) and t.dim() == d else t.expand(case.batch, *t.shape)
                  for t, d in zip(rows(case, data), (3, 2, 3, 2, 3, 2), strict=True)))  # fmt: skip


def point(case: Case, x: Tensor, nu: Tensor, multipliers: Tensor) -> Point:
    """The multipliers of the rows as those of G, lower and upper."""
    sizes = [case.size[1], case.n * ("lower" in case.data), case.n * ("upper" in case.data)]
    return Point(x, nu, *multipliers.split(sizes, -1))


class Ours(Layer):
    name = "icnn"

    def __init__(self, case: Case, **options: Any) -> None:
        super().__init__(case)
        self.options = options

    @classmethod
    def fits(cls, n: int, batch: int) -> bool:
        return True

    def solve(self, data: Data) -> Point:
        solution = icnn.solve(icnn.QP(**data), **self.options)
        return Point(solution.x, solution.nu, solution.lam, solution.lam_lower, solution.lam_upper)
