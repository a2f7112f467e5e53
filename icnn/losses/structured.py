"""Losses that compare the energy of the labels with its minimum: no derivative of an argmin is needed.

With E(x, y) = f(x, y) + phi(y) and a linear term c,

    l(x, y) = E(x, y) + c'y - min over ŷ in the domain of [ E(x, ŷ) + c'ŷ ]  >=  0,

and zero if and only if y is a minimiser. By Danskin's theorem the minimiser ŷ is held fixed in the gradient: where f is
smooth, the weights of f get grad f(x, y) - grad f(x, ŷ). A piecewise linear f has its minimisers on kinks, where it has
no gradient in the weights either: with f = max_i f_i near ŷ and the multipliers lam_i of the pieces, sum lam_i = 1, it
is grad f(x, y) - sum_i lam_i grad f_i(x, ŷ). Two choices, phi and c, make the losses of the literature.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from icnn.inference import Domain
from icnn.networks import ConvexNetwork

from .prediction import UNIT, PredictionLoss, Reduction, Regularizer


class FenchelYoung(PredictionLoss):
    """The Fenchel-Young loss of the energy f + phi.

        l(x, y) = E(x, y) - min_ŷ E(x, ŷ),    E(x, y) = f(x, y) + phi(y)

    >= 0, and zero if and only if y = argmin_ŷ E(x, ŷ), which phi makes unique. The gradient with respect to the
    weights and x holds ŷ fixed; that with respect to y is the slope of E. For f = c'y on the unit box with the entropy
    it is the logistic loss of each label with logits -c.

    f: a ConvexNetwork. domain: of y, see icnn.argmin.
    regularizer: phi, "entropy" or "quadratic" or an object of these kinds, see icnn.argmin.
    reduction: "mean" over the batch, or "none". inference: further arguments of icnn.argmin: method, max_iter, tol,
        on_failure. An inference that was cut short makes the loss too small by at most its gap.
    Called with x (*batch, *x_shape), None for a network without x, and y (*batch, *y_shape) in the domain. Returns a
        scalar, or (*batch,) without reduction. For failed instances see PredictionLoss.
    Raises ValueError for labels outside of the domain or of other shapes or another dtype; SolverError as asked for.
    Source: Blondel, Martins, Niculae, Learning with Fenchel-Young losses, JMLR 2020.
    """

    def __init__(
        self,
        f: ConvexNetwork,
        domain: Domain = UNIT,
        regularizer: Regularizer = "entropy",
        reduction: Reduction = "mean",
        **inference: Any,
    ) -> None:
        super().__init__(f, domain, regularizer, reduction, inference)

    def forward(self, x: Tensor | None, y: Tensor) -> Tensor:
        return self.reduce(*self.excess(x, y))


class Perceptron(PredictionLoss):
    """The loss of the structured perceptron: FenchelYoung without a regulariser.

        l(x, y) = f(x, y) - min_ŷ f(x, ŷ)

    Zero as soon as y is a minimiser, unique or not: nothing keeps other minimisers away, a constant f has no loss.
    Arguments, returns and errors as in FenchelYoung.
    Source: Collins, Discriminative training methods for hidden Markov models, EMNLP 2002.
    """

    def __init__(
        self, f: ConvexNetwork, domain: Domain = UNIT, reduction: Reduction = "mean", **inference: Any
    ) -> None:
        super().__init__(f, domain, None, reduction, inference)

    def forward(self, x: Tensor | None, y: Tensor) -> Tensor:
        return self.reduce(*self.excess(x, y))


class MaxMargin(PredictionLoss):
    """The structured hinge loss: labels are to beat each ŷ by a margin that grows with its cost.

        l(x, y) = E(x, y) - min_ŷ [ E(x, ŷ) - Delta(y, ŷ) ],    Delta(y, ŷ) = c(y)'(ŷ - y)

    >= 0, and >= Delta(y, ŷ*) at the prediction ŷ* = argmin_ŷ E(x, ŷ). The inference is loss-augmented: it looks for
    costly labels of low energy. Delta must be concave in ŷ for it to be convex, and is linear here.

    cost: of each label that differs, one number or y_shape, not negative: Delta(y, ŷ) = sum_j cost_j |y_j - ŷ_j|, the
        Hamming distance for cost 1, with c(y) = cost (1 - 2y) for y in {0, 1}. Or a callable: y to c(y) of its shape.
    regularizer: phi in E = f + phi; None by default.
    The other arguments, returns and errors as in FenchelYoung; ValueError too for labels that are not 0 or 1 where
        cost is a number or a tensor.
    Source: Taskar, Guestrin, Koller 2003; Tsochantaridis, Joachims, Hofmann, Altun, JMLR 2005 (margin rescaling).
    """

    def __init__(
        self,
        f: ConvexNetwork,
        domain: Domain = UNIT,
        regularizer: Regularizer = None,
        cost: float | Tensor | Callable[[Tensor], Tensor] = 1.0,
        reduction: Reduction = "mean",
        **inference: Any,
    ) -> None:
        super().__init__(f, domain, regularizer, reduction, inference)
        self.cost, self.weight = (cost, None) if callable(cost) else (None, _weights(cost, f))

    def forward(self, x: Tensor | None, y: Tensor) -> Tensor:
        return self.reduce(*self.excess(x, y, -self.costs(y)))

    def costs(self, y: Tensor) -> Tensor:
        """c(y), in the shape of y."""
        if self.cost is not None:
            cost = self.cost(y)
            if cost.shape != y.shape:
                raise ValueError(f"cost must return the shape of y, {tuple(y.shape)}; got {tuple(cost.shape)}")
            return cost
        if not ((y == 0) | (y == 1)).all():
            raise ValueError("y must be 0 or 1 in every entry where cost is a weight; give a callable cost otherwise")
        assert self.weight is not None
        return self.weight * (1 - 2 * y)


def _weights(cost: float | Tensor, f: ConvexNetwork) -> nn.Buffer:
    """The cost of each label, in a buffer."""
    weight = next(f.parameters())
    cost = torch.as_tensor(cost, dtype=weight.dtype, device=weight.device)
    if cost.shape not in (torch.Size(), torch.Size(f.y_shape)) or not (cost >= 0).all():
        raise ValueError(f"cost must be one number or {tuple(f.y_shape)}, not negative; got {cost}")
    return nn.Buffer(cost)
