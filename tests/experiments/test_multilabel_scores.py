"""Every F1 is scikit-learn's, its threshold the best of all, and nothing is chosen on the test part."""

import pytest
import torch
from sklearn.metrics import f1_score

from experiments._multilabel_scores import (
    AVERAGES,
    Predicted,
    best_level,
    best_scale,
    by_expected_f1,
    f1,
    scores,
)
from icnn import decoders


def drawn(n: int, seed: int, sharpness: float = 1.0) -> Predicted:
    """True probabilities, made surer (> 1) or less sure than they are; some rows and one label without positives."""
    generator = torch.Generator().manual_seed(seed)
    logit = 2 * torch.randn(n, 6, generator=generator, dtype=torch.float64) - 1
    logit[:, 5] = -torch.inf
    labels = torch.rand(n, 6, generator=generator, dtype=torch.float64) < logit.sigmoid()
    return Predicted((sharpness * logit).sigmoid(), labels)


def test_f1_by_hand_with_0_where_nothing_is_positive() -> None:
    labels = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    chosen = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert f1(chosen, labels, "example-F1") == (1 / 2 + 0) / 2
    assert f1(chosen, labels, "label-macro-F1") == (1 + 0 + 0 + 0) / 4
    assert f1(chosen, labels, "micro-F1") == 2 / 4


@pytest.mark.parametrize("measure", AVERAGES)
@pytest.mark.parametrize("ties", [False, True])
def test_the_level_is_the_best_of_all(measure: str, ties: bool) -> None:
    validation = drawn(15, 0)
    if ties:
        validation = Predicted((8 * validation.p).round() / 8, validation.labels)
    found = f1(validation.p >= best_level(validation, measure), validation.labels, measure)
    every = [f1(validation.p >= level, validation.labels, measure) for level in [*validation.p.unique(), 2.0]]
    assert found == pytest.approx(max(every), abs=1e-14)


def test_the_scale_undoes_too_much_sureness() -> None:
    assert best_scale(drawn(1000, 0, sharpness=2)) == pytest.approx(0.5, rel=0.2)
    assert best_scale(drawn(1000, 0, sharpness=0.6)) == pytest.approx(1 / 0.6, rel=0.2)


def test_a_scale_of_one_leaves_the_decoding_as_it_is() -> None:
    p = drawn(50, 0).p
    assert torch.equal(by_expected_f1(p, 1.0), decoders.expected_f1(p).labels)
    assert not torch.equal(by_expected_f1(p, 0.5), decoders.expected_f1(p).labels)


def test_certain_labels_can_be_scaled() -> None:
    labels = drawn(5, 0).labels
    assert torch.equal(by_expected_f1(labels.double(), 0.5), labels)


def test_the_test_part_is_scored_by_what_the_validation_part_chose() -> None:
    validation, test = drawn(60, 0, sharpness=2), drawn(50, 1, sharpness=2)
    found = scores(validation, test)
    truth, p = test.labels.numpy(), test.p.numpy()
    for measure, average in AVERAGES.items():
        level = found["chosen"][f"threshold, {measure}"]
        assert level == best_level(validation, measure)
        for decision, chosen in {
            "threshold 0.5": p >= 0.5,
            "threshold tuned": p >= level,
            "expected F1": by_expected_f1(test.p, found["chosen"]["scale"]).numpy(),
        }.items():
            expected = f1_score(truth, chosen, average=average, zero_division=0)  # pyright: ignore[reportArgumentType]
            assert found[decision][measure] == pytest.approx(expected), (decision, measure)
    assert found["chosen"]["scale"] == best_scale(validation)


def test_the_labels_of_the_test_part_change_no_choice() -> None:
    validation, test = drawn(60, 0), drawn(50, 1)
    other = Predicted(test.p, ~test.labels)
    assert scores(validation, test)["chosen"] == scores(validation, other)["chosen"]
    assert scores(validation, test)["expected F1"] != scores(validation, other)["expected F1"]
