"""The Fenchel-Young loss whose regulariser is made by noise."""

from typing import Any

import torch
from torch import Generator, Tensor

from icnn.inference import Domain
from icnn.networks import ConvexNetwork

from .prediction import UNIT, PredictionLoss, Reduction, Regularizer


class PerturbedFenchelYoung(PredictionLoss):
    """The perturbed Fenchel-Young loss of an energy, by M draws of noise in one batched inference.

        l(x, y) = 1/M sum_m { f(x, y) + sigma Z_m'y - min_ŷ [ f(x, ŷ) + sigma Z_m'ŷ ] },    Z_m ~ N(0, I)

    Every term is a perceptron loss, of an energy that the noise has tilted, so that l >= 0 for each draw. Its gradient
    with respect to the weights and x is grad f(x, y) - 1/M sum_m grad f(x, ŷ_m), ŷ_m the minimisers; on kinks as in
    `structured`.

    In expectation sigma Z'y vanishes: E l = f(x, y) - E min_ŷ [ f(x, ŷ) + sigma Z'ŷ ], whatever M. The minimum is
    concave in the tilt, so (Jensen) E l >= f(x, y) - min_ŷ f(x, ŷ), the perceptron loss, and it tends to that for
    sigma -> 0. With f(x, ŷ) = c(x)'ŷ, E l is convex in c, its gradient is y - E ŷ_m, and it differs from the
    Fenchel-Young loss of Berthet et al. by Omega(y) alone, which depends on y only and has no closed form. So E l is
    not zero at its minimum, which is where E ŷ_m = y; for y at a vertex of the domain that is at infinity.

    samples: M. sigma: size of the noise, in units of the slope of f. regularizer: phi, added to f; None by default.
    domain: its data are shared by all instances.
    Called with x, y as FenchelYoung, and a generator for draws that can be repeated. The other arguments, returns and
        errors as in FenchelYoung; ValueError too unless samples and sigma are positive. An instance of which one draw
        fails has failed.
    Source: Berthet, Blondel, Teboul, Cuturi, Vert, Bach, Learning with differentiable perturbed optimizers, 2020.
    """

    def __init__(
        self,
        f: ConvexNetwork,
        domain: Domain = UNIT,
        regularizer: Regularizer = None,
        samples: int = 10,
        sigma: float = 1.0,
        reduction: Reduction = "mean",
        **inference: Any,
    ) -> None:
        super().__init__(f, domain, regularizer, reduction, inference)
        if samples < 1 or not sigma > 0:
            raise ValueError(f"samples and sigma must be positive; got samples={samples}, sigma={sigma}")
        self.samples, self.sigma = samples, sigma

    def forward(self, x: Tensor | None, y: Tensor, generator: Generator | None = None) -> Tensor:
        self.check_shape(x, y)
        shape = (self.samples, *y.shape)
        tilt = self.sigma * torch.randn(shape, generator=generator, dtype=y.dtype, device=y.device)
        x = None if x is None else x.expand(self.samples, *x.shape)
        loss, failed = self.excess(x, y.expand(shape), tilt)
        return self.reduce(loss.mean(0), failed.any(0))
