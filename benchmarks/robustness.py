"""2,000 random problems of every kind against independent solvers: what is solved, named, and what is wrong.

    python -m benchmarks.robustness [--quick] [--out FILE]

An error of the objective is relative to the terms that are added to it, a violation to the terms of its row.
An answer is wrong if it is off by more than 1e-6, or if the problem has no solution; the status admits it
unless it says OPTIMAL.
"""

from collections.abc import Callable

import icnn
from tests.solvers.judging import Verdict, judge
from tests.solvers.oracles import oracle
from tests.solvers.random_problems import OUTCOMES, TRAITS, Batch, batches

from ._report import arguments, command, log, machine, table, write

HEAD = ("kind", "problems", "status right", "ray proves it")
WORST = ("worst objective error", "worst violation", "worst certificate", "most iterations")


def main() -> None:
    args = arguments(__doc__ or "", "robustness.md")
    verdicts: list[Verdict] = []
    for batch in batches(100 if args.quick else 2000):
        verdicts += judge(batch, solution_of(batch), [oracle(instance) for instance in batch.instances])
        log.debug("seed %d, %d problems", batch.seed, len(verdicts))
    packages = ("torch", "highspy", "daqp", "clarabel")
    write(
        args.out,
        "# Robustness",
        f"`{command()}`\n\n{machine(packages)}",
        table(
            HEAD + WORST,
            [row(name, [v for v in verdicts if belongs(v)]) for name, belongs in kinds().items()],
        ),
        honesty(verdicts),
    )


def solution_of(batch: Batch) -> icnn.Solution:
    return icnn.solve(batch.problem(), on_failure="zero")


def kinds() -> dict[str, Callable[[Verdict], bool]]:
    """The rows of the table; a trait counts problems that have a solution."""
    chosen: dict[str, Callable[[Verdict], bool]] = {"all": lambda v: True}
    for outcome in OUTCOMES:
        chosen[outcome] = lambda v, outcome=outcome: v.outcome == outcome
    for trait in TRAITS:
        chosen[f"OPTIMAL, {trait}"] = lambda v, trait=trait: v.outcome == "OPTIMAL" and trait in v.traits
    return chosen


def row(name: str, verdicts: list[Verdict]) -> list[object]:
    solved = [v for v in verdicts if v.solved]
    rays = [v.ray for v in verdicts if v.named and v.outcome != "OPTIMAL"]
    measured = ([getattr(v, what) for v in solved] for what in ("error", "violation", "certificate"))
    worst = [f"{max(values):.1e}" if values else "" for values in measured]
    proofs = f"{sum(rays)} of {len(rays)}" if rays else ""
    iterations = max((v.iterations for v in verdicts), default=0)
    return [name, len(verdicts), sum(v.named for v in verdicts), proofs, *worst, iterations]


def honesty(verdicts: list[Verdict]) -> str:
    """How many answers are wrong, and how many of these the status admits."""
    off = [v for v in verdicts if not v.solution]
    wrong = sum(v.wrong for v in verdicts)
    summary = f"Answers that are no solution to 1e-6: {len(off)}. OPTIMAL was claimed for {wrong} of them."
    return "\n".join([summary, *(misnamed(v) for v in verdicts if not v.named)])


def misnamed(v: Verdict) -> str:
    traits = ", ".join(sorted(v.traits)) or "plain"
    return f"- seed {v.seed}, instance {v.index} ({traits}): {v.outcome} was called {v.status}"


if __name__ == "__main__":
    main()
