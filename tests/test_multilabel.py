"""MultiLabelClassifier: scikit-learn's own checks, what it predicts, and that it learns what one-vs-rest cannot."""

import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_classifier_multioutput, parametrize_with_checks

import icnn
from icnn import decoders, multilabel

SMALL: dict[str, Any] = dict(
    hidden=(8,), learning_rate=0.05, epochs=10, early_stopping=False, weight_decay=0.0, random_state=0
)
EXPECTED_FAILURES = {
    "check_classifier_multioutput": "asks for p rounded; the set of the largest expected F1 is another one",
}


def small(**changes: Any) -> icnn.MultiLabelClassifier:
    return icnn.MultiLabelClassifier(**(SMALL | changes))


def data(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    X, Y = make_multilabel_classification(n, n_features=10, n_classes=4, random_state=seed)[:2]
    return StandardScaler().fit_transform(X), np.asarray(Y)


@parametrize_with_checks(
    [small(hidden=(), epochs=8, batch_size=300, learning_rate=0.3)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_rounded_probabilities_are_what_the_failing_check_asks_for() -> None:
    check_classifier_multioutput("MultiLabelClassifier", small(decoder="threshold"))  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("loss", ["fenchel_young", "max_margin", "bce"])
def test_it_learns_as_well_as_logistic_regression(loss: Any) -> None:
    X, Y = data(600)
    model = small(hidden=(16,), loss=loss).fit(X[:300], Y[:300])
    linear = OneVsRestClassifier(LogisticRegression()).fit(X[:300], Y[:300])
    of_linear = decoders.expected_f1(torch.from_numpy(linear.predict_proba(X[300:]))).labels
    ours, theirs = (f1_score(Y[300:], s, average="samples") for s in (model.predict(X[300:]), of_linear))  # pyright: ignore
    assert ours > theirs - 0.02
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_it_learns_what_no_line_separates() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (400, 2))
    Y = np.stack((x[:, 0] * x[:, 1] > 0, np.linalg.norm(x, axis=1) > 0.8), 1).astype(int)
    model = small(hidden=(32,), epochs=40, decoder="threshold").fit(x[:300], Y[:300])
    assert model.score(x[300:], Y[300:]) > 0.8  # of whole sets
    assert OneVsRestClassifier(LogisticRegression()).fit(x[:300], Y[:300]).score(x[300:], Y[300:]) < 0.5


@pytest.mark.parametrize("loss", ["fenchel_young", "bce"])
def test_the_two_losses_have_the_value_of_the_cross_entropy_of_an_affine_energy(loss: str) -> None:
    f = icnn.PICNN(3, 4, ()).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.rand(6, 4).round().double()
    p = icnn.argmin(f, x, regularizer="entropy").y
    expected = -torch.where(y == 1, p, 1 - p).log().sum(-1)
    value = multilabel.LOSSES[loss](f, reduction="none")(x, y)
    torch.testing.assert_close(value, expected)
    found, wanted = (torch.autograd.grad(v.sum(), f.layers[0].skip_gate.weight)[0] for v in (value, expected))  # pyright: ignore
    torch.testing.assert_close(found, wanted)


def test_the_probabilities_minimise_the_energy() -> None:
    X, Y = data()
    model = small().fit(X, Y)
    p = model.predict_proba(X[:20])
    assert p.shape == (20, 4)
    x, y = torch.from_numpy(X[:20]), torch.from_numpy(p).requires_grad_()
    (slope,) = torch.autograd.grad(model.network_(x, y).sum(), y)
    torch.testing.assert_close(torch.sigmoid(-slope), y.detach(), rtol=0, atol=1e-3)


def test_it_starts_at_the_frequencies_of_the_labels() -> None:
    X, Y = data()
    model = small(hidden=(), learning_rate=1e-12, epochs=1).fit(np.zeros_like(X), Y)
    np.testing.assert_allclose(model.predict_proba(X[:1] * 0)[0], (Y.sum(0) + 0.5) / (len(Y) + 1), rtol=1e-5)


def test_the_decoders() -> None:
    X, Y = data()
    model = small().fit(X, Y)
    p = torch.from_numpy(model.predict_proba(X))
    np.testing.assert_array_equal(model.predict(X), decoders.expected_f1(p).labels)
    np.testing.assert_array_equal(model.set_params(decoder="threshold", threshold=0.3).predict(X), p >= 0.3)
    assert (model.set_params(decoder="top_k", k=2).predict(X).sum(1) == 2).all()


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_and_dense_data_give_the_same(container: Any) -> None:
    X, Y = data()
    dense, thin = small(epochs=3).fit(X, Y), small(epochs=3).fit(container(X), container(Y))
    np.testing.assert_allclose(thin.predict_proba(container(X)), dense.predict_proba(X), rtol=1e-12)
    predicted = thin.predict(container(X))
    assert sparse.issparse(predicted)
    np.testing.assert_array_equal(predicted.toarray(), dense.predict(X))


def test_data_frames() -> None:
    X, Y = data()
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(10)])
    model: Any = small(epochs=3).fit(frame, pd.DataFrame(Y))
    assert model.feature_names_in_.tolist() == list(frame.columns)
    assert model.n_features_in_ == 10
    assert model.classes_.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(model.predict(frame), small(epochs=3).fit(X, Y).predict(X))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.iloc[:, ::-1])


