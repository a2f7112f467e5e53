"""What every loss does around its inference: options, doors, and what becomes of instances that fail."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from icnn.networks import ConvexNetwork
from icnn.solvers import Status

from ._interim import argmin, check_labels, phi

Reduction = Literal["mean", "none"]


class PredictionLoss(nn.Module):
    """A loss on argmin_y f(x, y) + linear'y + phi(y) over a domain; f is a submodule.

    on_failure: of the instances whose inference failed (the end of a fixed budget of iterations is no failure).
    "raise": SolverError. "nan": their loss is nan. "zero": their loss is zero and the mean is over the others. No
    gradient comes from them in either case.
    """

    def __init__(
        self, f: ConvexNetwork, domain: Any, regularizer: Any, reduction: Reduction, inference: dict[str, Any]
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction must be one of ('mean', 'none'); got {reduction!r}")
        self.f, self.domain, self.regularizer = f, domain, regularizer
        self.reduction, self.inference = reduction, inference

    def predict(self, x: Tensor | None, linear: Tensor | None = None, **options: Any) -> tuple[Any, Tensor]:
        """The solution of the inference, and where it failed."""
        options = {"regularizer": self.regularizer, "linear": linear, **self.inference, **options}
        solution = argmin(self.f, x, self.domain, **options)
        return solution, (solution.status != Status.OPTIMAL) & (solution.status != Status.MAX_ITERATIONS)

    def excess(self, x: Tensor | None, y: Tensor, linear: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """E(x, y) + linear'y minus its minimum over the domain, (*batch,), and where the inference failed."""
        solution, failed = self.predict(x, linear, gradient="danskin")
        if x is not None and failed.any():  # keeps nan out of the gradients of the weights
            x = x.masked_fill(failed.reshape(failed.shape + (1,) * len(self.f.x_shape or ())), 0.0)
        inner = tuple(range(-len(self.f.y_shape), 0))
        value = self.f.given(x)(y) + phi(y, inner)
        if linear is not None:
            value = value + (linear * y).sum(inner)
        return value - solution.value, failed

    def check_labels(self, x: Tensor | None, y: Tensor) -> None:
        """Raises ValueError unless y is one point of the domain for each x."""
        shape, weight = self.f.y_shape, next(self.f.parameters())
        if x is not None and self.f.x_shape is not None:
            expected = x.shape[: x.ndim - len(self.f.x_shape)] + torch.Size(shape)
            if y.shape != expected:
                raise ValueError(f"y must be {tuple(expected)}, one label vector for each x; got {tuple(y.shape)}")
        elif y.shape[-len(shape) :] != torch.Size(shape):
            raise ValueError(f"y must be (*batch, {', '.join(map(str, shape))}); got {tuple(y.shape)}")
        if y.dtype != weight.dtype:
            raise ValueError(f"y must have the dtype of the network, {weight.dtype}; got {y.dtype}")
        check_labels(self.domain, y)

    def reduce(self, loss: Tensor, failed: Tensor) -> Tensor:
        """The loss of each instance (*batch,), or the mean of those that did not fail."""
        failed = failed.expand(loss.shape)
        if self.inference.get("on_failure") == "nan":
            loss = loss.masked_fill(failed, torch.nan)
        else:
            loss = loss.masked_fill(failed, 0.0)
        if self.reduction == "none":
            return loss
        counted = loss.numel() if self.inference.get("on_failure") == "nan" else (~failed).sum().clamp_min(1)
        return loss.sum() / counted

    def extra_repr(self) -> str:
        return f"regularizer={self.regularizer!r}, domain={self.domain!r}, reduction={self.reduction!r}"
