"""Second-order methods for smooth f: the quadratic model over the set, or Newton's equation in logits.

Over any set, with phi quadratic or none, the next point lies between y and the minimiser of

    grad f(y)'v + ½ (v - y)'B (v - y) + phi(v)   over v in the set,

B the Hessian of f (Newton) or its BFGS approximation (quasi-Newton), as far towards it as f + phi falls enough. Under
an entropy minimality reads u + size/weight ∘ grad f(y(u)) = 0 in logits u, which is well scaled also where y is close
to a face: Newton's method solves this equation, and limited-memory BFGS minimises f + phi as a function of u.

Source: Nocedal, Wright (2006), Numerical Optimization, sections 6.1 and 18.1; Liu, Nocedal (1989).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from icnn.solvers import Status

from .flat import FlatEnergy
from .outcome import Callback, Outcome, closed
from .quasi_newton import minimise
from .regularized import Entropic, Euclidean, Regularized

HALVINGS = 25
DECREASE = 1e-4  # of what the slope promises
ROUNDING = 64  # of values, in units of their precision

HOPELESS = (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE, Status.NONFINITE_INPUT)

Curvature = Callable[[Tensor, Tensor], Tensor]


def by_newton(
    energy: FlatEnergy, over: Regularized, start: Tensor, max_iter: int, tol: float, callback: Callback | None = None
) -> Outcome:
    """Until each instance has gap <= tol (1 + |upper|), or no step improves it; one n x n Hessian per step."""
    if isinstance(over, Entropic):
        return _by_logits(energy, over, start, max_iter, tol, callback)
    assert isinstance(over, Euclidean)
    return _by_models(energy, over, start, max_iter, tol, callback, lambda y, _: hessian(energy, y)[1])


def by_quasi_newton(
    energy: FlatEnergy, over: Regularized, start: Tensor, max_iter: int, tol: float, callback: Callback | None = None
) -> Outcome:
    """The same with slopes alone."""
    if isinstance(over, Entropic):
        return _by_lbfgs(energy, over, start, max_iter, tol, callback)
    assert isinstance(over, Euclidean)
    return _by_models(energy, over, start, max_iter, tol, callback, BFGS(start))


class BFGS:
    """The approximation of the Hessian from the slopes seen so far, (m, n, n)."""

    def __init__(self, start: Tensor) -> None:
        self.B = torch.eye(start.shape[-1]).to(start).expand(len(start), -1, -1)
        self.y: Tensor | None = None
        self.slope: Tensor | None = None

    def __call__(self, y: Tensor, slope: Tensor) -> Tensor:
        if self.y is not None and self.slope is not None:
            self._learn(y - self.y, slope - self.slope)
        self.y, self.slope = y, slope
        return self.B

    def _learn(self, step: Tensor, change: Tensor) -> None:
        bent, size = torch.linalg.vecdot(step, change), torch.linalg.vecdot(step, step)
        first = (torch.eye(step.shape[-1]).to(step) == self.B).flatten(1).all(-1)
        scale = torch.where(first & (bent > 0), torch.linalg.vecdot(change, change) / bent, 1.0)
        B = self.B * scale[:, None, None]
        image = (B @ step.unsqueeze(-1)).squeeze(-1)
        learnt = (
            B - _outer(image) / torch.linalg.vecdot(step, image)[:, None, None] + _outer(change) / bent[:, None, None]
        )
        counts = bent > 1e-12 * size
        self.B = torch.where(counts[:, None, None], learnt, self.B)


def _outer(v: Tensor) -> Tensor:
    return v.unsqueeze(-1) * v.unsqueeze(-2)


def _by_models(
    energy: FlatEnergy,
    over: Euclidean,
    y: Tensor,
    max_iter: int,
    tol: float,
    callback: Callback | None,
    curvature: Curvature,
) -> Outcome:
    lower = torch.full_like(y[:, 0], -torch.inf)
    status = torch.full_like(lower, int(Status.MAX_ITERATIONS)).long()
    iterations, evaluations = torch.zeros_like(status), torch.ones_like(status)
    done = stuck = torch.zeros_like(lower, dtype=torch.bool)
    for number in range(max_iter + 1):
        value, slope, _ = energy.tangent(y)
        upper = value + over.value(y)
        lower = torch.fmax(lower, over.proved(y, value, slope))
        status = status.masked_fill(upper - lower <= tol * (1 + upper.abs()), int(Status.OPTIMAL))
        status = status.masked_fill(~upper.isfinite(), int(Status.NONFINITE_INPUT))
        going = ((status == Status.MAX_ITERATIONS) | (status == Status.OPTIMAL) & ~done) & ~stuck
        done = status == Status.OPTIMAL  # one step more makes y as exact as the gap
        if number == max_iter or not going.any():
            break
        B = curvature(y, slope)
        target, solved = over.newton_step(y, slope, B)
        failed = going & (solved != Status.OPTIMAL) & ~done
        going = going & (solved == Status.OPTIMAL)
        status = torch.where(failed, solved, status)
        rest = torch.where(lower.isneginf(), _decrement(over, y, target - y, slope, B), torch.inf)
        status = status.masked_fill(going & (rest <= tol * (1 + upper.abs())), int(Status.OPTIMAL))
        step = torch.where(going.unsqueeze(-1), target - y, 0.0)
        length, tried = _search(energy, over, y, step, upper, slope)
        y, stuck = y + length.unsqueeze(-1) * step, stuck | (length == 0)
        iterations, evaluations = iterations + going, evaluations + tried * going
        if callback is not None:
            callback(number + 1, y)
    status = status.masked_fill(stuck & (status == Status.MAX_ITERATIONS), int(Status.NUMERICAL))
    return Outcome(y, upper, lower, status, iterations, evaluations)


def _decrement(over: Euclidean, y: Tensor, step: Tensor, slope: Tensor, B: Tensor) -> Tensor:
    """Twice what the model promises of a whole step: the gap of Newton's method where none is proved."""
    curved = torch.einsum("mi,mij,mj->m", step, B, step)
    return -2 * (torch.linalg.vecdot(slope, step) + over.value(y + step) - over.value(y)) - curved