def test_read_only_data() -> None:
    X, Y = data(50)
    X.flags.writeable = Y.flags.writeable = False
    assert small(epochs=1).fit(X, Y).predict(X).shape == Y.shape


def test_classes_are_taken_one_against_the_rest() -> None:
    X = np.random.default_rng(0).normal(size=(150, 2))
    X[:, 0] += np.repeat([-4, 0, 4], 50)
    names = np.repeat(["low", "middle", "high"], 50)
    model = small().fit(X, names)
    assert model.classes_.tolist() == ["high", "low", "middle"]
    assert model.score(X, names) > 0.9
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    binary = small().fit(X, names == "low")
    assert binary.predict_proba(X).shape == (150, 2)
    assert binary.score(X, names == "low") > 0.9


def test_the_seed_decides() -> None:
    X, Y = data()
    state = torch.get_rng_state()
    first, again, other = (small(epochs=2, random_state=seed).fit(X, Y).predict_proba(X) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_early_stopping_keeps_the_best_epoch() -> None:
    X, Y = data()
    options: dict[str, Any] = dict(early_stopping=True, n_iter_no_change=3, hidden=(64,), validation_fraction=0.2)
    model = small(**options, epochs=100).fit(X, Y)
    best = int(np.argmin(model.validation_curve_)) + 1
    assert model.n_iter_ == len(model.validation_curve_) == len(model.loss_curve_) == best + 3 < 100
    np.testing.assert_array_equal(model.predict_proba(X), small(**options, epochs=best).fit(X, Y).predict_proba(X))


def test_clone_pickle_and_grid_search() -> None:
    X, Y = data(100)
    Y[:, 0] |= ~Y.any(1)  # scikit-learn warns of an F1 of empty sets
    model = small(epochs=2).fit(X, Y)
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(restored.predict_proba(X), model.predict_proba(X))
    copy: Any = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "network_")
    pipeline = make_pipeline(StandardScaler(), small(epochs=2))
    grid = {"multilabelclassifier__hidden": [(), (4,)], "multilabelclassifier__decoder": ["threshold", "expected_f1"]}
    search = GridSearchCV(pipeline, grid, scoring="f1_samples", cv=2).fit(X, Y)
    assert search.best_params_["multilabelclassifier__decoder"] == "expected_f1"
    assert cross_val_score(small(epochs=2), X, Y, cv=2).shape == (2,)


def test_it_logs_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    X, Y = data(50)
    with caplog.at_level(logging.INFO, "icnn.multilabel"):
        small(epochs=2).fit(X, Y)
        assert not caplog.records
        small(epochs=2, verbose=True).fit(X, Y)
    assert [record.message.split(":")[0] for record in caplog.records] == ["epoch 1", "epoch 2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(loss="hinge"), "loss is 'hinge', expected one of 'fenchel_young', 'max_margin', 'bce'"),
        (dict(decoder="argmax"), "decoder is 'argmax', expected one of"),
        (dict(epochs=0), "epochs is 0, expected a positive number"),
        (dict(weight_decay=-1.0), "weight_decay is -1.0, expected a number >= 0"),
        (dict(hidden=(0,)), "hidden is"),
    ],
)
def test_the_door(changes: dict[str, Any], message: str) -> None:
    X, Y = data(20)
    with pytest.raises(ValueError, match=message):
        small().set_params(**changes).fit(X, Y)


def test_targets_that_are_no_labels_are_refused() -> None:
    X, Y = data(20)
    with pytest.raises(ValueError, match="Multioutput target data is not supported"):
        small().fit(X, Y + np.arange(4))
    with pytest.raises(ValueError, match="Unknown label type"):
        small().fit(X, X[:, 0])
    with pytest.raises(NotFittedError):
        small().predict(X)


def test_without_scikit_learn_the_extra_is_named() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import icnn; icnn.MultiLabelClassifier"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "pip install 'icnn[sklearn]'" in done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'Missing'"):
        icnn.Missing  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]
