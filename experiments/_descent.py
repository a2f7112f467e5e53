"""Gradient descent on energies that need not be convex, which icnn.argmin would refuse."""

from collections.abc import Callable

import torch
from torch import Tensor

import icnn
from icnn.networks import Energy


def descended(
    f: icnn.ConvexNetwork,
    x: Tensor,
    start: Tensor,
    descent: icnn.Descent,
    steps: int,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The point after so many steps of gradient descent on y -> f(x, y) - H(y), H the entropy on the unit box.

        w = u + beta (u - u_before),    u_after = (w - length slope) / (1 + length),    slope = grad f(x, sigmoid(w))

    in logits u; length is descent.lr, or 2 / (k + 1) in step k; beta = 0 unless the rule is "momentum" with a rate.
    Those are the steps of icnn.argmin(method=descent, gradient="unrolled") for f with kinks. Autograd follows them all.

    x: (*batch, *f.x_shape). start: f.y_shape. callback: called with the number of each step and its y. Returns
    (*batch, *f.y_shape).
    """
    if descent.rule == "adam":
        raise ValueError(f'descent is {descent}: expected the rule "gradient" or "momentum"')
    energy, beta = f.given(x), descent.beta if descent.rule == "momentum" and descent.lr else 0.0
    assert isinstance(energy, Energy)
    batch = x.shape[: x.ndim - len(f.x_shape or ())]
    u = before = torch.logit(start, eps=torch.finfo(start.dtype).tiny).expand(*batch, *start.shape)
    for number in range(1, steps + 1):
        w = u + beta * (u - before)
        length, slope = descent.lr or 2 / (number + 1), _slope(energy, w.sigmoid(), f.piecewise_linear)
        u, before = (w - length * slope) / (1 + length), u
        if callback is not None:
            callback(number, u.sigmoid().detach())
    return u.sigmoid()


def _slope(energy: Energy, y: Tensor, piecewise_linear: bool) -> Tensor:
    """grad f(y), with a graph where one is asked for.

    On its piece the slope of a piecewise linear f does not change with y: its derivative in weights and x is all.
    """
    if not torch.is_grad_enabled():
        return energy.tangent(y).slope
    if piecewise_linear:
        return energy.piece(y.detach(), energy.tangent(y.detach()).units).slope
    y = y if y.requires_grad else y.detach().requires_grad_()
    return torch.autograd.grad(energy(y).sum(), y, create_graph=True)[0]
