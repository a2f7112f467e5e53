"""Gradients of the minimiser: through the cuts for piecewise linear energies, in Newton form for smooth ones.

Piecewise linear f. The minimiser of the last model is the solution of a program whose data are the slopes and offsets
of the active cuts, functions of the weights at points y^i held fixed. Its KKT adjoint with o_bar = c_lam,
G_bar = lam c_y' + c_lam y', carried on to the weights by autograd, is

    grad_w l = sum_i c_lam_i grad_w f(y^i) + grad_w [ grad_y f(y^i)' (lam_i c_y + c_lam_i (y - y^i)) ].        (6)

It is exact almost everywhere, also for an inference that was cut short: a tangent of a piecewise linear f does not
depend on where on its piece it was taken.

Smooth f. Tangents at fixed points do not know how the minimiser moves, so the optimality condition itself is
differentiated, at a minimiser that Newton's method has made exact: c solves the KKT system of the quadratic model
there, with the constraints that hold, and grad_w l = grad_w [ grad_y f(y)' c_y ].
"""

from typing import Any

import torch
from torch import Tensor

from .cuts import Cuts
from .flat import FlatEnergy
from .newton import hessian
from .regions import OnFailure
from .regularized import Regularized


def through_cuts(energy: FlatEnergy, over: Regularized, cuts: Cuts, on_failure: OnFailure) -> Tensor:
    """The minimiser of the last model as a function of the weights and x, (batch, n).

    The cuts keep their values and get their derivatives from the pieces of f on which they were found: where a
    point lies on a kink of f, rounding could choose another piece.
    """
    cuts = cuts.packed()
    slope, offset = _pieces(energy, cuts)
    G, o = cuts.G + (slope - slope.detach()), cuts.o + (offset - offset.detach())
    return over.cut_model(G, o, on_failure).y


def value_of_cuts(energy: FlatEnergy, over: Regularized, cuts: Cuts, y: Tensor) -> Tensor:
    """Σ λ_i (f(y^i) + g_i'(y - y^i)), (batch,), the minimum of the last model but for φ: its derivative at fixed y.

    At a kink f itself has none in the weights; that of the minimum is this average of its pieces.
    """
    cuts = cuts.packed()
    with torch.no_grad():
        lam = over.cut_model(cuts.G, cuts.o).lam
    slope, offset = _pieces(energy, cuts)
    return (lam * (offset + (slope * y.unsqueeze(1)).sum(-1))).sum(-1)


def _pieces(energy: FlatEnergy, cuts: Cuts) -> tuple[Tensor, Tensor]:
    """Slopes (batch, k, n) and offsets (batch, k) of the cuts as functions of the weights."""
    units = [unit.nan_to_num().movedim(1, 0) for unit in cuts.marks]
    value, slope, _ = energy.pieces(cuts.points.movedim(1, 0), units)
    slope = slope.movedim(0, 1)
    return slope, value.mT - (slope * cuts.points).sum(-1)


def through_newton(energy: FlatEnergy, over: Regularized, y: Tensor, on_failure: OnFailure) -> Tensor:
    """The minimiser y plus a Newton step that is zero, through which all data are seen; first order only."""
    _, H = hessian(energy, y)
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(leaf).sum(), leaf, create_graph=True)
    moved, _ = over.newton_step(y, slope, H, on_failure)
    return first_order(y + (moved - moved.detach()))


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
