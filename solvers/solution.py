"""What a solve returns: values, multipliers, and for each instance a status that explains itself."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from jaxtyping import Bool, Float, Int
from torch import Tensor

Method = Literal["active_set", "closed_form", "bundle", "primal", "dual", "full", "piqp", "clarabel", "highs"]
METHODS: tuple[Method, ...] = get_args(Method)


class Status(IntEnum):
    """How the solve of one instance ended."""

    OPTIMAL = 0
    MAX_ITERATIONS = 1
    PRIMAL_INFEASIBLE = 2
    DUAL_INFEASIBLE = 3
    NONCONVEX = 4
    NUMERICAL = 5
    NONFINITE_INPUT = 6

    @property
    def explanation(self) -> str:
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Status.OPTIMAL: "solved: the certificate is below the tolerance",
    Status.MAX_ITERATIONS: "the iteration limit came before the tolerance was reached",
    Status.PRIMAL_INFEASIBLE: "no point satisfies the constraints; ray holds a Farkas certificate",
    Status.DUAL_INFEASIBLE: "the objective is unbounded below; ray.x is a direction of descent without end",
    Status.NONCONVEX: "Q has a negative eigenvalue; ray.x is a direction of negative curvature",
    Status.NUMERICAL: "rounding stopped the progress before the tolerance was reached",
    Status.NONFINITE_INPUT: "the data contain nan, or inf where a finite number is needed",
}


class Residuals(NamedTuple):
    """The certificate, each entry (*batch,) and scaled by the size of its terms; see `certificate`."""

    stationarity: Tensor
    primal: Tensor
    sign: Tensor
    complementarity: Tensor
    gap: Tensor

    @property
    def max(self) -> Tensor:
        """The largest of the five, (*batch,)."""
        worst = self[0]
        for residual in self[1:]:
            worst = worst.maximum(residual)
        return worst


class Ray(NamedTuple):
    """A certificate of failure, zero for the instances that need none.

    PRIMAL_INFEASIBLE: A'nu + G'lam - lam_lower + lam_upper = 0 with lam, lam_lower, lam_upper >= 0 and
    b'nu + h'lam - lower'lam_lower + upper'lam_upper < 0 (absent rows carry zero).
    DUAL_INFEASIBLE: Q x = 0, p'x < 0, A x = 0, G x <= 0, x >= 0 where lower and x <= 0 where upper is finite.
    NONCONVEX: x'Qx < 0.
    """

    x: Tensor
    nu: Tensor
    lam: Tensor
    lam_lower: Tensor
    lam_upper: Tensor


@dataclass(frozen=True, eq=False)
class Solution:
    """The solution of a batch of programs; every field has the batch dimensions of the problem.

    x, nu, lam, lam_lower, lam_upper, s = h - G x and objective are differentiable; the last two are computed when
    first asked for, by `derived`. status holds `Status` codes; degenerate marks instances where a constraint is
    weakly active or the KKT operator singular, so that the derivative is one-sided or not unique and the
    minimum-norm one is returned; solved_by is the place of the method in METHODS. For `EntropyBundle`, x = (y, t).
    Multipliers of bounds that were not given have zero length.
    """

    x: Float[Tensor, "*batch n"]
    nu: Float[Tensor, "*batch q"]
    lam: Float[Tensor, "*batch m"]
    lam_lower: Float[Tensor, "*batch lower"]
    lam_upper: Float[Tensor, "*batch upper"]
    status: Int[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    residuals: Residuals
    degenerate: Bool[Tensor, "*batch"]
    ray: Ray
    solved_by: Int[Tensor, "*batch"]
    derived: Callable[[], tuple[Tensor, Tensor]]

    @cached_property
    def s(self) -> Float[Tensor, "*batch m"]:
        """h - G x."""
        return self.derived()[0]

    @cached_property
    def objective(self) -> Float[Tensor, "*batch"]:
        """phi(x) + p'x."""
        return self.derived()[1]

    @property
    def method(self) -> str:
        """What solved the batch: names of METHODS, more than one where one left instances to another."""
        return ", ".join(METHODS[i] for i in sorted(set(self.solved_by.flatten().tolist())))

    def __repr__(self) -> str:
        codes = self.status.flatten().tolist()
        counts = ", ".join(f"{codes.count(code)} {Status(code).name}" for code in sorted(set(codes)))
        return f"Solution(x: {tuple(self.x.shape)}, status: {counts}, method: {self.method})"


class SolverError(RuntimeError):
    """Some instances have no solution that can be trusted; `solution` carries what there is."""

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


def failure_message(status: Tensor) -> str:
    """One line per kind of failure, naming the batch indices (at most eight)."""
    lines = []
    for code in sorted(set(status[status != Status.OPTIMAL].tolist())):
        indices = [tuple(index) for index in (status == code).nonzero()[:8].tolist()]
        where = f" at batch indices {indices}" if indices != [()] else ""
        lines.append(f"{Status(code).name}{where}: {Status(code).explanation}")
    return "; ".join(lines)
