"""First-order methods on f + phi over a set, for a batch, as steps that autograd can follow.

    gradient    u+ = argmin_y  g'y + phi(y) + D(y, y_k) / length,   g = grad f(y_k)
    momentum    the same from y_k + beta (y_k - y_{k-1})
    adam        u+ = the nearest point to u - lr m / (sqrt(v) + eps), of averages m, v of the whole slope and its square

D is half the squared distance, so that the first is the proximal (projected) gradient method, or under an entropy the
divergence of that entropy, where it is mirror descent in logits. Without a given rate the length of a step is found by
halving until the quadratic bound holds that a smooth f satisfies, and momentum is Nesterov's, started again where the
slope turns against it. An f with kinks satisfies no such bound: its lengths fall as 1/k, or 1/sqrt(k) without phi.

Source: Beck, Teboulle (2009), A fast iterative shrinkage-thresholding algorithm; O'Donoghue, Candès (2015), Adaptive
restart for accelerated gradient schemes; Kingma, Ba (2015), Adam; Amos, Xu, Kolter (2017), sections 4.1 and 6.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .flat import FlatEnergy
from .outcome import Callback, Outcome, closed
from .regularized import Euclidean, Regularized

Rule = Literal["gradient", "momentum", "adam"]
RULES: tuple[Rule, ...] = ("gradient", "momentum", "adam")
HALVINGS = 30
ROUNDING, STILL = 4, 5e4  # of values; and of a decrease for which no length is tried: in units of their precision
LONGER = 1.2  # length of the next step against the last
ADAM_RATE = 0.05
BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True)
class Descent:
    """A first-order method with its rate, as `argmin(method=...)` takes it.

    rule: "gradient", "momentum" or "adam". lr: the length of a step, fixed; found step by step where None (0.05 for
    adam). beta: of momentum with a fixed lr.
    """

    rule: Rule = "gradient"
    lr: float | None = None
    beta: float = 0.9

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {RULES}; got {self.rule!r}")
        if (self.lr is not None and not self.lr > 0) or not 0 <= self.beta < 1:
            raise ValueError(f"lr is {self.lr} and beta {self.beta}, expected lr > 0 and 0 <= beta < 1")


class State(NamedTuple):
    """Coordinates now and before (m, n), length of the last step (m, 1), Nesterov's t (m, 1), Adam's averages."""

    u: Tensor
    before: Tensor
    length: Tensor
    t: Tensor
    mean: Tensor
    square: Tensor


@dataclass(frozen=True, eq=False)
class Descender:
    """One method on one batch; smooth: whether f is."""

    energy: FlatEnergy
    over: Regularized
    method: Descent
    smooth: bool
    graph: bool = False

    def start(self, y: Tensor) -> State:
        u = self.over.coordinates(y)
        one = torch.ones_like(u[:, :1])
        scale = self.over.region.radius() if isinstance(self.over, Euclidean) else one
        return State(u, u, scale, one, torch.zeros_like(u), torch.zeros_like(u))

    def ahead(self, state: State) -> Tensor:
        """Where the next slope is taken."""
        if self.method.rule != "momentum" or not (self.smooth or self.method.lr):
            return state.u
        t = 0.5 * (1 + (1 + 4 * state.t.square()).sqrt())
        beta = (state.t - 1) / t if self.method.lr is None else self.method.beta
        return self.over.confine(state.u + beta * (state.u - state.before))

    def tangent(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y, f(y) and its slope."""
        y = self.over.point(w)
        if not self.graph:
            value, slope, _ = self.energy.tangent(y)
            return y, value, slope
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            value = self.energy(y)
            (slope,) = torch.autograd.grad(value.sum(), y, create_graph=True)
        return y, value, slope

    def step(self, state: State, w: Tensor, y: Tensor, value: Tensor, slope: Tensor, number: int) -> State:
        """The state after step `number`, from 1, with the slope at w."""
        if self.method.rule == "adam":
            return self._adam(state, slope, number)
        length = self._length(state, w, y.detach(), value.detach(), slope.detach(), number)
        u = self.over.step(w, slope, length)
        t = 0.5 * (1 + (1 + 4 * state.t.square()).sqrt())
        back = torch.linalg.vecdot(w - u, u - state.u).detach() > 0
        t = torch.where(back.unsqueeze(-1), 1.0, t)
        before = torch.where(back.unsqueeze(-1), u, state.u) if self.method.lr is None else state.u
        return state._replace(u=u, before=before, length=length, t=t)

    def _adam(self, state: State, slope: Tensor, number: int) -> State:
        whole = self.over.pull(state.u, slope)
        mean = BETAS[0] * state.mean + (1 - BETAS[0]) * whole
        square = BETAS[1] * state.square + (1 - BETAS[1]) * whole.square()
        m, v = mean / (1 - BETAS[0] ** number), square / (1 - BETAS[1] ** number)
        u = state.u - (self.method.lr or ADAM_RATE) * m / ((v + EPS**2).sqrt() + EPS)
        return state._replace(u=self.over.confine(u), before=state.u, mean=mean, square=square)

    @torch.no_grad()
    def _length(self, state: State, w: Tensor, y: Tensor, value: Tensor, slope: Tensor, number: int) -> Tensor:
        if self.method.lr is not None:
            return torch.full_like(state.length, self.method.lr)
        if not self.smooth:
            return self._falling(slope, number)
        length = state.length * LONGER
        unit = self.energy.eps * (1 + value.abs())
        near = self.over.distance(self.over.step(w, slope, length), w)
        still = near <= STILL * unit * length.squeeze(-1)
        for _ in range(HALVINGS):
            u = self.over.step(w, slope, length)
            trial = self.over.point(u)
            bound = value + torch.linalg.vecdot(slope, trial - y) + self.over.distance(u, w) / length.squeeze(-1)
            above = (self.energy(trial) > bound + ROUNDING * unit) & ~still
            if not above.any():
                break
            length = torch.where(above.unsqueeze(-1), 0.5 * length, length)
        return torch.where(still.unsqueeze(-1), state.length, length)  # what rounding says of lengths is nothing

    def _falling(self, slope: Tensor, number: int) -> Tensor:
        """Lengths of the subgradient method."""
        if not isinstance(self.over, Euclidean):
            return torch.full_like(slope[:, :1], 2 / (number + 1))
        if self.over.weight > 0:
            return torch.full_like(slope[:, :1], 2 / (self.over.weight * (number + 1)))
        steep = torch.linalg.vector_norm(slope, dim=-1, keepdim=True).clamp_min(EPS)
        return self.over.region.radius() / (steep * number**0.5)


