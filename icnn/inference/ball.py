"""Programs over a ball: a search for the multiplier of the sphere around programs without it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from icnn.solvers import Status

from .regions import Minimum, Objective, OnFailure, Polyhedron, Region

GROWTH = 8.0  # of the multiplier of a ball, while it is too small
SEARCH = 100  # programs to find it at most
NEAR = 1e-4  # relative distance to the sphere where the search for the multiplier ends
REFINED = 2  # Newton's steps from there
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class BallRegion(Region):
    """{y : |y - centre| ≤ radius}; radius (m,), centre (m, n).

    A program over a ball is one without it and with μ/2 |y - centre|² more, μ ≥ 0 its multiplier: zero where that
    minimiser is inside, else such that it lies on the sphere. The distance falls with μ, and its inverse is nearly
    linear in μ (Moré, Sorensen 1983, Computing a trust region step).
    """

    length: Tensor
    centre: Tensor

    def minimise(self, objective: Objective, on_failure: OnFailure = "zero") -> Minimum:
        with torch.no_grad():
            mu, y = self._multiplier(objective)
            for _ in range(REFINED):
                found, mu = self._held(objective, mu, y)
                y = found.x[:, : y.shape[-1]]
        return self._held(objective, mu, y, on_failure)[0]

    def project(self, y: Tensor) -> Tensor:
        away = y - self.centre
        distance = away.norm(dim=-1, keepdim=True)
        length = self.length.unsqueeze(-1)
        return torch.where(distance > length, self.centre + away * (length / distance.clamp_min(TINY)), y)

    def lowest(self, slope: Tensor) -> Tensor:
        return torch.linalg.vecdot(slope, self.centre) - self.length * slope.norm(dim=-1)

    def middle(self) -> Tensor:
        return self.centre.detach()

    def empty(self) -> Tensor:
        return self.length < 0

    def radius(self) -> Tensor:
        return self.length.detach().unsqueeze(-1)

    def at(self, index: Tensor) -> "BallRegion":
        return BallRegion(self.length[index], self.centre[index])

    def _everywhere(self, objective: Objective, mu: Tensor) -> Minimum:
        """The minimiser of the objective plus μ/2 |y - centre|² over all of space."""
        Q, p = objective.Q, objective.p
        weight = mu.unsqueeze(-1) * torch.ones_like(self.centre)
        shifted = torch.cat((p[:, : weight.shape[-1]] - weight * self.centre, p[:, weight.shape[-1] :]), -1)
        weight = pad(weight, (0, p.shape[-1] - weight.shape[-1]))
        curved = Q + weight if Q.dim() < 3 else Q + torch.diag_embed(weight)
        free = torch.full_like(self.centre, torch.inf)
        return Polyhedron(-free, free).minimise(objective._replace(Q=curved, p=shifted))

    def _excess(self, objective: Objective, mu: Tensor) -> tuple[Tensor, Tensor]:
        """(1/radius - 1/distance, y): negative inside, zero on the sphere; positive where there is no minimiser."""
        found = self._everywhere(objective, mu)
        y = found.x[:, : self.centre.shape[-1]]
        distance = (y - self.centre).norm(dim=-1)
        excess = 1 / self.length - 1 / distance
        return torch.where(found.status == Status.OPTIMAL, excess, 1 / self.length), y

    def _multiplier(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """μ (m,), and y there: regula falsi with the Illinois rule in a bracket that grows from the cost."""
        low = torch.zeros_like(self.length)
        at_low, y = self._excess(objective, low)
        inside = at_low <= 0
        high = objective.p.abs().amax(-1) / self.length + 1e-3
        at_high, y_high = self._excess(objective, high)
        for _ in range(SEARCH):
            if not ((at_high > 0) & ~inside).any():
                break
            outside = (at_high > 0) & ~inside
            low, at_low = torch.where(outside, high, low), torch.where(outside, at_high, at_low)
            high = torch.where(outside, GROWTH * high, high)
            at_high, y_high = self._excess(objective, high)
        mu, y = torch.where(inside, low, high), torch.where(inside.unsqueeze(-1), y, y_high)
        done = inside
        for _ in range(SEARCH):
            middle = (low * at_high - high * at_low) / (at_high - at_low)
            sound = (middle > low) & (middle < high)
            middle = torch.where(sound, middle, 0.5 * (low + high))
            trial, point = self._excess(objective, torch.where(done, mu, middle))
            mu = torch.where(done, mu, middle)
            y = torch.where(done.unsqueeze(-1), y, point)
            done = done | (trial.abs() * self.length <= NEAR) | (high - low <= 1e-15 * high)
            if done.all():
                break
            outside = trial > 0
            at_low, at_high = (
                torch.where(outside, trial, at_low * 0.5),
                torch.where(outside, at_high * 0.5, trial),
            )
            low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
        return torch.where(inside, 0.0, mu), y

    def _held(
        self, objective: Objective, mu: Tensor, y: Tensor, on_failure: OnFailure = "zero"
    ) -> tuple[Minimum, Tensor]:
        """Newton's step from (y, μ), with the sphere as the row that touches it below y: the minimiser and its μ.

        At the solution the step is zero, and differentiable in all data.
        """
        Q, p, G, h, lower, upper = objective
        extra, centre, radius = p.shape[-1] - y.shape[-1], self.centre.detach(), self.length.detach()
        away = y - centre
        away = away * (radius / torch.linalg.vector_norm(away, dim=-1).clamp_min(TINY)).unsqueeze(-1)
        away = torch.where((mu > 0).unsqueeze(-1), away, y - centre)
        weight = pad(mu.unsqueeze(-1) * torch.ones_like(y), (0, extra))
        curved = Q + weight if Q.dim() < 3 else Q + torch.diag_embed(weight)
        p = p - pad(mu.unsqueeze(-1) * (away + self.centre), (0, extra))
        right = torch.linalg.vecdot(away, self.centre) + radius * self.length
        right = torch.where(mu > 0, right, torch.inf).unsqueeze(-1)
        row = pad(away, (0, extra)).unsqueeze(-2)
        rows = row if G is None else torch.cat((G.expand(len(p), -1, -1), row), -2)
        right = right if h is None else torch.cat((h, right), -1)
        free = torch.full_like(y, torch.inf)
        found = Polyhedron(-free, free).minimise(Objective(curved, p, rows, right, lower, upper), on_failure)
        return found._replace(lam=found.lam[:, :-1]), found.lam[:, -1] * (mu > 0)
