"""The baseline learns, is honest about what it chose, and never sees the test labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from experiments._logistic import logistic, logistic_scores
from experiments._multilabel_data import Labelled, held_out, weighted
from experiments._multilabel_scores import AVERAGES, DECISIONS, scores


def drawn(n: int, seed: int) -> Labelled:
    """Ten words, each there or not; a label says that one of two is there, but for one that never is true."""
    words = np.random.default_rng(seed).random((n, 10)) < 0.3
    labels = np.hstack([words[:, :5] | words[:, 5:], np.zeros((n, 1), bool)])
    features = sparse.csr_array(words.astype(np.float32))
    return Labelled(features, labels, tuple(map(str, range(10))), tuple("abcdef"))


def test_the_labels_are_learnt_and_a_label_that_never_occurs_gets_probability_0() -> None:
    found = logistic(drawn(300, 0), drawn(100, 1), C=100.0)
    assert torch.equal(found.p >= 0.5, found.labels)
    assert (found.p[:, 5] == 0).all()
    assert found.p.dtype == torch.float64


def test_a_small_c_draws_the_probabilities_together() -> None:
    loose, tight = (logistic(drawn(300, 0), drawn(100, 1), C).p[:, :5] for C in (10.0, 0.01))
    assert tight.std(0).max() < loose.std(0).min()


@pytest.mark.parametrize("weighting", ["binary", "tf-idf"])
def test_scores_are_of_the_whole_training_part_decided_by_the_held_out_one(weighting) -> None:
    train, test = drawn(150, 0), drawn(80, 1)
    found = logistic_scores(train, test, weighting, 0.3, 0, grid=(0.1,))
    fitted, validation = weighted(weighting, *held_out(train, 0.3, 0))
    whole, scored = weighted(weighting, train, test)
    expected = scores(logistic(fitted, validation, 0.1), logistic(whole, scored, 0.1))
    assert found == {decision: expected[decision] for decision in DECISIONS} | {"C": found["C"]}
    assert set(found["C"].values()) == {0.1}


def test_c_is_the_best_on_the_held_out_part() -> None:
    train, test, grid = drawn(150, 0), drawn(80, 1), (0.03, 0.1)
    found = logistic_scores(train, test, "none", 0.3, 0, grid)["C"]
    fitted, validation = held_out(train, 0.3, 0)
    watched = {C: scores(*[logistic(fitted, validation, C)] * 2) for C in grid}
    for decision in DECISIONS:
        for measure in AVERAGES:
            best = max(watched[C][decision][measure] for C in grid)
            assert watched[found[f"{decision}, {measure}"]][decision][measure] == best


def test_the_test_labels_choose_nothing() -> None:
    train, test = drawn(150, 0), drawn(80, 1)
    other = replace(test, labels=~test.labels)
    found, turned = (logistic_scores(train, part, "none", 0.3, 0, (0.03, 0.1)) for part in (test, other))
    assert found["C"] == turned["C"]
    assert found["expected F1"] != turned["expected F1"]
