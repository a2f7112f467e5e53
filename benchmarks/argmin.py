"""Random problems of `icnn.argmin`, every method on each, against independent minima: right, admitted, or wrong.

    python -m benchmarks.argmin [--cases 500] [--seed 0] [--quick] [--out FILE]

A network, a set, a regulariser, a linear term and a batch are drawn by seed. The minima are those of cone programs that
are built from the weights alone and solved by Clarabel. An answer is right if its objective, taken again by the module
and numpy, is within 1e-6 (1 + |minimum|) and its violation within 1e-8, or if it says that there is no minimum. It is
admitted if it is not right and the status is not OPTIMAL, nor a reason that does not hold. It is wrong otherwise, or if
value - gap is above the minimum by more than 1e-8 (1 + |minimum|). First-order methods get 100 steps, 40 where they
project by programs, and reach kinks slowly. Verdicts are kept beside the report: a run that was stopped goes on.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from ._argmin_cases import NETWORKS, REGULARIZERS, SETS, generate
from ._argmin_verdicts import METHODS, Verdict, judge
from ._report import command, log, machine, parser, table, write

KINDS = ("piecewise linear", "smooth", "other")
HEAD = (
    "answers",
    "right",
    "admitted",
    "wrong",
    "NUMERICAL",
    "worst error if OPTIMAL",
    "worst bound",
    "worst violation",
)


def main() -> None:
    options = parser(__doc__ or "", "argmin.md")
    options.add_argument("--cases", type=int, default=500, help="calls, of 1 to 5 instances (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the first (default: %(default)s)")
    args = options.parse_args()
    torch.set_num_threads(1)
    count = 25 if args.quick else args.cases
    verdicts = judged(range(args.seed, args.seed + count), args.out.with_suffix(".jsonl"))
    instances = {(v.seed, v.index): v.outcome for v in verdicts}
    bounded = sum(outcome == "OPTIMAL" for outcome in instances.values())
    write(
        args.out,
        "# Every method of argmin",
        f"`{command()}`\n\n{machine(('torch', 'clarabel'))}",
        f"{count} calls, {len(instances)} instances, of which {bounded} have a minimum. {summary(verdicts)}",
        "By method and kind of network; `other` is neither piecewise linear nor twice differentiable:",
        table(("method", "network", *HEAD), list(rows(verdicts, "kind", KINDS))),
        "By method and set:",
        table(("method", "set", *HEAD), list(rows(verdicts, "domain", SETS))),
        "All methods together:",
        table(("", *HEAD), [[name, *row(of)] for name, of in alike(verdicts)]),
        "Answers that are wrong:",
        "\n".join(shown(v) for v in verdicts if v.wrong) or "none",
    )


def judged(seeds: range, path: Path) -> list[Verdict]:
    """All verdicts; those that an earlier run left in the file are not made again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = {seed: [Verdict(**fields) for fields in found] for seed, found in map(json.loads, lines)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        if seed not in known:
            known[seed] = list(judge(generate(seed)))
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([seed, [asdict(v) for v in known[seed]]]) + "\n")
            log.info("seed %d, %d answers", seed, len(known[seed]))
    return [v for seed in seeds for v in known[seed]]


def summary(verdicts: Sequence[Verdict]) -> str:
    right, wrong = sum(v.right and not v.wrong for v in verdicts), sum(v.wrong for v in verdicts)
    admitted = len(verdicts) - right - wrong
    return f"Of {len(verdicts)} answers {right} are right, {admitted} are not and admit it, {wrong} are wrong."


def rows(verdicts: Sequence[Verdict], field: str, values: Sequence[str]) -> Iterator[list[object]]:
    for method in METHODS:
        for value in values:
            of = [v for v in verdicts if v.method == method and getattr(v, field) == value]
            if of:
                yield [method, value, *row(of)]


def alike(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, list[Verdict]]]:
    def has(field: str, value: str, v: Verdict) -> bool:
        return getattr(v, field) == value

    kinds: dict[str, Callable[[Verdict], bool]] = {"all": lambda v: True}
    for field, values in (("network", NETWORKS), ("regularizer", REGULARIZERS)):
        kinds |= {f"{field} {value}": partial(has, field, value) for value in values}
    kinds["unbounded below"] = partial(has, "outcome", "DUAL_INFEASIBLE")
    for name, belongs in kinds.items():
        yield name, [v for v in verdicts if belongs(v)]


def row(verdicts: Sequence[Verdict]) -> list[object]:
    """Counts, and the worst of what was measured where there is a minimum."""
    bounded = [v for v in verdicts if v.outcome == "OPTIMAL"]
    claimed = [v.error for v in bounded if v.status == "OPTIMAL"]
    measured = (claimed, [max(v.excess, 0.0) for v in bounded], [v.violation for v in verdicts])
    worst = [f"{max(values):.1e}" if values else "" for values in measured]
    wrong, right = sum(v.wrong for v in verdicts), sum(v.right and not v.wrong for v in verdicts)
    numerical = sum(v.status == "NUMERICAL" for v in verdicts)
    return [len(verdicts), right, len(verdicts) - right - wrong, wrong, numerical, *worst]


def shown(v: Verdict) -> str:
    facts = f"{v.network}, {v.domain}, {v.regularizer}"
    numbers = f"error {v.error:.1e}, violation {v.violation:.1e}, bound {v.excess:+.1e}"
    return f"- seed {v.seed}, instance {v.index} ({facts}): {v.method} said {v.status} of {v.outcome}; {numbers}"


if __name__ == "__main__":
    main()
