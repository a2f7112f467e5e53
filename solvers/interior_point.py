"""The one predictor-corrector interior-point loop, batched, for every program of the form (1).

Mehrotra's method from an infeasible start. Every instance has its own step length, centring and exit; an
instance that is done is recorded and leaves the batch. Rows of J are of three kinds: interior rows carry a
slack s > 0 and a multiplier lam > 0; held rows (the lower bound of a fixed variable) are equalities; dropped
rows (infinite right-hand side) are absent.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .kkt import KKT, Units, measure_units
from .linalg import dot, largest, mv, tmv
from .program import Bounds, Phi, Program, rows_mv, rows_tmv, split_rows

TO_BOUNDARY = 0.99
STALLED = 6  # iterations without progress, of which the last is a step towards the centre
CENTRING = 0.5  # of the mean product, which a step then aims at at least
PATIENCE = 15
HALVINGS = 40
PUSH = 1e-2


class Rows(NamedTuple):
    """The kind of each row of J, as masks (batch, rows)."""

    interior: Tensor
    held: Tensor

    @classmethod
    def of(cls, program: Program, bounds: Bounds) -> "Rows":
        """A fixed variable has its lower bound held and its upper bound dropped."""
        finite = torch.isfinite(program.d)
        held = torch.zeros_like(finite)
        twin = torch.zeros_like(finite)
        if bounds.lower and bounds.upper:
            d_G, d_lower, d_upper = split_rows(program.G, bounds, program.d)
            fixed = d_lower == -d_upper
            none = torch.zeros_like(d_G, dtype=torch.bool)
            held = torch.cat((none, fixed, torch.zeros_like(fixed)), -1)
            twin = torch.cat((none, torch.zeros_like(fixed), fixed), -1)
        return cls(finite & ~held & ~twin, held)

    def weights(self, w: Tensor) -> Tensor:
        """w of the KKT operator: as given on interior rows, 0 on held, inf on dropped ones."""
        return w.masked_fill(~self.interior, torch.inf).masked_fill(self.held, 0.0)


class Iterate(NamedTuple):
    """A point (x, nu, lam, s); s = 1 and lam = 0 on rows that carry no slack (lam of a held row is free)."""

    x: Tensor
    nu: Tensor
    lam: Tensor
    s: Tensor

    def at(self, index: Tensor) -> "Iterate":
        return Iterate(*(t[index] for t in self))


class Outcome(NamedTuple):
    """The best iterate of every instance, how many iterations it took and whether it met the tolerance."""

    iterate: Iterate
    iterations: Tensor
    converged: Tensor


@dataclass(frozen=True, eq=False)
class Loop:
    """One batch (a single leading dimension) of programs that run together."""

    phi: Phi
    program: Program
    bounds: Bounds
    units: Units
    rows: Rows
    operator: type[KKT]

    @classmethod
    def of(cls, phi: Phi, program: Program, bounds: Bounds, operator: type[KKT], x: Tensor) -> "Loop":
        """With the units that the program has at x."""
        units = measure_units(phi.hessian(program.Q, x), program, bounds)
        return cls(phi, program, bounds, units, Rows.of(program, bounds), operator)

    def at(self, index: Tensor) -> "Loop":
        program = Program(*(t[index] for t in self.program))
        rows = Rows(self.rows.interior[index], self.rows.held[index])
        return Loop(self.phi, program, self.bounds, self.units.at(index), rows, self.operator)

    def kkt(self, x: Tensor, w: Tensor, softening: Tensor | float = 1.0) -> KKT:
        """The operator at x; softening scales the regularisation of x."""
        Q, _, A, _, G, _ = self.program
        rho = softening * self.units.rho
        weights = self.rows.weights(w)
        return self.operator.factorise(self.phi.hessian(Q, x), A, G, self.bounds, weights, rho, self.units.delta)

    @property
    def slack_unit(self) -> Tensor:
        return self.units.row[..., self.program.A.shape[-2] :]

    def start(self, x: Tensor) -> Iterate:
        """The minimiser of the program with its inequalities softened, pushed into the interior."""
        Q, p, _, b, _, d = self.program
        unit = self.slack_unit
        kkt = self.kkt(x, unit.square() / self.units.cost, softening=1e8)
        linear = self.phi.gradient(Q, x) + p
        at_x = torch.cat((x, torch.zeros_like(b), torch.zeros_like(d)), -1)
        target = torch.cat((-linear, b, d.masked_fill(~torch.isfinite(d), 0.0)), -1)
        curvature = kkt.split(kkt.apply(at_x))[0]
        target = target + torch.nn.functional.pad(curvature, (0, target.shape[-1] - x.shape[-1]))
        x, nu, lam = kkt.split(kkt.step(target))
        scaled = (lam * self.units.cost.reciprocal() * unit).masked_fill(~self.rows.interior, 0.0)
        s = unit * _push(-scaled)
        lam = torch.where(self.rows.interior, self.units.cost / unit * _push(scaled), lam)
        return Iterate(x, nu, lam, torch.where(self.rows.interior, s, torch.ones_like(s)))

    def warm_start(self, x: Tensor, nu: Tensor, lam: Tensor) -> Iterate:
        """A known point, pushed into the interior as far as lets the loop move freely."""
        unit, interior = self.slack_unit, self.rows.interior
        s = self.program.d - rows_mv(self.program.G, self.bounds, x)
        s = torch.where(interior, s, torch.ones_like(s)).maximum(PUSH * unit)
        force = lam.maximum(PUSH * self.units.cost / unit)
        return Iterate(x, nu, torch.where(interior, force, torch.where(self.rows.held, lam, 0.0)), s)

    def measure(self, at: Iterate) -> tuple[Tensor, Tensor]:
        """The residual (gradient of the Lagrangian, A x - b, J x + s - d), and the merit, (batch,).

        The merit is the largest of stationarity, feasibility and complementarity, relative to their terms.
        """
        Q, p, A, b, G, d = self.program
        column, row, cost = self.units
        curved, pull_A, pull_J = self.phi.gradient(Q, at.x), tmv(A, at.nu), rows_tmv(G, self.bounds, at.lam)
        stationarity = curved + p + pull_A + pull_J
        carries = self.rows.interior | self.rows.held
        violation = rows_mv(G, self.bounds, at.x) + at.s * self.rows.interior - d
        feasibility = torch.cat((mv(A, at.x) - b, violation.masked_fill(~carries, 0.0)), -1)
        size = torch.stack([largest(term * column) for term in (p, curved, pull_A, pull_J)]).amax(0)
        size = size.maximum(1e-4 * cost.squeeze(-1))
        reach = largest(at.x / column).clamp_min(1e-4)
        gap = dot(at.lam * self.rows.interior, at.s)
        value = dot(p, at.x).abs().maximum(dot(curved, at.x).abs()).maximum(1e-4 * size * reach)
        merit = torch.stack(
            (largest(stationarity * column) / size, largest(feasibility / row) / reach, gap / value)
        ).amax(0)
        return torch.cat((stationarity, feasibility), -1), merit

    def newton_kkt(self, at: Iterate, merit: Tensor) -> KKT:
        """The operator of a Newton step from an iterate; the closer the end, the less it is regularised."""
        return self.kkt(at.x, at.s / self._safe(at), softening=1e4 * merit.clamp(1e-7, 1.0).unsqueeze(-1))

    def direction(self, kkt: KKT, at: Iterate, residual: Tensor, complementarity: Tensor) -> Iterate:
        """The Newton step that takes away the residual, and this much of lam s."""
        interior, safe = self.rows.interior, self._safe(at)
        pull = (complementarity / safe).masked_fill(~interior, 0.0)
        pull = torch.nn.functional.pad(pull, (residual.shape[-1] - pull.shape[-1], 0))
        x, nu, lam = kkt.split(kkt.step(pull - residual))
        s = -(complementarity + at.s * lam) / safe
        return Iterate(x, nu, lam, s.masked_fill(~interior, 0.0))

    def _safe(self, at: Iterate) -> Tensor:
        """The multipliers, one where a row carries none."""
        return torch.where(self.rows.interior, at.lam, torch.ones_like(at.lam))

    def advance(self, at: Iterate, residual: Tensor, merit: Tensor, stalled: Tensor) -> Iterate:
        """One predictor-corrector step; where the loop has stalled, (batch,), one towards the centre.

        Corrections of short steps unbalance the products lam s and can lead in a circle: a step without, whose products
        aim at one value that is not far below their mean, leads out of it.
        """
        interior = self.rows.interior
        count = interior.sum(-1, keepdim=True).clamp_min(1)
        mu = dot(at.lam * interior, at.s).unsqueeze(-1) / count
        kkt = self.newton_kkt(at, merit)

        def direction(complementarity: Tensor) -> Iterate:
            return self.direction(kkt, at, residual, complementarity)

        product = at.lam * at.s
        affine = direction(product)
        reach = self.longest(at, affine, 1.0)
        mu_affine = dot((at.lam + reach * affine.lam) * interior, at.s + reach * affine.s).unsqueeze(-1) / count
        sigma = (mu_affine / mu.clamp_min(torch.finfo(mu.dtype).tiny)).clamp(0, 1) ** 3
        stalled = stalled.unsqueeze(-1)
        sigma = torch.where(stalled, sigma.clamp_min(CENTRING), sigma)
        step = direction(product + torch.where(stalled, 0.0, affine.lam * affine.s) - sigma * mu)
        length = self.longest(at, step, TO_BOUNDARY)
        if not self.phi.constant_hessian:
            rises = self.rises(at, step, length, sigma * mu)
            if rises.any():
                step = choose(rises.squeeze(-1), direction(product - sigma * mu), step)
                length = self.search(at, step, self.longest(at, step, TO_BOUNDARY), sigma * mu)
        return Iterate(*(old + length * new for old, new in zip(at, step, strict=True)))

    def longest(self, at: Iterate, step: Iterate, share: float) -> Tensor:
        """The longest step in (0, 1] that keeps the given share of the distance to the boundary."""
        shrink = torch.cat((step.s / at.s, step.lam / at.lam), -1)
        interior = torch.cat((self.rows.interior, self.rows.interior), -1)
        fastest = torch.nn.functional.pad(-shrink.masked_fill(~interior, 0.0), (0, 1), value=share)
        return share / fastest.amax(-1, keepdim=True)

    def search(self, at: Iterate, step: Iterate, length: Tensor, mu: Tensor) -> Tensor:
        """Halve the length until the barrier function falls: for a phi that is not quadratic."""
        for _ in range(HALVINGS):
            rises = self.rises(at, step, length, mu)
            if not rises.any():
                break
            length = torch.where(rises, 0.5 * length, length)
        return length

    def rises(self, at: Iterate, step: Iterate, length: Tensor, mu: Tensor) -> Tensor:
        """Whether phi(x) + p'x - mu sum log s fails to fall enough (Armijo) along the step.

        From a feasible point the Newton step, without the second-order term, is a descent direction of it.
        """
        Q, p = self.program.Q, self.program.p

        def barrier(length: Tensor | float) -> Tensor:
            x = at.x + length * step.x
            s = (at.s + length * step.s).masked_fill(~self.rows.interior, 1.0)
            return (self.phi.value(Q, x) + dot(p, x)).unsqueeze(-1) - mu * s.log().sum(-1, keepdim=True)

        here = barrier(0.0)
        slope = dot(self.phi.gradient(Q, at.x) + p, step.x) - mu.squeeze(-1) * dot(self.rows.interior / at.s, step.s)
        allowed = here + 1e-4 * length * slope.unsqueeze(-1).clamp_max(0.0) + 1e-13 * (1 + here.abs())
        return ~(barrier(length) <= allowed)


def interior_point(loop: Loop, start: Iterate, tol: float, budget: Tensor) -> Outcome:
    """Run the loop until every instance has met `tol`, stalls or has used its own budget of iterations, (batch,)."""
    at = best = out = start
    index = torch.arange(len(start.x), device=start.x.device)
    iterations, waiting = torch.zeros_like(index), torch.zeros_like(index)
    converged = done = torch.zeros_like(index, dtype=torch.bool)
    least = torch.full_like(start.x[:, 0], torch.inf)
    for iteration in range(int(budget.max()) + 1 if len(budget) else 0):
        residual, merit = loop.measure(at)
        waiting = torch.where(merit < 0.9 * least, 0, waiting + 1)
        best = choose(merit < least, at, best)
        least = least.fmin(merit)
        ended = (least <= tol) | (waiting > PATIENCE) | ~torch.isfinite(merit) | (iteration >= budget)
        ending = ended & ~done
        if ending.any():
            out = _record(out, index[ending], best.at(ending))
            iterations[index[ending]] = iteration
            converged = converged.index_fill(0, index[ending & (least <= tol)], True)
            done = done | ending
        if done.all():
            break
        if 4 * done.sum() >= len(done):
            rest = ~done
            loop, at, best = loop.at(rest), at.at(rest), best.at(rest)
            index, budget, residual, merit, waiting, least, done = (
                t[rest] for t in (index, budget, residual, merit, waiting, least, done)
            )
        at = loop.advance(at, residual, merit, waiting % STALLED == STALLED - 1)
    return Outcome(out, iterations, converged)


def choose(first: Tensor, a: Iterate, b: Iterate) -> Iterate:
    """For each instance a where first, else b."""
    return Iterate(*(torch.where(first.unsqueeze(-1), new, old) for new, old in zip(a, b, strict=True)))


def _record(out: Iterate, index: Tensor, at: Iterate) -> Iterate:
    return Iterate(*(whole.index_copy(0, index, part) for whole, part in zip(out, at, strict=True)))


def _push(v: Tensor) -> Tensor:
    """v shifted so that every entry is at least one, unless all are positive already."""
    lowest = torch.nn.functional.pad(v, (0, 1), value=torch.inf).amin(-1, keepdim=True)
    return torch.where(lowest > 0, v, v - lowest + 1).clamp_min(1e-3)
