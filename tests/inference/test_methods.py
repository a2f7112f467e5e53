"""Every method on 50 random problems, judged by independent minima; planted failures, and what the door promises."""

from collections import Counter

import pytest
import torch

from benchmarks._argmin_cases import NETWORKS, REGULARIZERS, SETS, Case, generate
from benchmarks._argmin_oracles import oracle
from benchmarks._argmin_verdicts import FIRST_ORDER, METHODS, Verdict, judge

STEPS = 10  # of first-order methods
CASES = [generate(seed) for seed in range(50)]


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return [verdict for case in CASES for verdict in judge(case, steps=STEPS)]


def test_the_cases_are_of_every_kind() -> None:
    for kinds, field in ((NETWORKS, "network"), (SETS, "domain"), (REGULARIZERS, "regularizer")):
        counts = Counter(getattr(case, field) for case in CASES)
        assert min(counts[kind] for kind in kinds) >= 2, counts


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed{case.seed}")
def test_the_oracle_reads_the_network_right(case: Case) -> None:
    for index in range(len(case.sets)):
        answer = oracle(case, index)
        if answer.outcome == "OPTIMAL":
            assert case.sets[index].violation(answer.y) <= 1e-8
            assert case.objective(index, answer.y) == pytest.approx(answer.dual, rel=1e-7, abs=1e-7)


def test_no_status_and_no_bound_misleads(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if v.wrong] == []


def test_every_point_is_feasible(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if not v.violation <= 1e-8] == []


def test_every_method_runs(verdicts: list[Verdict]) -> None:
    counts = Counter(v.method for v in verdicts)
    assert min(counts[method] for method in METHODS) >= 10, counts


def test_exact_and_newton_find_the_minimum(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if v.method in ("exact", "newton") and v.outcome == "OPTIMAL" and not v.right] == []


def test_first_order_methods_that_stop_early_say_so(verdicts: list[Verdict]) -> None:
    early = [v for v in verdicts if v.method in FIRST_ORDER and not v.right]
    assert early
    assert all(v.status == "MAX_ITERATIONS" for v in early)


def test_a_wrong_answer_is_seen() -> None:
    case = next(case for case in CASES if case.kind == "smooth" and case.batch == ())
    good = next(judge(case, ("newton",)))
    assert good.right
    with torch.no_grad():
        for parameter in case.f.parameters():
            parameter.add_(0.1)
    other = generate(case.seed)
    moved = case.solve(gradient="none").y.numpy().ravel()
    assert other.objective(0, moved) > oracle(other, 0).primal + 1e-6
