"""What every loss does around its inference: options, the door, and what becomes of instances that fail."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from icnn.inference import ArgminSolution, Box, Domain
from icnn.inference.argmin import answered
from icnn.inference.problem import Problem, Regularizer, posed
from icnn.networks import ConvexNetwork
from icnn.solvers import Status

Reduction = Literal["mean", "none"]
UNIT = Box(0.0, 1.0)
ROUNDING = 64  # of labels, in units of the precision


class PredictionLoss(nn.Module):
    """A loss around an inference min over y in the domain of f(x, y) + linear'y + phi(y); f is a submodule.

    on_failure, among the options of inference, also says what becomes of an instance whose inference failed (the end of
    a fixed budget of iterations is none, but where an implicit gradient needs the minimiser). "raise": SolverError.
    "nan": its loss is nan, and so is the mean. "zero": its loss is zero, and the mean is that of the others. No
    gradient comes from it. Derivatives are of first order.
    """

    def __init__(
        self,
        f: ConvexNetwork,
        domain: Domain,
        regularizer: Regularizer,
        reduction: Reduction,
        inference: dict[str, Any],
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction must be one of ('mean', 'none'); got {reduction!r}")
        self.f, self.domain = f, domain
        self.regularizer: Regularizer = regularizer
        self.start: Tensor | None = inference.pop("start", None)
        self.reduction, self.inference = reduction, inference

    def posed(self, x: Tensor | None, linear: Tensor | None = None) -> Problem:
        """The problem of the inference."""
        return posed(self.f, x, self.domain, self.regularizer, linear, self.start)

    def predict(self, problem: Problem, **options: Any) -> tuple[ArgminSolution, Tensor]:
        """The solution of the inference, and where it failed."""
        options = {**self.inference, **options}
        solution = answered(problem, **options)
        failed = solution.status != Status.OPTIMAL
        implicit = options.get("gradient", "implicit") == "implicit" and solution.method != "bundle"
        if not (implicit and torch.is_grad_enabled()):
            failed = failed & (solution.status != Status.MAX_ITERATIONS)
        return solution, failed

    def excess(self, x: Tensor | None, y: Tensor, linear: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f(x, y) + phi(y) + linear'y minus its minimum over the domain, (*batch,), and where the inference failed.

        Raises ValueError unless y is one point of the domain for each instance.
        """
        self.check_shape(x, y)
        batch = y.shape[: y.ndim - len(self.f.y_shape)]
        problem = self.posed(x, torch.zeros_like(y) if x is None and linear is None else linear)
        labels = y.double().reshape(batch.numel(), -1)
        if not problem.over.contains(labels.detach(), ROUNDING * torch.finfo(y.dtype).eps).all():
            raise ValueError("y must lie in the domain; got entries outside, or nan")
        solution, failed = self.predict(problem, gradient="danskin")
        if failed.any():  # keeps nan out of the gradients of the weights
            problem = problem.without(failed.flatten())
        value = (problem.energy(labels) + problem.over.value(labels)).reshape(batch)
        return (value - solution.value).to(y.dtype), failed

    def check_shape(self, x: Tensor | None, y: Tensor) -> None:
        """Raises ValueError unless y is one label vector for each x, in the dtype of the network."""
        shape, dtype = torch.Size(self.f.y_shape), next(self.f.parameters()).dtype
        if x is not None and self.f.x_shape is not None:
            expected = x.shape[: x.ndim - len(self.f.x_shape)] + shape
            if y.shape != expected:
                raise ValueError(f"y must be {tuple(expected)}, one point for each x; got {tuple(y.shape)}")
        elif y.shape[y.ndim - len(shape) :] != shape:
            raise ValueError(f"y must be (*batch, {', '.join(map(str, shape))}); got {tuple(y.shape)}")
        if y.dtype != dtype:
            raise ValueError(f"y must have the dtype of the network, {dtype}; got {y.dtype}")

    def reduce(self, loss: Tensor, failed: Tensor) -> Tensor:
        """The loss of each instance (*batch,), or the mean of those that count."""
        keeps_nan = self.inference.get("on_failure") == "nan"
        loss = loss.masked_fill(failed, torch.nan if keeps_nan else 0.0)
        if self.reduction == "none":
            return loss
        return loss.mean() if keeps_nan else loss.sum() / (~failed).sum().clamp_min(1)

    def extra_repr(self) -> str:
        return f"regularizer={self.regularizer!r}, domain={self.domain!r}, reduction={self.reduction!r}"
