"""What a network has to beat: logistic regression, one label against the rest."""

import warnings

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from experiments._multilabel_data import Labelled, Weighting, held_out, weighted
from experiments._multilabel_scores import AVERAGES, DECISIONS, Predicted, scores

GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def logistic(rows: Labelled, other: Labelled, C: float) -> Predicted:
    """The probabilities of the labels of other rows, after a fit to rows with a penalty ½ |w|² / C for each label."""
    model = OneVsRestClassifier(LogisticRegression(C=C, max_iter=10_000))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")  # then p is constant
        model.fit(rows.features, rows.labels)
    return Predicted(torch.from_numpy(model.predict_proba(other.features)).double(), torch.from_numpy(other.labels))


def logistic_scores(
    train: Labelled, test: Labelled, weighting: Weighting, share: float, seed: int, grid: tuple[float, ...] = GRID
) -> dict[str, dict[str, float]]:
    """Every F1 on the test part under every decision, and the C of each.

    A share of the training part is held out. On it C, the thresholds and the scale are chosen, for each number anew;
    with this C the whole training part is fitted once more, whose probabilities are decided by what was chosen.
    """
    fitted, validation = weighted(weighting, *held_out(train, share, seed))
    tried = {C: logistic(fitted, validation, C) for C in grid}
    watched = {C: scores(found, found) for C, found in tried.items()}
    best = {
        (decision, measure): max(grid, key=lambda C: watched[C][decision][measure])
        for decision in DECISIONS
        for measure in AVERAGES
    }
    whole, scored = weighted(weighting, train, test)
    found = {C: scores(tried[C], logistic(whole, scored, C)) for C in set(best.values())}
    result = {
        decision: {name: found[best[decision, name]][decision][name] for name in AVERAGES} for decision in DECISIONS
    }
    return result | {"C": {f"{decision}, {measure}": C for (decision, measure), C in best.items()}}
