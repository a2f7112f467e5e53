"""From canonical data to a certified solution: the values behind `solve`, with no gradients."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .active_set import polish, split_fixed, weakly_active
from .certificate import residuals
from .diagnosis import farkas_ray, recession_ray
from .interior_point import Iterate, Loop, Rows, interior_point
from .kkt import KKT, DualKKT, FullKKT, PrimalKKT, measure_units
from .linalg import largest, mv, tmv
from .problem import entropy_dual
from .program import Bounds, NegativeEntropy, Phi, Program, Quadratic, is_diagonal, rows_mv
from .solution import Status

Operator = Literal["full", "primal", "dual"]
OnFailure = Literal["raise", "nan", "zero"]
CURVATURE = 1e-9
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
    """A point with the operator of its active set."""

    at: Iterate
    lam: Tensor
    kkt: KKT
    weak: Tensor
    iterations: Tensor


def solve_values(phi: Phi, bounds: Bounds, options: Options, program: Program) -> Values:
    """Solve every instance; failures get a status and, where there is one, a ray. Never raises for values."""
    batch = program.p.shape[:-1]
    flat = Program(*(t.reshape(batch.numel(), *t.shape[len(batch) :]) for t in program))
    status, ray = screen(phi, bounds, flat)
    good = status == Status.OPTIMAL
    harmless = flat if good.all() else _replace_bad(flat, good)
    values = _solve_flat(phi, bounds, options, harmless, status, ray)
    return Values(*(t.reshape(batch + t.shape[1:]) for t in values))


def _solve_flat(phi: Phi, bounds: Bounds, options: Options, program: Program, status: Tensor, ray: Tensor) -> Values:
    through = _through_dual if isinstance(phi, NegativeEntropy) else _directly
    solved = through(phi, bounds, options, program)
    at, lam, kkt = solved.at, solved.lam, solved.kkt
    found = torch.stack(residuals(phi, program, bounds, at.x, at.nu, lam), -1)
    degenerate = solved.weak | kkt.singular()
    solved_well = found.amax(-1) <= options.tol
    failed = (status == Status.OPTIMAL) & ~solved_well
    if failed.any():
        status, ray = _diagnose(phi, bounds, options, program, solved, failed, status, ray)
    w = _prefer_positive(bounds, program, kkt.w, lam)
    return Values(
        at.x, at.nu, lam, status, solved.iterations, found, degenerate, ray, w, kkt.rho, kkt.delta, kkt.factor
    )


def _directly(phi: Phi, bounds: Bounds, options: Options, program: Program) -> Solved:
    start = torch.zeros_like(program.p)
    loop = _loop(phi, bounds, options, program, start)
    outcome = interior_point(loop, start, 0.1 * options.tol, options.max_iter)
    at, kkt = polish(loop, outcome.iterate, newton_steps=1)
    return Solved(at, split_fixed(loop, at.lam), kkt, weakly_active(loop, at).any(-1), outcome.iterations)


def _through_dual(phi: Phi, bounds: Bounds, options: Options, program: Program) -> Solved:
    """Solve the k-dimensional dual of an entropy bundle, then read y = sigmoid(-G'lam) off it."""
    dual_phi, dual, dual_bounds = entropy_dual(program)
    start = torch.full_like(dual.p, 1 / dual.p.shape[-1])
    loop = _loop(dual_phi, dual_bounds, replace(options, operator="primal"), dual, start)
    outcome = interior_point(loop, start, 0.1 * options.tol, options.max_iter)
    lam = polish(loop, outcome.iterate, newton_steps=2)[0].x.clamp_min(0.0) * torch.isfinite(program.d)
    y = torch.sigmoid(-tmv(program.G[..., :-1], lam))
    t = (mv(program.G[..., :-1], y) - program.d).amax(-1, keepdim=True)
    x = torch.cat((y, t), -1)
    primal = _loop(phi, bounds, options, program, x)
    s = (program.d - rows_mv(program.G, bounds, x)).clamp_min(0.0)
    at = Iterate(x, outcome.iterate.nu[..., :0], lam, torch.where(primal.rows.interior, s, torch.ones_like(s)))
    at, kkt = polish(primal, at, newton_steps=0)
    return Solved(at, lam, kkt, weakly_active(primal, at).any(-1), outcome.iterations)


def _loop(phi: Phi, bounds: Bounds, options: Options, program: Program, x: Tensor) -> Loop:
    H = phi.hessian(program.Q, x)
    units, rows = measure_units(H, program, bounds), Rows.of(program, bounds)
    return Loop(phi, program, bounds, units, rows, OPERATORS[options.operator])


def screen(phi: Phi, bounds: Bounds, program: Program) -> tuple[Tensor, Tensor]:
    """Status and ray of the instances that need no solve: nonfinite data, crossed bounds, negative curvature."""
    Q, p, A, b, G, d = program
    status = torch.zeros(len(p), dtype=torch.int64, device=p.device)
    ray = p.new_zeros(len(p), p.shape[-1] + b.shape[-1] + d.shape[-1])
    n, q, m = p.shape[-1], b.shape[-1], G.shape[-2]
    if bounds.lower and bounds.upper:
        crossed = d[:, m : m + n] + d[:, m + n :] < 0
        status = status.masked_fill(crossed.any(-1), Status.PRIMAL_INFEASIBLE)
        worst = torch.nn.functional.one_hot(crossed.double().argmax(-1), n) * crossed
        ray[:, n + q + m :] = torch.cat((worst, worst), -1)
    if isinstance(phi, Quadratic):
        curvature, direction = negative_curvature(Q, p)
        status = status.masked_fill(curvature, Status.NONCONVEX)
        ray[:, :n] = direction
    finite = torch.stack([torch.isfinite(t).flatten(1).all(-1) for t in (Q, p, A, b, G)]).all(0)
    finite = finite & ~(torch.isnan(d) | torch.isneginf(d)).any(-1)
    status = status.masked_fill(~finite, Status.NONFINITE_INPUT)
    return status, ray.masked_fill((status == Status.NONFINITE_INPUT).unsqueeze(-1), 0.0)


def negative_curvature(Q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Which instances have an indefinite Q, and for each a direction d with d'Qd < 0 (else zero)."""
    direction = torch.zeros_like(p)
    if is_diagonal(Q, p):
        lowest, where = Q.min(-1)
        indefinite = lowest < 0
        return indefinite, torch.nn.functional.one_hot(where, p.shape[-1]) * indefinite.unsqueeze(-1)
    distinct = Q[:1] if Q.stride(0) == 0 else Q
    unit = distinct.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    scaled = (distinct / unit.unsqueeze(-1) / unit.unsqueeze(-2)).nan_to_num(0.0, 0.0, 0.0)
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    suspect = (torch.linalg.cholesky_ex(scaled + CURVATURE * eye).info > 0).expand(len(Q))
    if suspect.any():
        values, vectors = torch.linalg.eigh(scaled.expand_as(Q)[suspect])
        truly = values[:, 0] < -CURVATURE * values[:, -1].abs().clamp_min(1.0)
        direction[suspect] = vectors[:, :, 0] / unit.expand_as(p)[suspect] * truly.unsqueeze(-1)
        suspect = suspect.masked_scatter(suspect, truly)
    return suspect, direction


def _diagnose(
    phi: Phi,
    bounds: Bounds,
    options: Options,
    program: Program,
    solved: Solved,
    failed: Tensor,
    status: Tensor,
    ray: Tensor,
) -> tuple[Tensor, Tensor]:
    exhausted = solved.iterations[failed] >= options.max_iter
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


def _replace_bad(program: Program, good: Tensor) -> Program:
    """Instances that are not solved take the place of an empty problem: minimise |x|^2/2, rows 0 <= inf."""

    def fill(t: Tensor, value: float) -> Tensor:
        return torch.where(good.reshape(-1, *[1] * (t.dim() - 1)), t, torch.full_like(t, value))

    Q, p, A, b, G, d = program
    Q = torch.where(good.reshape(-1, *[1] * (Q.dim() - 1)), Q, _identity(Q, p))
    return Program(Q, fill(p, 0.0), fill(A, 0.0), fill(b, 0.0), fill(G, 0.0), fill(d, torch.inf))


def _identity(Q: Tensor, p: Tensor) -> Tensor:
    return torch.ones_like(Q) if is_diagonal(Q, p) else torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)


def _prefer_positive(bounds: Bounds, program: Program, w: Tensor, lam: Tensor) -> Tensor:
    """Of a fixed variable, hold the bound whose multiplier is positive: the one its derivative belongs to."""
    if not (bounds.lower and bounds.upper):
        return w
    m, n = program.G.shape[-2:]
    w_G, lower, upper = w.split([m, n, n], -1)
    swap = (program.d[:, m : m + n] == -program.d[:, m + n :]) & (lam[:, m + n :] > 0)
    return torch.cat((w_G, torch.where(swap, upper, lower), torch.where(swap, lower, upper)), -1)


def symmetry_defect(Q: Tensor, p: Tensor) -> float:
    """The largest |Q - Q'| relative to the largest |Q| of its instance, 0 for a diagonal; ignores nan."""
    if is_diagonal(Q, p):
        return 0.0
    distinct = Q[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in Q.stride()[:-2])]
    size = largest(distinct.flatten(-2), torch.finfo(Q.dtype).tiny)
    return float((largest((distinct - distinct.mT).flatten(-2)) / size).nan_to_num(0.0).max())
