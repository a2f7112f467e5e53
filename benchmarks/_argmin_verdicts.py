"""Every method on a random problem, judged by the independent minimum: right, wrong and admitted, or wrong."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import icnn
from icnn import Status

from ._argmin_cases import Case
from ._argmin_oracles import Answer, oracle

METHODS = ("exact", "bundle", "newton", "quasi_newton", "momentum", "gradient", "adam")
FIRST_ORDER = ("momentum", "gradient", "adam")
STEPS = 100  # of first-order methods
BY_PROGRAM = 40  # and on sets onto which they project by a program
RIGHT = 1e-6  # of the objective, relative to 1 + |minimum|
FEASIBLE = 1e-8
PROVED = 1e-8  # by which a lower bound may be above the minimum, relative: two solvers are as far apart


@dataclass(frozen=True)
class Verdict:
    """One method on one instance. error: of the objective of y; excess: of the lower bound over the minimum."""

    seed: int
    index: int
    method: str
    kind: str
    network: str
    domain: str
    regularizer: str
    outcome: str
    status: str
    error: float
    violation: float
    excess: float
    iterations: int
    seconds: float

    @property
    def right(self) -> bool:
        """The answer is the minimiser, or says why there is none."""
        if self.outcome != "OPTIMAL":
            return self.status == self.outcome
        return self.error <= RIGHT and self.violation <= FEASIBLE

    @property
    def admitted(self) -> bool:
        """Wrong, and the status says that it need not be right."""
        return not self.right and self.status != "OPTIMAL" and (self.outcome != "OPTIMAL" or not self.false_alarm)

    @property
    def false_alarm(self) -> bool:
        """A reason was named for which there is no cause."""
        return self.outcome == "OPTIMAL" and self.status in ("PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE", "NONFINITE_INPUT")

    @property
    def unproved(self) -> bool:
        """The lower bound is above the minimum."""
        return self.outcome == "OPTIMAL" and not self.excess <= PROVED

    @property
    def wrong(self) -> bool:
        """What a user who trusts the status, or the gap, would be misled by."""
        return self.unproved or (not self.right and not self.admitted)


def judge(case: Case, methods: tuple[str, ...] = METHODS, steps: int = STEPS) -> Iterator[Verdict]:
    """Verdicts of all methods that accept the problem, on all instances; steps: of first-order methods at most."""
    answers = [oracle(case, index) for index in range(len(case.sets))]
    for method in methods:
        start = time.perf_counter()
        try:
            solution = solved(case, method, steps)
        except ValueError:
            continue
        seconds = (time.perf_counter() - start) / len(answers)
        yield from (verdict(case, method, solution, index, answer, seconds) for index, answer in enumerate(answers))


def solved(case: Case, method: str, steps: int) -> icnn.ArgminSolution:
    budget = min(steps, BY_PROGRAM) if case.domain.startswith("polytope") else steps
    max_iter = budget if method in FIRST_ORDER else None
    return case.solve(method=method, gradient="none", on_failure="zero", max_iter=max_iter)


def verdict(
    case: Case, method: str, solution: icnn.ArgminSolution, index: int, answer: Answer, seconds: float
) -> Verdict:
    """The value is taken again, by the module and numpy, and so is the violation."""
    y = solution.y.detach().reshape(len(case.sets), -1)[index].numpy()
    value, gap, status, iterations = (
        t.detach().flatten()[index].item() for t in (solution.value, solution.gap, solution.status, solution.iterations)
    )
    scale = 1 + abs(answer.primal)
    finite = answer.outcome == "OPTIMAL"
    lower = value - gap if math.isfinite(gap) else -math.inf
    return Verdict(
        seed=case.seed,
        index=index,
        method=method,
        kind=case.kind,
        network=case.network,
        domain=case.domain,
        regularizer=case.regularizer,
        outcome=answer.outcome,
        status=Status(int(status)).name,
        error=abs(case.objective(index, y) - answer.dual) / scale if finite else math.nan,
        violation=case.sets[index].violation(y),
        excess=(lower - answer.primal) / scale if finite else -math.inf,
        iterations=int(iterations),
        seconds=seconds,
    )
