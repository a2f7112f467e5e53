"""Losses on the argmin itself, differentiated through it."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from icnn.inference import Domain
from icnn.networks import ConvexNetwork

from .prediction import UNIT, PredictionLoss, Reduction, Regularizer

Criterion = Callable[[Tensor, Tensor], Tensor]


class Argmin(PredictionLoss):
    """A loss on the prediction ŷ(x) = argmin_y f(x, y) + phi(y).

        l(x, y) = criterion(ŷ(x), y)

    criterion: "mse" or "bce", means over the entries of y; "soft_f1", one minus soft_f1; for these y in [0, 1]. Or a
        callable, (ŷ, y) to one loss for each instance, (*batch,), which may take any y of the shape of ŷ.
    gradient: that of icnn.argmin, "implicit", "bundle", "unrolled", "truncated" or "one_step".
    The other arguments, returns and errors as in FenchelYoung. Where an inference failed, the criterion sees ŷ = y.
    Source: Amos, Xu, Kolter 2017, section 4.3; Domke, Generic methods for optimization-based modeling, 2012 (unrolled).
    """

    def __init__(
        self,
        f: ConvexNetwork,
        criterion: Literal["mse", "bce", "soft_f1"] | Criterion = "mse",
        domain: Domain = UNIT,
        regularizer: Regularizer = "entropy",
        reduction: Reduction = "mean",
        **inference: Any,
    ) -> None:
        super().__init__(f, domain, regularizer, reduction, inference)
        if not callable(criterion) and criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {tuple(CRITERIA)} or a callable; got {criterion!r}")
        self.criterion = criterion

    def forward(self, x: Tensor | None, y: Tensor) -> Tensor:
        self.check_shape(x, y)
        solution, failed = self.predict(self.posed(x))
        inner = len(self.f.y_shape)
        batch = y.shape[:-inner]
        prediction = torch.where(failed.reshape(failed.shape + (1,) * inner), y, solution.y).expand(y.shape)
        if callable(self.criterion):
            loss = self.criterion(prediction, y)
            if loss.shape != batch:
                raise ValueError(
                    f"criterion must return one loss per instance, {tuple(batch)}; got {tuple(loss.shape)}"
                )
        else:
            if not ((y >= 0) & (y <= 1)).all():
                raise ValueError("y must lie in the domain of the criterion, [0, 1]; got entries outside, or nan")
            loss = CRITERIA[self.criterion](prediction.flatten(-inner), y.flatten(-inner))
        return self.reduce(loss, failed.expand(batch))


def soft_f1(prob: Float[Tensor, "*batch n"], labels: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """The F1 score with probabilities in place of predictions, for each row of labels.

        F1 = 2 Σ p y / (Σ p + Σ y)

    The F1 score itself for p in {0, 1}; one where nothing is on in either. A row without labels scores 0 for any p > 0,
    with no gradient. prob, labels: (*batch, n) in [0, 1]. Returns (*batch,).
    """
    size = prob.sum(-1) + labels.sum(-1)
    score = 2 * torch.linalg.vecdot(prob, labels) / torch.where(size > 0, size, 1.0)
    return torch.where(size > 0, score, 1.0)


CRITERIA: dict[str, Criterion] = {
    "mse": lambda prediction, y: (prediction - y).square().mean(-1),
    "bce": lambda prediction, y: binary_cross_entropy(prediction, y, reduction="none").mean(-1),
    "soft_f1": lambda prediction, y: 1 - soft_f1(prediction, y),
}