def _search(
    energy: FlatEnergy, over: Euclidean, y: Tensor, step: Tensor, value: Tensor, slope: Tensor
) -> tuple[Tensor, int]:
    """A length in (0, 1] for each instance with which f + phi falls enough, 0 where none; evaluations made."""
    promise = torch.linalg.vecdot(slope, step) + over.value(y + step) - over.value(y)
    rounding = ROUNDING * energy.eps * (1 + value.abs())
    length = torch.ones_like(value)
    for halving in range(HALVINGS):
        point = y + length.unsqueeze(-1) * step
        short = (
            energy(point).detach() + over.value(point) > value + DECREASE * length * promise.clamp_max(0.0) + rounding
        )
        if not short.any():
            return length, halving + 1
        length = torch.where(short, 0.5 * length, length)
    return torch.where(short, 0.0, length), HALVINGS


def _by_logits(
    energy: FlatEnergy, over: Entropic, start: Tensor, max_iter: int, tol: float, callback: Callback | None
) -> Outcome:
    """Newton's method on u + size/weight ∘ grad f(y(u)) = 0; a step is halved until the residual falls."""
    u = over.coordinates(start)
    iterations = torch.zeros_like(u[:, 0], dtype=torch.long)
    evaluations = iterations + 1
    for number in range(max_iter):
        slope, H = hessian(energy, over.point(u))
        residual = u + over.scaled(slope)
        going = _size(residual) > tol * (1 + _size(u))
        if not going.any():
            break
        J = over.scaled(H @ over.spread(u), -2) + torch.eye(u.shape[-1]).to(u)
        step = torch.where(going.unsqueeze(-1), torch.linalg.solve(J, -residual), 0.0)
        u, tried = _towards(energy, over, u, step, _size(residual))
        iterations, evaluations = iterations + going, evaluations + tried * going
        if callback is not None:
            callback(number + 1, over.point(u))
    return closed(energy, over, over.point(u), tol, iterations, evaluations)


def _towards(energy: FlatEnergy, over: Entropic, u: Tensor, step: Tensor, size: Tensor) -> tuple[Tensor, int]:
    length = torch.ones_like(size)
    tried = 0
    for _ in range(HALVINGS):
        trial, tried = u + length.unsqueeze(-1) * step, tried + 1
        worse = _size(trial + over.scaled(energy.tangent(over.point(trial)).slope)) > (1 - 0.1 * length) * size
        worse = worse & (step != 0).any(-1)
        if not worse.any():
            break
        length = torch.where(worse, 0.5 * length, length)
    return u + length.unsqueeze(-1) * step, tried


def _by_lbfgs(
    energy: FlatEnergy, over: Entropic, start: Tensor, max_iter: int, tol: float, callback: Callback | None
) -> Outcome:
    counts = torch.zeros(len(start), dtype=torch.long, device=start.device)

    def functions(u: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        here, within = energy.at(index), over.at(index)
        y = within.point(u)
        value, slope, _ = here.tangent(y)
        counts[index] += 1
        if callback is not None:
            callback(int(counts.max()), over.point(whole.index_copy_(0, index, u)))
        return value + within.value(y), within.slope(u, slope)

    whole = over.coordinates(start)
    goal = torch.full_like(start[:, 0], 0.1 * tol)
    found, iterations = minimise(functions, whole.clone(), goal, max_iter, torch.finfo(torch.float64).eps)
    return closed(energy, over, over.point(found.y), tol, iterations, counts)


def polished(energy: FlatEnergy, over: Regularized, outcome: Outcome, max_iter: int, tol: float) -> Outcome:
    """The outcome of another method, made exact by Newton's where f is smooth."""
    found = by_newton(energy, over, outcome.y.detach(), max_iter, tol)
    lower = torch.fmax(found.lower, outcome.lower)
    done = found.upper - lower <= tol * (1 + found.upper.abs())
    failed = torch.isin(outcome.status, outcome.status.new_tensor(HOPELESS))
    status = torch.where(failed, outcome.status, found.status.masked_fill(done, int(Status.OPTIMAL)))
    return replace(
        found,
        lower=lower,
        status=status,
        iterations=outcome.iterations + found.iterations,
        evaluations=outcome.evaluations + found.evaluations,
    )


def hessian(energy: FlatEnergy, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (m, n) and Hessian (m, n, n) of the energy, one reverse pass for each of n rows."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
        rows = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device).unsqueeze(1).expand(-1, *y.shape)
        H = None
        if slope.requires_grad:
            (H,) = torch.autograd.grad(slope, y, rows, is_grads_batched=True, allow_unused=True)
    H = torch.zeros_like(rows) if H is None else H.detach()  # none where f is affine
    H = H.movedim(0, -2)
    return slope.detach(), 0.5 * (H + H.mT)


def _size(v: Tensor) -> Tensor:
    return v.abs().amax(-1)
