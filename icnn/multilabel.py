"""A scikit-learn classifier for many labels at once: their probabilities minimise a convex energy."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from math import inf
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from . import decoders
from .inference import argmin
from .losses import Argmin, FenchelYoung, MaxMargin
from .networks import PICNN, ConvexNetwork

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        "icnn.MultiLabelClassifier needs scikit-learn 1.6 or later: pip install 'icnn[sklearn]'"
    ) from error

ROWS = 1024  # that are predicted at once

log = logging.getLogger(__name__)


class MultiLabelClassifier(ClassifierMixin, BaseEstimator):
    """Many labels at once, from an energy that is convex in the vector of their probabilities.

        p(x) = argmin over y in [0, 1]^L of f(x, y) - H(y),    H(y) = -sum y log y + (1 - y) log(1 - y),

    f a PICNN: p = sigmoid(-∇f(x, p)), a logistic regression whose logits may depend on the other labels. A decoder
    turns p into a set of labels.

    Parameters:
        hidden: widths of the PICNN. activation: its g.
        loss: "fenchel_young", f(x, y) - min (f - H), whose gradient needs no derivative of the argmin; "max_margin",
            the hinge of the same energy with the Hamming distance; or "bce", the cross-entropy of y and p(x),
            differentiated through the argmin. All are sums over the labels.
        decoder: "expected_f1", the set with the largest expected F1; "threshold", pⱼ ≥ threshold; "top_k", the k
            largest.
        threshold, k: of these decoders.
        max_iter: iterations of the inference, in training and in prediction.
        epochs, batch_size, learning_rate: of Adam, at most so many epochs. weight_decay: w of a penalty ½ w |W|² of
            the matrices; the biases are free, and the first one starts at the frequencies of the labels.
        early_stopping: hold out validation_fraction of the rows, stop when their cross-entropy has not become better
            for n_iter_no_change epochs, and keep the best epoch's weights.
        random_state: of weights, batches and the held out rows: an int, a RandomState or None.
        device: of the training; the prediction is made there too, in float64.
        verbose: log each epoch, to the logger "icnn.multilabel" at level INFO.

    Attributes: classes_, n_features_in_, feature_names_in_ as in scikit-learn; network_, the PICNN; n_iter_, epochs
    run; loss_curve_ and, with early stopping, validation_curve_, one number per epoch.

    A y of one dimension, classes instead of labels, is taken one class against the rest: the most probable class is
    predicted, whatever the decoder. `score` is scikit-learn's accuracy, for labels that of the whole set; for
    the example-averaged F1 use scoring="f1_samples".

    Source: Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017, section 6.2 (the model); Blondel, Martins,
    Niculae, Learning with Fenchel-Young losses, 2020.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (600,),
        activation: str = "relu",
        loss: Literal["fenchel_young", "max_margin", "bce"] = "fenchel_young",
        decoder: Literal["expected_f1", "threshold", "top_k"] = "expected_f1",
        threshold: float = 0.5,
        k: int = 1,
        max_iter: int = 30,
        epochs: int = 100,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 5e-3,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: Any = None,
        device: str | torch.device = "cpu",
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.loss = loss
        self.decoder = decoder
        self.threshold = threshold
        self.k = k
        self.max_iter = max_iter
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> "MultiLabelClassifier":
        """Fits the energy. X: (n, d), an array, a data frame or a sparse matrix, which never becomes dense as a whole.

        y: (n, L), an array or sparse matrix of 0 and 1; or (n,), classes.
        Raises ValueError for a parameter or data that do not fit; SolverError where training diverged.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csr", multi_output=True, dtype=(np.float64, np.float32))
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._binarizer = LabelBinarizer().fit(y)
        self.classes_ = self._binarizer.classes_
        Y = torch.as_tensor(self._binarizer.transform(y), dtype=torch.float32)
        random = check_random_state(self.random_state)
        rows, held = torch.arange(len(Y)), None
        if self.early_stopping:
            parts = train_test_split(rows.numpy(), test_size=self.validation_fraction, random_state=random)
            rows, held = map(torch.as_tensor, parts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.randint(2**31 - 1))
            network = PICNN(X.shape[1], Y.shape[1], tuple(self.hidden), self.activation)
            _start_at(network, (Y[rows].sum(0) + 0.5) / (len(rows) + 1))
            self._train(network.to(self.device, torch.float32), X, Y, rows, held)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(x): (n, L) for labels; (n, classes) for classes, each row with the sum 1."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=(np.float64, np.float32))
        p = self._probabilities(self.network_, X).cpu().numpy()
        if self._binarizer.y_type_ == "multilabel-indicator":
            return p
        return np.hstack((1 - p, p)) if p.shape[1] == 1 else p / p.sum(1, keepdims=True)

    def predict(self, X: Any) -> Any:
        """The labels, (n, L) of 0 and 1, a sparse matrix if y was one in `fit`; or the classes, (n,)."""
        p = self.predict_proba(X)
        if self._binarizer.y_type_ == "multilabel-indicator":
            return self._binarizer.inverse_transform(self._decode(torch.from_numpy(p)).long().numpy())
        return self.classes_[p[:, : len(self.classes_)].argmax(1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags

    def _train(self, network: PICNN, X: Any, Y: Tensor, rows: Tensor, held: Tensor | None) -> None:
        criterion = LOSSES[self.loss](network, max_iter=self.max_iter)
        optimizer = _adam(network, self.learning_rate, self.weight_decay)
        self.loss_curve_: list[float] = []
        self.validation_curve_: list[float] = []
        best, best_epoch = network, 0
        for epoch in range(self.epochs):
            total = 0.0
            for batch in rows[torch.randperm(len(rows))].split(self.batch_size):
                x, y = _dense(X[batch.numpy()], network), Y[batch].to(self.device)
                loss = criterion(x, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += len(batch) * float(loss.detach())
            self.loss_curve_.append(total / len(rows))
            if self.verbose:
                log.info("epoch %d: loss %.6g", epoch + 1, self.loss_curve_[-1])
            if held is not None:
                p = self._probabilities(network, X[held.numpy()])
                score = float(F.binary_cross_entropy(p, Y[held].to(p), reduction="sum")) / len(held)
                if score < min(self.validation_curve_, default=inf):
                    best, best_epoch = deepcopy(network), epoch
                self.validation_curve_.append(score)
                if epoch - best_epoch >= self.n_iter_no_change:
                    break
        self.network_, self.n_iter_ = best.double(), len(self.loss_curve_)

    def _probabilities(self, network: PICNN, X: Any) -> Tensor:
        chunks = (_dense(X[start : start + ROWS], network) for start in range(0, X.shape[0], ROWS))
        return torch.cat([_infer(network, x, self.max_iter) for x in chunks])

    def _decode(self, p: Tensor) -> Tensor:
        if self.decoder == "threshold":
            return decoders.threshold(p, self.threshold)
        return decoders.top_k(p, self.k) if self.decoder == "top_k" else decoders.expected_f1(p).labels

    def _check_parameters(self) -> None:
        for name, known in (("loss", tuple(LOSSES)), ("decoder", DECODERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(map(repr, known))}")
        for name in ("max_iter", "epochs", "batch_size", "learning_rate", "n_iter_no_change"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}, expected a number >= 0")


def _dense(rows: Any, network: ConvexNetwork) -> Tensor:
    return torch.as_tensor(rows.toarray() if sparse.issparse(rows) else rows).to(next(network.parameters()))


def _infer(f: ConvexNetwork, x: Tensor, max_iter: int) -> Tensor:
    return argmin(f, x, regularizer="entropy", max_iter=max_iter, gradient="none").y.detach()


def _cross_entropy(p: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy(p, y, reduction="none").sum(-1)


LOSSES = {
    "fenchel_young": FenchelYoung,
    "max_margin": partial(MaxMargin, regularizer="entropy"),
    "bce": partial(Argmin, criterion=_cross_entropy),
}
DECODERS = ("expected_f1", "threshold", "top_k")


def _start_at(network: PICNN, p: Tensor) -> None:
    """Starts the slope of f in y, the negative logit, at that of p: the labels are rare, and are so for every x."""
    gate: Any = network.layers[-1].skip_gate
    with torch.no_grad():
        gate.bias.copy_(-p.logit())


def _adam(network: PICNN, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adam with a penalty ½ weight_decay |W|² of the matrices alone: a bias says how rare a label is."""
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for weight in network.parameters():
        groups[weight.ndim > 1].append(weight)
    rates = (0.0, weight_decay)
    return torch.optim.Adam(
        [{"params": group, "weight_decay": rate} for group, rate in zip(groups, rates, strict=True)], learning_rate
    )
