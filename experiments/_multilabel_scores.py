"""How good probabilities of labels are, as sets of labels: three F1, each under three ways to decide.

Every mean F1 takes 0 for a row, or a label, without any positive, true or predicted.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from sklearn.metrics import f1_score
from torch import Tensor

from icnn import decoders

ZERO_DIVISION = 0.0
AVERAGES = {"example-F1": "samples", "label-macro-F1": "macro", "micro-F1": "micro"}
GROUPED: dict[str, Callable[[Tensor], Tensor]] = {  # each F1 as a mean over rows: a row is an example, a label, or all
    "example-F1": lambda entries: entries,
    "label-macro-F1": lambda entries: entries.mT,
    "micro-F1": lambda entries: entries.reshape(1, -1),
}
DECISIONS = ("threshold 0.5", "threshold tuned", "expected F1")
SCALES = tuple(2 ** (i / 4) for i in range(-4, 5))


@dataclass(frozen=True)
class Predicted:
    """Probabilities of labels, and the labels."""

    p: Float[Tensor, "n L"]
    labels: Bool[Tensor, "n L"]


def f1(chosen: Bool[Tensor, "n L"], labels: Bool[Tensor, "n L"], measure: str) -> float:
    """One of AVERAGES, in [0, 1]."""
    average, zero = AVERAGES[measure], ZERO_DIVISION
    return float(f1_score(labels, chosen, average=average, zero_division=zero))  # pyright: ignore[reportArgumentType]


def best_level(validation: Predicted, measure: str) -> float:
    """The threshold that maximises this F1, exactly: of all that differ on the validation part."""
    p, labels = (GROUPED[measure](entries) for entries in (validation.p, validation.labels))
    return decoders.best_threshold(p, labels, zero_division=ZERO_DIVISION)


def best_scale(validation: Predicted) -> float:
    """The factor of the logits, of SCALES, with which expected-F1 decoding has the best example-F1."""
    return max(SCALES, key=lambda scale: f1(by_expected_f1(validation.p, scale), validation.labels, "example-F1"))


def by_expected_f1(p: Float[Tensor, "n L"], scale: float) -> Bool[Tensor, "n L"]:
    """The sets with the largest expected F1 after the logits are multiplied by the scale."""
    return decoders.expected_f1((scale * p.double().logit()).sigmoid(), zero_division=ZERO_DIVISION).labels


def scores(validation: Predicted, test: Predicted) -> dict[str, dict[str, float]]:
    """Every F1 on the test part under every decision, and what the validation part chose for it."""
    levels = {measure: best_level(validation, measure) for measure in AVERAGES}
    scale = best_scale(validation)
    expected = by_expected_f1(test.p, scale)
    sets = {
        "threshold 0.5": dict.fromkeys(AVERAGES, test.p >= 0.5),
        "threshold tuned": {measure: test.p >= level for measure, level in levels.items()},
        "expected F1": dict.fromkeys(AVERAGES, expected),
    }
    found = {
        decision: {measure: f1(chosen[measure], test.labels, measure) for measure in AVERAGES}
        for decision, chosen in sets.items()
    }
    return found | {"chosen": {f"threshold, {name}": level for name, level in levels.items()} | {"scale": scale}}
