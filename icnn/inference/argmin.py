"""One call for prediction: argmin over y of a convex energy plus a regulariser, differentiable."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from icnn.networks import ConvexNetwork
from icnn.solvers import SolverError, Status, failure_message

from .bundle import bundle_entropy
from .flat import flat_energy
from .implicit import newton_minimiser, through_cuts, through_newton

Gradient = Literal["implicit", "none"]
OnFailure = Literal["raise", "nan", "zero"]
ROUNDING = 32


@dataclass(frozen=True, eq=False)
class ArgminSolution:
    """The minimisers of a batch of energies; y is differentiable, the rest is not.

    y: (*batch, *y_shape), the minimiser of the last model. value = f(y) - H(y) there and gap = value minus a lower
    bound of the minimum, both (*batch,). status: OPTIMAL where the gap is within the tolerance, MAX_ITERATIONS
    where the budget came first (no error: the gap tells), else why the instance failed. iterations: models
    minimised; evaluations: of the energy by the bundle method, with its gradient wherever another model may follow
    (what Newton's method adds for smooth f is not counted).
    """

    y: Float[Tensor, "..."]
    value: Float[Tensor, "*batch"]
    gap: Float[Tensor, "*batch"]
    status: Int[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    evaluations: Int[Tensor, "*batch"]

    def __repr__(self) -> str:
        codes = self.status.flatten().tolist()
        counts = ", ".join(f"{codes.count(code)} {Status(code).name}" for code in sorted(set(codes)))
        return f"ArgminSolution(y: {tuple(self.y.shape)}, status: {counts})"


def argmin(
    f: ConvexNetwork,
    x: Tensor | None = None,
    *,
    regularizer: Literal["entropy"] = "entropy",
    start: Tensor | None = None,
    max_iter: int = 30,
    tol: float = 1e-9,
    gradient: Gradient = "implicit",
    on_failure: OnFailure = "raise",
    callback: Callable[[int, Tensor], None] | None = None,
) -> ArgminSolution:
    """argmin over y in [0, 1]^n of f(x, y) - H(y) for a batch, by the bundle-entropy method.

    H(y) = -sum y log y + (1 - y) log(1 - y). The minimiser is differentiable in the weights of f and in x.

    Args:
        f: a network that is convex in y; one whose weights await `project_` is refused.
        x: (*batch, *f.x_shape), or None for a network without x.
        regularizer: "entropy", part of the problem that is solved.
        start: the first point, *f.y_shape or (*batch, *f.y_shape) in [0, 1]; 1/2 by default.
        max_iter: models minimised at most; 5 is the paper's truncated inference.
        tol: an instance is OPTIMAL once gap <= tol (1 + |value|); never below the rounding of f's dtype.
        gradient: "implicit", formula (6) for piecewise linear f and the Newton form, at a minimiser polished by
            Newton's method with n x n Hessians, for smooth f (see `implicit`); or "none".
        on_failure: for instances that fail (MAX_ITERATIONS alone is no failure): "raise"; "nan" in their y; "zero"
            leaves their last point. No gradient comes from them.
        callback: called as callback(iteration, y) with the minimiser of each model.

    Returns:
        `ArgminSolution`; y in the dtype of f.

    Raises:
        ValueError: an argument does not fit, f is not convex now, or f is neither smooth nor piecewise linear and an
            implicit gradient is asked for.
        SolverError: an instance failed (energy not finite, model not solved, or a smooth energy without the
            convergence that its gradient needs) and on_failure is "raise".

    Source: Amos, Xu, Kolter (2017), algorithm 1 and its argmin differentiation.
    """
    _check(f, regularizer, gradient, on_failure)
    for name, value in (("max_iter", max_iter), ("tol", tol)):
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")
    flat = _Flat(f, x, start)
    tol = max(tol, ROUNDING * torch.finfo(flat.dtype).eps)
    shown = None if callback is None else lambda iteration, y: callback(iteration, flat.shape(y))
    newton = gradient == "implicit" and not f.piecewise_linear
    differentiable = gradient == "implicit" and torch.is_grad_enabled()
    bundle = bundle_entropy(flat.energy, flat.start, max_iter, tol, shown, differentiable and not newton)
    if newton:
        bundle = newton_minimiser(flat.energy, bundle, tol)
    failed = bundle.status != Status.OPTIMAL
    if not newton:
        failed = failed & (bundle.status != Status.MAX_ITERATIONS)
    if on_failure == "raise" and failed.any():
        raise SolverError(failure_message(bundle.status.masked_fill(~failed, Status.OPTIMAL).reshape(flat.batch)))
    if failed.any() and x is not None:  # keeps nan out of the weights' gradients
        x = x.masked_fill(failed.reshape(flat.batch + (1,) * len(f.x_shape or ())), 0.0)
        flat = _Flat(f, x, start)
    y = bundle.y
    if differentiable:
        y = (through_newton if newton else through_cuts)(flat.energy, bundle)
        y = torch.where(failed.unsqueeze(-1), bundle.y, y)
    if on_failure == "nan":
        y = y.masked_fill(failed.unsqueeze(-1), torch.nan)
    return ArgminSolution(
        flat.shape(y),
        *(t.reshape(flat.batch) for t in (bundle.upper, bundle.gap, bundle.status)),
        *(t.reshape(flat.batch) for t in (bundle.iterations, bundle.iterations + 1)),
    )


class _Flat:
    """The energy of one x, its start and its shapes, with the batch as one dimension."""

    def __init__(self, f: ConvexNetwork, x: Tensor | None, start: Tensor | None) -> None:
        self.y_shape = torch.Size(f.y_shape)
        parameter = next(f.parameters())
        self.dtype, device = parameter.dtype, parameter.device
        if start is None:
            start = torch.full(self.y_shape, 0.5, dtype=self.dtype, device=device)
        if start.shape[start.dim() - len(self.y_shape) :] != self.y_shape:
            raise ValueError(f"start must be (*batch, {tuple(self.y_shape)}); got {tuple(start.shape)}")
        if not ((start >= 0) & (start <= 1)).all():
            raise ValueError("start must lie in [0, 1]; got entries outside, or nan")
        own = start.shape[: start.dim() - len(self.y_shape)]
        self.batch = own if x is None or f.x_shape is None else x.shape[: x.dim() - len(f.x_shape)]
        if own not in (torch.Size(), self.batch):
            expected = f"{tuple(self.y_shape)} or {tuple(self.batch + self.y_shape)}"
            raise ValueError(f"start must be {expected}; got {tuple(start.shape)}")
        self.start = start.detach().double().expand(self.batch + self.y_shape).reshape(self.batch.numel(), -1)
        self.energy = flat_energy(f.given(x), self.batch, self.y_shape, parameter)

    def shape(self, y: Tensor) -> Tensor:
        return y.reshape(self.batch + self.y_shape).to(self.dtype)


def _check(f: ConvexNetwork, regularizer: str, gradient: str, on_failure: str) -> None:
    for name, value, allowed in (
        ("regularizer", regularizer, ("entropy",)),
        ("gradient", gradient, ("implicit", "none")),
        ("on_failure", on_failure, ("raise", "nan", "zero")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}; got {value!r}")
    f.check_convex()
    if gradient == "implicit" and not (f.piecewise_linear or f.smooth):
        raise ValueError(
            f"gradient='implicit' needs a piecewise linear or twice differentiable f; {type(f).__name__} with "
            f"activation {f.activation.name!r}{'' if f.quadratic is None else ' and a quadratic term'} is neither. "
            "Choose another activation or gradient='none'."
        )
