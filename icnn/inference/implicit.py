"""Gradients of the minimiser: through the cuts for piecewise linear energies, in Newton form for smooth ones.

Piecewise linear f. The minimiser of the last model is the solution of an entropy bundle whose data are the slopes
and offsets of the active cuts, functions of the weights at points y^i held fixed. The KKT adjoint of the bundle
with o_bar = c_lam, G_bar = lam c_y' + c_lam y', carried on to the weights by autograd, is

    grad_w l = sum_i c_lam_i grad_w f(y^i) + grad_w [ grad_y f(y^i)' (lam_i c_y + c_lam_i (y - y^i)) ].        (6)

It is exact almost everywhere, also for an inference that was cut short: a tangent of a piecewise linear f does not
depend on where on its piece it was taken.

Smooth f. Tangents at fixed points do not know how the minimiser moves, so the optimality condition itself is
differentiated, c_y = -(grad^2 phi + grad^2_y f)^-1 y_bar and grad_w l = grad_w [ grad_y f(y)' c_y ], at a
minimiser that Newton's method has made exact.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from icnn.solvers import QP, EntropyBundle, Status, solve

from .bundle import Bundle, entropy
from .flat import FlatEnergy

NEWTON_STEPS = 50
HALVINGS = 12


def through_cuts(energy: FlatEnergy, bundle: Bundle) -> Tensor:
    """The minimiser of the last model as a function of the weights and x, (batch, n).

    The cuts keep their values and get their derivatives from the pieces of f on which they were found: where a
    point lies on a kink of f, rounding could choose another piece.
    """
    G, o, (points, *units) = bundle.cuts.packed()
    value, slope, _ = energy.pieces(points.movedim(1, 0), [unit.nan_to_num().movedim(1, 0) for unit in units])
    slope = slope.movedim(0, 1)
    offset = value.mT - (slope * points).sum(-1)
    G, o = G + (slope - slope.detach()), o + (offset - offset.detach())
    return solve(EntropyBundle(G, o), on_failure="zero").x[:, :-1]


def newton_minimiser(energy: FlatEnergy, bundle: Bundle, tol: float) -> Bundle:
    """The minimiser of f - H for smooth f from the point of a bundle, by Newton's method in logits.

    With y = sigmoid(u), minimality reads u + grad f(y) = 0, with Jacobian I + grad^2 f diag(y (1 - y)): well scaled
    also where y is close to 0 or 1. A step is halved until the residual falls.
    """
    u = torch.logit(bundle.y, eps=torch.finfo(bundle.y.dtype).tiny)
    for _ in range(NEWTON_STEPS):
        y = torch.sigmoid(u)
        slope, H = _hessian(energy, y)
        residual = u + slope
        if not (_size(residual) > tol * (1 + _size(u))).any():
            break
        J = H * (y * (1 - y)).unsqueeze(-2) + torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        u = _search(energy, u, torch.linalg.solve(J, -residual), _size(residual))
    return _with_gap(energy, bundle, torch.sigmoid(u), tol)


def through_newton(energy: FlatEnergy, bundle: Bundle) -> Tensor:
    """The minimiser plus a Newton step that is zero, through which the weights and x are seen; first order only."""
    y = bundle.y
    _, H = _hessian(energy, y)
    tiny = torch.finfo(y.dtype).tiny
    curvature = H + torch.diag_embed((y * (1 - y)).clamp_min(tiny).reciprocal())
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(leaf).sum(), leaf, create_graph=True)
    optimality = slope + torch.logit(y, eps=tiny)
    newton = solve(QP(0.5 * (curvature + curvature.mT), optimality), on_failure="zero")
    return y + first_order(newton.x)


def first_order(value: Tensor) -> Tensor:
    """The value, whose derivative refuses to be built as a graph of its own: what depends on it would be left out."""
    return _FirstOrder.apply(value)  # pyright: ignore[reportReturnType]


class _FirstOrder(torch.autograd.Function):
    """The identity."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():  # as it is under create_graph=True alone
            raise RuntimeError("derivatives of second order do not exist here: call backward without create_graph")
        return y_bar


def _hessian(energy: FlatEnergy, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (batch, n) and Hessian (batch, n, n) of the energy, one reverse pass for each of n rows."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
        rows = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device).unsqueeze(1).expand(-1, *y.shape)
        if not slope.requires_grad:
            return slope, torch.zeros_like(rows).movedim(0, -2)
        (H,) = torch.autograd.grad(slope, y, rows, is_grads_batched=True, materialize_grads=True)
    return slope.detach(), H.detach().movedim(0, -2)


def _search(energy: FlatEnergy, u: Tensor, step: Tensor, size: Tensor) -> Tensor:
    length = torch.ones_like(size)
    for _ in range(HALVINGS):
        trial = u + length.unsqueeze(-1) * step
        worse = _size(trial + energy.tangent(torch.sigmoid(trial)).slope) > (1 - 0.1 * length) * size
        if not worse.any():
            break
        length = torch.where(worse, 0.5 * length, length)
    return u + length.unsqueeze(-1) * step


def _with_gap(energy: FlatEnergy, bundle: Bundle, y: Tensor, tol: float) -> Bundle:
    """The bundle at a better point, with the lower bound of the tangent there."""
    y = torch.where(torch.isfinite(y).all(-1, keepdim=True), y, bundle.y)
    value, slope, _ = energy.tangent(y)
    upper = value - entropy(y)
    model = value - torch.linalg.vecdot(slope, y) - torch.nn.functional.softplus(-slope).sum(-1)
    lower = bundle.lower.maximum(model)
    closed = (upper - lower <= tol * (1 + upper.abs())) & (bundle.status == Status.MAX_ITERATIONS)
    status = bundle.status.masked_fill(closed, int(Status.OPTIMAL))
    return replace(bundle, y=y, upper=upper, lower=lower, status=status)


def _size(v: Tensor) -> Tensor:
    return v.abs().amax(-1)
