"""What a convex network has to beat: two constants of the data and three fitted methods."""

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from experiments._pictures import Pictures, halves

RIDGE_GRID = {"alpha": [1, 3, 10, 30, 100, 300, 1000]}
KERNEL_GRID = {
    "regressor__alpha": [0.01, 0.03, 0.1, 0.3, 1.0],
    "regressor__gamma": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
}


def baseline_errors(train: Pictures, score: Pictures, folds: int) -> dict[str, np.ndarray]:
    """Mean squared error of every scored picture, on the scale 0..255 of its pixels, for every baseline.

    Ridge and RBF kernel ridge (left half centred) choose their settings by cross-validation on the training
    pictures alone, grouped so that no person is on both sides of a fold.
    """
    x, y = (_flat(half) for half in halves(train.images))
    x_score, y_score = (_flat(half) for half in halves(score.images))
    predictions = {"mirrored right half": x_score}
    for name, estimator in _estimators(min(folds, train.groups)).items():
        fitting = {"groups": train.group.numpy()} if isinstance(estimator, GridSearchCV) else {}
        predictions[name] = estimator.fit(x, y, **fitting).predict(x_score)
    return {name: ((255 * (y_hat - y_score)) ** 2).mean(axis=1) for name, y_hat in predictions.items()}


def _estimators(folds: int) -> dict:
    centred = TransformedTargetRegressor(KernelRidge(kernel="rbf"), transformer=StandardScaler(with_std=False))
    return {
        "mean left half": DummyRegressor(),
        "1-NN": KNeighborsRegressor(1),
        "ridge": _grouped_search(Ridge(), RIDGE_GRID, folds),
        "RBF kernel ridge": _grouped_search(centred, KERNEL_GRID, folds),
    }


def _grouped_search(estimator, grid: dict, folds: int) -> GridSearchCV:
    return GridSearchCV(estimator, grid, scoring="neg_mean_squared_error", cv=GroupKFold(folds))


def _flat(half: Tensor) -> np.ndarray:
    return half.flatten(1).double().numpy()
