"""From canonical data to a certified solution: the values behind `solve`, with no gradients."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .active_set import optimise, split_fixed, weakly_active
from .certificate import residuals
from .diagnosis import farkas_ray, recession_ray
from .interior_point import Iterate, Loop, Rows
from .kkt import KKT, DualKKT, FullKKT, PrimalKKT, measure_units
from .linalg import mv, tmv
from .problem import entropy_dual
from .program import Bounds, NegativeEntropy, Phi, Program, Quadratic
from .screen import replace_bad, screen
from .solution import Status

Operator = Literal["full", "primal", "dual"]
OnFailure = Literal["raise", "nan", "zero"]
CACHE = 2**19
OPERATORS: dict[Operator, type[KKT]] = {"full": FullKKT, "primal": PrimalKKT, "dual": DualKKT}


@dataclass(frozen=True)
class Options:
    """How to solve; see `solve`."""

    tol: float
    max_iter: int
    operator: Operator
    on_failure: OnFailure


class Values(NamedTuple):
    """What the forward pass knows of every instance, each with the batch dimensions first."""

    x: Tensor
    nu: Tensor
    lam: Tensor
    status: Tensor
    iterations: Tensor
    residuals: Tensor
    degenerate: Tensor
    ray: Tensor
    w: Tensor
    rho: Tensor
    delta: Tensor
    factor: Tensor


class Solved(NamedTuple):
    """A point with its active set; operator: (rho, delta, factor) of M there, or empty to be made when needed."""

    x: Tensor
    nu: Tensor
    lam: Tensor
    iterations: Tensor
    degenerate: Tensor
    w: Tensor
    operator: tuple[Tensor, Tensor, Tensor]


def solve_values(phi: Phi, bounds: Bounds, options: Options, program: Program) -> Values:
    """Solve every instance; failures get a status and, where there is one, a ray. Never raises for values."""
    batch = program.p.shape[:-1]
    flat = Program(*(t.reshape(batch.numel(), *t.shape[len(batch) :]) for t in program))
    parts = [_solve_flat(phi, bounds, options, part) for part in _parts(flat)]
    whole = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
    return Values(*(t.reshape(batch + t.shape[1:]) for t in whole))


def _parts(flat: Program) -> list[Program]:
    """The batch in equal parts whose matrices stay in the cache of a CPU; whole on any other device."""
    total = sum(t.numel() for t in flat)
    count = max(1, min(len(flat.p), round(total / CACHE))) if flat.p.device.type == "cpu" else 1
    return [Program(*part) for part in zip(*(t.chunk(count) for t in flat), strict=True)]


def _solve_flat(phi: Phi, bounds: Bounds, options: Options, program: Program) -> Values:
    status, ray = screen(phi, bounds, program)
    good = status == Status.OPTIMAL
    program = program if good.all() else replace_bad(program, good)
    through = _through_dual if isinstance(phi, NegativeEntropy) else _directly
    solved = through(phi, bounds, options, program)
    x, nu, lam, iterations, degenerate, w, operator = solved
    found = torch.stack(residuals(phi, program, bounds, x, nu, lam), -1)
    failed = (status == Status.OPTIMAL) & ~(found.amax(-1) <= options.tol)
    if failed.any():
        status, ray = _diagnose(phi, bounds, options, program, iterations, failed, status, ray)
    return Values(x, nu, lam, status, iterations, found, degenerate, ray, w, *operator)


def _directly(phi: Phi, bounds: Bounds, options: Options, program: Program) -> Solved:
    start = torch.zeros_like(program.p)
    loop = _loop(phi, bounds, options.operator, program, start)
    at, kkt, iterations = optimise(loop, loop.start(start), options.tol, options.max_iter)
    degenerate = weakly_active(loop, at).any(-1) | kkt.singular()
    lam = split_fixed(loop, at.lam)
    w = _prefer_positive(bounds, program, kkt.w, lam)
    return Solved(at.x, at.nu, lam, iterations, degenerate, w, (kkt.rho, kkt.delta, kkt.factor))


def _through_dual(phi: Phi, bounds: Bounds, options: Options, program: Program) -> Solved:
    """Solve the k-dimensional dual of an entropy bundle, then read y = sigmoid(-G'lam) off it.

    A cut is inactive where its lam is held at zero. The dual operator is singular just where the primal one is:
    where active cuts are affinely dependent.
    """
    dual_phi, dual, dual_bounds = entropy_dual(program)
    present = torch.isfinite(program.d)
    k = program.d.shape[-1]
    start = present / present.sum(-1, keepdim=True).clamp_min(1).to(dual.p.dtype)
    loop = _loop(dual_phi, dual_bounds, "primal", dual, start)
    at, kkt, iterations = optimise(loop, _feasible(loop, start), options.tol, options.max_iter)
    weak = weakly_active(loop, at)[:, :k]
    idle = kkt.kept[:, :k] & ~weak | ~present
    lam = at.x.clamp_min(0.0) * present
    G = program.G[..., :-1]
    y = torch.sigmoid(-tmv(G, lam))
    t = (mv(G, y) - program.d).amax(-1, keepdim=True)
    w = torch.zeros_like(lam).masked_fill(idle, torch.inf)
    none = lam[:, :0]
    degenerate = weak.any(-1) | kkt.singular()
    return Solved(torch.cat((y, t), -1), none, lam, iterations, degenerate, w, (none, none, none))


def _feasible(loop: Loop, x: Tensor) -> Iterate:
    """An iterate on the simplex that is primal and dual feasible."""
    slope = loop.phi.gradient(loop.program.Q, x) + loop.program.p
    nu = (slope.amax(-1, keepdim=True) - 2 * slope.amin(-1, keepdim=True)).clamp_min(loop.units.cost)
    lower = slope + nu
    upper = torch.zeros_like(x)
    interior = loop.rows.interior[:, : x.shape[-1]]
    s = torch.where(interior, x, torch.ones_like(x))
    return Iterate(x, nu, torch.cat((lower, upper), -1), torch.cat((s, torch.ones_like(x)), -1))


def factorised(kind: Operator, H: Tensor, program: Program, bounds: Bounds, w: Tensor) -> KKT:
    """M at the active set that w describes."""
    units = measure_units(H, program, bounds)
    return OPERATORS[kind].factorise(H, program.A, program.G, bounds, w, units.rho, units.delta)


def _loop(phi: Phi, bounds: Bounds, kind: Operator, program: Program, x: Tensor) -> Loop:
    H = phi.hessian(program.Q, x)
    units, rows = measure_units(H, program, bounds), Rows.of(program, bounds)
    return Loop(phi, program, bounds, units, rows, OPERATORS[kind])


def _diagnose(
    phi: Phi,
    bounds: Bounds,
    options: Options,
    program: Program,
    iterations: Tensor,
    failed: Tensor,
    status: Tensor,
    ray: Tensor,
) -> tuple[Tensor, Tensor]:
    exhausted = iterations[failed] >= options.max_iter
    verdict = torch.where(exhausted, int(Status.MAX_ITERATIONS), int(Status.NUMERICAL))
    if isinstance(phi, Quadratic):
        part = Program(*(t[failed] for t in program))
        units = measure_units(part.Q, part, bounds)
        infeasible, nu, lam = farkas_ray(part, bounds, units)
        unbounded, x = recession_ray(part, bounds, units)
        unbounded = unbounded & ~infeasible
        verdict = verdict.masked_fill(unbounded, Status.DUAL_INFEASIBLE)
        verdict = verdict.masked_fill(infeasible, Status.PRIMAL_INFEASIBLE)
        parts = (x * unbounded.unsqueeze(-1), torch.cat((nu, lam), -1) * infeasible.unsqueeze(-1))
        ray = ray.index_copy(0, failed.nonzero().squeeze(-1), torch.cat(parts, -1))
    return status.masked_scatter(failed, verdict), ray


def _prefer_positive(bounds: Bounds, program: Program, w: Tensor, lam: Tensor) -> Tensor:
    """Of a fixed variable, hold the bound whose multiplier is positive: the one its derivative belongs to."""
    if not (bounds.lower and bounds.upper):
        return w
    m, n = program.G.shape[-2:]
    w_G, lower, upper = w.split([m, n, n], -1)
    swap = (program.d[:, m : m + n] == -program.d[:, m + n :]) & (lam[:, m + n :] > 0)
    return torch.cat((w_G, torch.where(swap, upper, lower), torch.where(swap, lower, upper)), -1)