def by_descent(
    descender: Descender, start: Tensor, max_iter: int, tol: float, callback: Callback | None, recorded: int = 0
) -> Outcome:
    """Until each instance has gap <= tol (1 + |upper|) or max_iter steps were made; y is the last point.

    recorded: the last steps that autograd follows, all but those are without a graph. Instances that are done stay.
    """
    over = descender.over
    state = descender.start(start)
    lower = torch.full_like(start[:, 0], -torch.inf)
    done, iterations = torch.zeros_like(lower, dtype=torch.bool), torch.zeros_like(lower, dtype=torch.long)
    evaluations = iterations + 1
    number = 0
    while number < max_iter:
        graph = max_iter - number <= recorded
        if done.all() and recorded and not graph:
            number = max_iter - recorded  # the rest of the steps is made for their derivatives
            continue
        if done.all() and not recorded:
            break
        number += 1
        with torch.set_grad_enabled(graph):
            w = descender.ahead(state)
            y, value, slope = replace(descender, graph=graph).tangent(w)
            if number % over.proofs == 0:
                lower = torch.fmax(lower, over.proved(y.detach(), value.detach(), slope.detach()))
            upper = (value + over.value(y)).detach()
            reached = upper - lower <= tol * (1 + upper.abs())
            after = descender.step(state, w, y, value, slope, number)
        going = torch.ones_like(done) if graph else ~done
        ends = reached & going & (not graph)  # at w
        moves = (going & ~ends).unsqueeze(-1)
        state = State(*(torch.where(moves, new, old) for new, old in zip(after, state, strict=True)))
        state = state._replace(u=torch.where(ends.unsqueeze(-1), w, state.u))
        done, iterations = done | reached, iterations + going
        evaluations = evaluations + 1
        if callback is not None:
            callback(number, over.point(state.u).detach())
    y = over.point(state.u)
    with torch.no_grad():
        ended = closed(descender.energy, over, y.detach(), tol, iterations, evaluations - 1, lower)
    return replace(ended, y=y)
