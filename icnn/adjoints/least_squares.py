"""Least squares through a dense layer, ½‖Y - h(XΘ)‖²: the loss and its gradient in one pass over the rows.

Derivation. With Z = XΘ, S = h(Z), R = S - Y and Q = R ∘ h′(Z) the loss is ℓ = ½⟨R, R⟩, where ⟨A, B⟩ = tr AᵀB, and

    dℓ = ⟨R, dR⟩ = ⟨R, h′ ∘ dZ - dY⟩ = ⟨Q, X dΘ + dX Θ⟩ - ⟨R, dY⟩ = ⟨XᵀQ, dΘ⟩ + ⟨QΘᵀ, dX⟩ - ⟨R, dY⟩.

An elementwise factor crosses the inner product as it is, a matrix on the left crosses it as its transpose on the left,
one on the right as its transpose on the right. What then stands beside dΘ is the gradient, and since an inner product
has both its factors in one space, it has the shape of Θ:

    ∂ℓ/∂Θ = Xᵀ((h(XΘ) - Y) ∘ h′(XΘ)),    ∂ℓ/∂X = QΘᵀ,    ∂ℓ/∂Y = -R.

Second order. Let V come back to the gradient: the differential of ⟨V, XᵀQ⟩ = ⟨U, R ∘ h′⟩ with U = XV is, by the same
moves and dh′ = h″ ∘ dZ,

    ⟨QVᵀ, dX⟩ + ⟨U ∘ (h′ ∘ h′ + R ∘ h″), dZ⟩ - ⟨U ∘ h′, dY⟩,

so that the Hessian takes V to Xᵀ(U ∘ (h′ ∘ h′ + R ∘ h″)). Without R ∘ h″, small where the fit is good, it is JᵀJ of
the method of Gauss and Newton: the Jacobian of the residual is J V = h′ ∘ (XV), and its transpose JᵀU = Xᵀ(h′ ∘ U).

XᵀQ is a sum over rows, and so is ℓ: the pass forward takes some rows at a time, adds up both, and keeps XᵀQ alone.

Source: Magnus, Neudecker 2019, "Matrix differential calculus", chapters 8 and 9; Nocedal, Wright 2006, chapter 10.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import OptimizeResult, least_squares
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from .activations import ActivationName, activation_named

BLOCK = 2**18  # entries of Z at a time: what a cache holds
FEWEST_ROWS = 512  # for which a product of matrices is still efficient


def dense_least_squares(
    X: Float[Tensor, "... n p"],
    theta: Float[Tensor, "..."],
    Y: Float[Tensor, "..."],
    *,
    activation: ActivationName = "identity",
) -> Float[Tensor, "..."]:
    """½‖Y - h(XΘ)‖², summed over rows and columns, with its gradient in Θ computed in the same pass.

    X: (*batch, n, p), a row for each sample.
    theta: (*batch, p, q). A bias is the row of it that meets a column of ones in X.
    Y: (*batch, n, q).
    activation: h, elementwise: "tanh", "sigmoid", "relu", "softplus" or "identity".
    Each of the three may lack batch dimensions; a shared one collects the gradients of all.
    Returns (*batch,), differentiable in all three to any order (of relu: what autograd gives).
    Between forward and backward only the gradient of Θ is kept beside the arguments; gradients for X and Y take the
    product XΘ a second time.
    Raises ValueError for an unknown activation and for wrong shapes or dtypes.
    """
    batch = _check(X, theta, Y, activation)
    if batch:
        X, theta, Y = (t.expand(*batch, *t.shape[-2:]) for t in (X, theta, Y))
    at_once = theta.requires_grad and torch.is_grad_enabled()
    return _DenseLeastSquares.apply(X, theta, Y, activation, at_once)[0]


def fit_dense_least_squares(
    X: Float[Tensor, "n p"],
    Y: Float[Tensor, "..."],
    start: Float[Tensor, "..."] | None = None,
    *,
    activation: ActivationName = "identity",
    **options: Any,
) -> tuple[Float[Tensor, "p q"], OptimizeResult]:
    """Θ that minimises ½‖Y - h(XΘ)‖², from a start, by the trust-region Gauss-Newton method of scipy.

    The Jacobian is an operator, V to h′ ∘ (XV) with the transpose U to Xᵀ(h′ ∘ U), and never a matrix of nq by pq.

    X: (n, p). Y: (n, q).
    start: (p, q), where to begin; without it at the minimiser of ‖Y - XΘ‖.
    activation: as of dense_least_squares.
    options: of scipy.optimize.least_squares: xtol, ftol, gtol, max_nfev, loss, bounds, tr_options.
    Returns (Θ, result): Θ like X, and what scipy says: result.status, cost, nfev, optimality. Computed in float64, not
    differentiable, and a local minimum for h other than the identity.
    Raises ValueError for an unknown activation, for wrong shapes or dtypes, and for values that are not finite.
    """
    if _check(X, X.new_zeros(X.shape[-1], Y.shape[-1]) if start is None else start, Y, activation):
        raise ValueError(f"a fit takes matrices without batch dimensions; got X {_shape(X)} and Y {_shape(Y)}")
    if not (X.isfinite().all() and Y.isfinite().all()):
        raise ValueError("X and Y must be finite")
    data, target, h = X.detach().double(), Y.detach().double(), activation_named(activation)
    first = torch.linalg.pinv(data) @ target if start is None else start.detach()

    def fitted(flat: np.ndarray) -> Tensor:
        return h.value(data @ _like(first, flat))

    def residual(flat: np.ndarray) -> np.ndarray:
        return _flat(fitted(flat) - target)

    def jacobian(flat: np.ndarray) -> LinearOperator:
        return _Jacobian(data, h.slope(fitted(flat)))

    options = {"jac": jacobian, "tr_solver": "lsmr"} | options
    result = least_squares(residual, _flat(first), **options)
    return _like(first, result.x).to(X.dtype), result


class _Jacobian(LinearOperator):
    """V to h′ ∘ (XV), and its transpose, of and to flat arrays."""

    def __init__(self, X: Tensor, slope: Tensor) -> None:
        self._X, self._slope = X, slope
        super().__init__(np.dtype(np.float64), (slope.numel(), X.shape[1] * slope.shape[1]))

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        V = torch.as_tensor(v, device=self._X.device).reshape(self._X.shape[1], -1)
        return _flat(self._slope * (self._X @ V))

    def _rmatvec(self, u: np.ndarray) -> np.ndarray:
        return _flat(self._X.mT @ (self._slope * _like(self._slope, u)))


def _like(matrix: Tensor, flat: np.ndarray) -> Tensor:
    """The array in float64, with the shape and on the device of the matrix."""
    return torch.as_tensor(flat, device=matrix.device).reshape(matrix.shape)


def _flat(matrix: Tensor) -> np.ndarray:
    return matrix.flatten().double().cpu().numpy()


def _check(X: Tensor, theta: Tensor, Y: Tensor, activation: str) -> torch.Size:
    """The batch dimensions of the three."""
    activation_named(activation)
    if X.ndim < 2:
        raise ValueError(f"X must be of shape (*batch, n, p); got {_shape(X)}")
    n, p = X.shape[-2:]
    if theta.ndim < 2 or theta.shape[-2] != p:
        raise ValueError(f"theta must be of shape (*batch, {p}, q) for this X; got {_shape(theta)}")
    if Y.ndim < 2 or Y.shape[-2:] != (n, theta.shape[-1]):
        raise ValueError(f"Y must be of shape (*batch, {n}, {theta.shape[-1]}) for this X and theta; got {_shape(Y)}")
    if not X.dtype == theta.dtype == Y.dtype:
        raise ValueError(f"X, theta and Y must have one dtype; got {X.dtype}, {theta.dtype}, {Y.dtype}")
    try:
        return torch.broadcast_shapes(*(t.shape[:-2] for t in (X, theta, Y)))
    except RuntimeError:
        raise ValueError(
            f"batch dimensions of X, theta and Y must fit; got {_shape(X)}, {_shape(theta)}, {_shape(Y)}"
        ) from None


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


class _DenseLeastSquares(torch.autograd.Function):
    """(ℓ, XᵀQ): the gradient is an output, so that autograd knows it in a second sweep; None if not wanted at once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(X, theta, Y, activation, at_once):
        h = activation_named(activation)
        loss = X.new_zeros(X.shape[:-2])
        gradient = torch.zeros_like(theta, memory_format=torch.contiguous_format) if at_once else None
        rows = max(FEWEST_ROWS, BLOCK // max(1, loss.numel() * Y.shape[-1]))
        for x, y in zip(X.split(rows, -2), Y.split(rows, -2), strict=True):
            s = h.value(x @ theta)
            r = s - y
            loss = loss + 0.5 * r.square().sum((-2, -1))
            if gradient is not None:
                gradient = gradient + x.mT @ h.pull(r, s)
        return loss, gradient

    @staticmethod
    def setup_context(ctx, inputs, output):
        X, theta, Y, ctx.activation, _ = inputs
        ctx.save_for_backward(X, theta, Y, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, loss_bar, V):
        X, theta, Y, gradient = ctx.saved_tensors
        wants_X, wants_theta, wants_Y, *_ = ctx.needs_input_grad
        a = (X.new_zeros(X.shape[:-2]) if loss_bar is None else loss_bar)[..., None, None]
        known = V is None and gradient is not None
        if known and not (wants_X or wants_Y):
            return None, a * gradient, None, None, None
        h = activation_named(ctx.activation)
        s = h.value(X @ theta)
        r, h1 = s - Y, h.slope(s)
        q, r_bar = a * r * h1, a * r
        if V is not None:
            U = X @ V
            q = q + U * (h1.square() + r * h.bend(s))
            r_bar = r_bar + U * h1
        X_bar = theta_bar = None
        if wants_X:
            X_bar = q @ theta.mT if V is None else q @ theta.mT + (r * h1) @ V.mT
        if wants_theta:
            theta_bar = a * gradient if known else X.mT @ q
        return X_bar, theta_bar, -r_bar if wants_Y else None, None, None
