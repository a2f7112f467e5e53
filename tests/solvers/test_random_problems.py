"""300 random problems of every kind: solved, certified, or named for what they are."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import icnn

from .judging import Verdict, is_farkas, is_recession, judge
from .oracles import Answer, oracle
from .random_problems import TRAITS, Batch, batches, generate

COUNT = 300
BATCHES = list(batches(COUNT))


@pytest.fixture(scope="module")
def answers() -> dict[int, list[Answer]]:
    return {batch.seed: [oracle(instance) for instance in batch.instances] for batch in BATCHES}


@pytest.fixture(scope="module")
def solutions() -> dict[int, icnn.Solution]:
    return {batch.seed: icnn.solve(batch.problem(), on_failure="zero") for batch in BATCHES}


@pytest.fixture(scope="module")
def verdicts(solutions: dict[int, icnn.Solution], answers: dict[int, list[Answer]]) -> list[Verdict]:
    return [v for batch in BATCHES for v in judge(batch, solutions[batch.seed], answers[batch.seed])]


def test_every_kind_is_a_tenth_of_the_problems() -> None:
    instances = [instance for batch in BATCHES for instance in batch.instances]
    counts = Counter(t for i in instances for t in (i.traits if i.outcome == "OPTIMAL" else [i.outcome]))
    kinds = [*TRAITS, "PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE"]
    assert len(instances) >= COUNT
    assert min(counts[kind] for kind in kinds) >= len(instances) / 10, counts
    assert {batch.shape for batch in BATCHES} == {(), (7,), (2, 3)}


def test_the_oracle_confirms_the_construction(answers: dict[int, list[Answer]]) -> None:
    for batch in BATCHES:
        for instance, answer in zip(batch.instances, answers[batch.seed], strict=True):
            assert answer.outcome == instance.outcome
            if answer.outcome == "OPTIMAL":
                assert answer.objective == pytest.approx(instance.objective, abs=1e-8 * (instance.size or 1))


def test_optimal_ones_are_solved(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if v.outcome == "OPTIMAL" and not v.solved] == []


def test_objective_is_that_of_the_oracle(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if v.solved and not v.error <= 1e-7] == []


def test_certificate_is_tight(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if v.solved and not v.certificate <= 1e-8] == []


def test_no_wrong_answer_is_called_optimal(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if v.wrong] == []


def test_infeasible_unbounded_and_nonconvex_ones_are_named(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if v.outcome != "OPTIMAL" and not v.named] == []


def test_rays_prove_what_they_are_returned_for(verdicts: list[Verdict]) -> None:
    assert [v for v in verdicts if v.named and not v.ray] == []


@pytest.mark.parametrize("batch", [b for b in BATCHES if b.shape], ids=lambda b: f"seed{b.seed}")
def test_the_same_answer_alone_as_in_the_batch(batch: Batch, solutions: dict[int, icnn.Solution]) -> None:
    together = solutions[batch.seed]
    for index in {batch.seed % len(batch.instances), (batch.seed + 3) % len(batch.instances)}:
        instance = batch.instances[index]
        alone = icnn.solve(batch.alone(index), on_failure="zero")
        where = np.unravel_index(index, batch.shape)
        assert alone.status == together.status[where], index
        if instance.outcome == "OPTIMAL":
            assert abs(alone.objective - together.objective[where]) <= 1e-8 * (instance.size or 1), index
        if instance.outcome == "OPTIMAL" and np.linalg.eigvalsh(instance.plain.hessian)[0] > 1e-3:
            columns = torch.from_numpy(instance.units.columns)  # strictly convex: x is unique
            torch.testing.assert_close(columns * alone.x, columns * together.x[where], rtol=0, atol=1e-6)


def test_a_wrong_claim_is_seen(answers: dict[int, list[Answer]]) -> None:
    batch = next(b for b in BATCHES if b.shape == () and b.instances[0].outcome == "OPTIMAL")
    solution = icnn.solve(batch.problem())
    (good,) = judge(batch, solution, answers[batch.seed])
    (moved,) = judge(
        batch, replace(solution, derived=lambda: (solution.s, solution.objective + 1)), answers[batch.seed]
    )
    assert not good.wrong
    assert moved.wrong
    assert replace(good, outcome="DUAL_INFEASIBLE").wrong
    assert replace(good, violation=float("nan")).wrong


def test_false_rays_are_refused() -> None:
    instances = [i for seed in range(40) for i in generate(seed).instances]
    infeasible = next(i for i in instances if i.outcome == "PRIMAL_INFEASIBLE")
    data = infeasible.plain
    ray = {"nu": data.b + 1, "lam": abs(data.h) + 1, "lam_lower": data.p[:0], "lam_upper": data.p[:0]}
    assert not is_farkas(infeasible, ray)
    unbounded = next(i for i in instances if i.outcome == "DUAL_INFEASIBLE")
    assert not is_recession(unbounded, np.ones_like(unbounded.plain.p))
