"""What a predicted cost loses: the regret of its decision, and convex losses that have a gradient where it has none.

    regret(ĉ, c) = c'x(ĉ) - min_x c'x  >= 0,      x(c) = argmin_x c'x  over the feasible set

The losses are classes, as those of torch.nn: made with the `LinearDecision`, called with predictions, and one number
for each instance, whose mean or sum is left to the caller.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from icnn.inference.implicit import first_order
from icnn.solvers import Status

from .programs import LinearDecision, decide, draw, live


def regret(
    decision: LinearDecision,
    predicted: Float[Tensor, "*batch n"],
    true: Float[Tensor, "*batch n"],
    best: Float[Tensor, "*batch n"] | None = None,
    *,
    relative: bool = False,
) -> Float[Tensor, "*batch"]:
    """c'x(ĉ) - min c'x, what deciding by the predicted cost ĉ costs in excess; without gradient.

    Not negative, up to the certificate of the two solutions. Where x(ĉ) is not unique, the regret of the point that
    the solver returns; the worst of them may have a larger one.

    decision: the feasible set. predicted, true: ĉ and c, (*batch, n). best: x(c), where it is known.
    relative: in units of |min c'x| of the instance.
    Returns (*batch,); nan where a program failed, if that does not raise.
    Raises as `icnn.solve`.
    """
    with torch.no_grad():
        found, best, failed = _both(decision, predicted, true, best)
        least = (true * best).sum(-1)
        excess = (true * found).sum(-1) - least
        return (excess / least.abs() if relative else excess).masked_fill(failed, torch.nan)


class SPOPlus(nn.Module):
    """(ĉ, c) -> max_x (c - 2ĉ)'x + 2ĉ'x(c) - min_x c'x, the smart predict-then-optimise loss.

    Convex in ĉ, zero at ĉ = c, and at least the regret of every minimiser of ĉ'x. 2 (x(c) - x(2ĉ - c)) is a
    subgradient, the one that is returned; first order only. One program for each instance, two where x(c) is not
    given.

    decision: the feasible set.
    predicted, true: ĉ and c, (*batch, n). best: x(c), where it is known.
    Returns (*batch,).
    Raises as `icnn.solve`; ValueError for constraints that require a gradient, and a true cost that does.
    Source: Elmachtoub, Grigas (2022), Smart "predict, then optimize".
    """

    def __init__(self, decision: LinearDecision) -> None:
        super().__init__()
        self.decision = decision

    def forward(
        self,
        predicted: Float[Tensor, "*batch n"],
        true: Float[Tensor, "*batch n"],
        best: Float[Tensor, "*batch n"] | None = None,
    ) -> Float[Tensor, "*batch"]:
        if true.requires_grad:
            raise ValueError("true is a constant of the loss; got one that requires a gradient")
        found, best, failed = _both(self.decision, (2 * predicted - true).detach(), true, best)
        tilted = 2 * live(self.decision, predicted, failed) - true
        return _loss(self.decision, (tilted * (best - found)).sum(-1), failed)

    def extra_repr(self) -> str:
        return repr(self.decision)


class PerturbedDecision(nn.Module):
    """(ĉ, x) -> the mean over samples of (ĉ + sigma z)'x - min_x' (ĉ + sigma z)'x', z Gaussian.

    The perturbed Fenchel-Young loss of decisions; `PerturbedFenchelYoung` is that of energies.
    Needs the right decision x and not its cost. For every draw convex in ĉ and not negative; its gradient is x less
    the perturbed minimiser, x - mean x(ĉ + sigma z), by Danskin's theorem, and first order only. Its expectation is
    the Fenchel-Young loss of the perturbed minimum, but for a constant.

    decision: the feasible set. sigma: in units of the cost. samples: programs for each instance.
    generator: of the noise, on the device of ĉ; torch's own by default.
    predicted: ĉ, (*batch, n). best: x, a decision, (*batch, n).
    Returns (*batch,). An instance fails where one of its samples does.
    Raises as `icnn.solve`; ValueError for sigma or samples out of range, constraints that require a gradient.
    Source: Berthet, Blondel, Teboul, Cuturi, Vert, Bach (2020), Learning with differentiable perturbed optimizers.
    """

    def __init__(
        self, decision: LinearDecision, sigma: float = 1.0, samples: int = 10, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.decision, self.sigma, self.samples, self.generator = decision, sigma, samples, generator

    def forward(self, predicted: Float[Tensor, "*batch n"], best: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        drawn = draw(self.decision, predicted, self.sigma, self.samples, self.generator)
        cost = live(self.decision, predicted, drawn.failed) + drawn.noise
        return _loss(self.decision, (cost * (best - drawn.x)).sum(-1).mean(0), drawn.failed)

    def extra_repr(self) -> str:
        return f"{self.decision}, sigma={self.sigma}, samples={self.samples}"


def _both(decision: LinearDecision, c: Tensor, true: Tensor, best: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """x(c), x(true) unless it is given, and where one of them failed."""
    found, status = decide(decision, c)
    failed = status != Status.OPTIMAL
    if best is None:
        best, status = decide(decision, true)
        failed = failed | (status != Status.OPTIMAL)
    return found, best, failed


def _loss(decision: LinearDecision, value: Tensor, failed: Tensor) -> Tensor:
    """The loss with its own policy for failures; its derivative is a subgradient and has none."""
    return first_order(value.masked_fill(failed, 0.0) if decision.on_failure == "zero" else value)
