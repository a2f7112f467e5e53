"""From canonical data to a certified solution: the values behind `solve`, with no gradients."""

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .active_set import Solved, optimise, split_fixed, weakly_active
from .central_path import centre
from .certificate import residuals
from .closed_form import solve_separable
from .diagnosis import farkas_ray, recession_ray
from .entropy import through_dual
from .interior_point import Loop, Rows
from .kernels import kernels_for
from .kkt import KKT, DualKKT, FullKKT, PrimalKKT, measure_units
from .program import Bounds, NegativeEntropy, Phi, Program, Quadratic, split_rows
from .screen import replace_bad, screen
from .solution import METHODS, Method, Status

OnFailure = Literal["raise", "nan", "zero"]
CACHE = 2**19
FULL_SIZE = 1000  # variables and rows: a matrix of this size for each instance that needs it
DIAGNOSED = 5000  # variables: a ray is found with dense matrices of this size
OPERATORS: dict[str, type[KKT]] = {"full": FullKKT, "primal": PrimalKKT, "dual": DualKKT}


@dataclass(frozen=True)
class Options:
    """How to solve, see `solve`: `method` first, the interior-point loop with `operator` for what it leaves.

    mu: of the logarithmic barrier that is part of the problem, see `central_point`; 0 for none.
    """

    tol: float
    max_iter: int
    method: Method
    operator: Literal["primal", "dual", "full"]
    on_failure: OnFailure
    mu: float = 0.0


class Values(NamedTuple):
    """What the forward pass knows of every instance, each with the batch dimensions first.

    w: 0 on active rows, inf on others, and s / lam with a barrier; U: the factor of Q where the method has one, else of
    size zero; method: its place in METHODS.
    """

    x: Tensor
    nu: Tensor
    lam: Tensor
    status: Tensor
    iterations: Tensor
    residuals: Tensor
    degenerate: Tensor
    ray: Tensor
    w: Tensor
    U: Tensor
    method: Tensor


def solve_values(phi: Phi, bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]) -> Values:
    """Solve every instance; failures get a status and, where there is one, a ray. Never raises for values."""
    batch = program.p.shape[:-1]
    start = tuple(flatten_batch(t, batch) for t in warm)
    values = _solve_flat(phi, bounds, options, flatten(program), start)
    return values if len(batch) == 1 else Values(*(t.reshape(batch + t.shape[1:]) for t in values))


def flatten(program: Program) -> Program:
    """The program with one batch dimension; what instances share keeps stride zero along it where it can."""
    return Program(*(flatten_batch(t, program.p.shape[:-1]) for t in program))


def flatten_batch(t: Tensor, batch: torch.Size) -> Tensor:
    """t with its batch dimensions, of which some may be one, expanded and made one; without a copy where all share."""
    if len(batch) == 1:
        return t if t.shape[0] == batch[0] else t.expand(batch + t.shape[1:])
    core = t.shape[len(batch) :]
    if t.shape[: len(batch)].numel() == 1:
        return t.reshape(1, *core).expand(batch.numel(), *core)
    return t.expand(batch + core).reshape(batch.numel(), *core)


def _solve_flat(phi: Phi, bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]) -> Values:
    first = FAST.get(options.method)
    if first is None or not len(program.p):
        return _by_loop(phi, bounds, options, program, warm)
    values, done = first(bounds, options, program, warm)
    return values if done.all() else _continued(values, ~done, phi, bounds, options, program, warm)


def _continued(
    values: Values,
    left: Tensor,
    phi: Phi,
    bounds: Bounds,
    options: Options,
    program: Program,
    warm: tuple[Tensor, ...],
) -> Values:
    """The values, with the instances that are left from the loop."""
    index = left.nonzero().squeeze(-1)
    rest = _by_loop(phi, bounds, options, Program(*(t[index] for t in program)), tuple(t[index] for t in warm))
    merged = [
        t if new.shape[1:] != t.shape[1:] else t.index_copy(0, index, new) for t, new in zip(values, rest, strict=True)
    ]
    return Values(*merged)


def _by_active_set(
    bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]
) -> tuple[Values, Tensor]:
    sides = active_sides(bounds, program, warm) if warm else None
    found = _kernels(program).solve_active_set(program, bounds, sides)
    return _certified(options, found, found["U"].expand(len(program.p), *program.Q.shape[1:]))


def _by_closed_form(
    bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]
) -> tuple[Values, Tensor]:
    return _certified(options, solve_separable(program, bounds), program.p[:, :0])


def _by_bundle(bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]) -> tuple[Values, Tensor]:
    lam = warm[2] if warm else None
    found = _kernels(program).solve_bundle(program, options.tol, options.max_iter, lam)
    return _certified(options, found, program.p[:, :0])


FAST = {"active_set": _by_active_set, "closed_form": _by_closed_form, "bundle": _by_bundle}


def _kernels(program: Program) -> ModuleType:
    kernels = kernels_for(program.p)
    if kernels is None:
        raise RuntimeError("a compiled method was chosen where there are no kernels")
    return kernels


def _certified(options: Options, found: dict[str, Tensor], U: Tensor) -> tuple[Values, Tensor]:
    """The values of what a direct method found, and for which instances they are a solution."""
    x, nu, lam, iterations, certificate = (found[name] for name in ("x", "nu", "lam", "iterations", "residuals"))
    size = x.shape[-1] + nu.shape[-1] + lam.shape[-1]
    values = Values(
        x,
        nu,
        lam,
        status=torch.zeros_like(iterations),
        iterations=iterations,
        residuals=certificate,
        degenerate=found["degenerate"],
        ray=x.new_zeros(len(x), size),
        w=found["w"],
        U=U,
        method=torch.full_like(iterations, METHODS.index(options.method)),
    )
    return values, found["done"] & (certificate.amax(-1) <= options.tol)


def _by_loop(phi: Phi, bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]) -> Values:
    """By the loop; what rounding stops short of the tolerance once more, with the most exact of its operators."""
    parts = [_loop_part(phi, bounds, options, *part) for part in _parts(program, warm)]
    values = parts[0] if len(parts) == 1 else Values(*map(torch.cat, zip(*parts, strict=True)))
    stuck = values.status == Status.NUMERICAL
    size = program.p.shape[-1] + program.b.shape[-1] + program.d.shape[-1]
    if options.operator == "full" or size > FULL_SIZE or not stuck.any():
        return values
    return _continued(values, stuck, phi, bounds, replace(options, operator="full"), program, warm)


def _parts(flat: Program, warm: tuple[Tensor, ...]) -> list[tuple[Program, tuple[Tensor, ...]]]:
    """The batch in equal parts whose matrices stay in the cache of a CPU; whole on any other device."""
    total = sum(t.numel() for t in flat)
    count = max(1, min(len(flat.p), round(total / CACHE))) if flat.p.device.type == "cpu" else 1
    chunks = zip(*(t.chunk(count) for t in (*flat, *warm)), strict=True)
    return [(Program(*part[:6]), part[6:]) for part in chunks]


def _loop_part(phi: Phi, bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]) -> Values:
    status, ray = screen(phi, bounds, program)
    good = status == Status.OPTIMAL
    program = program if good.all() else replace_bad(program, good)
    if isinstance(phi, NegativeEntropy):
        x, nu, lam, iterations, degenerate, w = through_dual(phi, program, options.tol, options.max_iter)
    else:
        through = _centrally if options.mu else _directly
        x, nu, lam, iterations, degenerate, w = through(phi, bounds, options, program, warm)
    products = _barrier(options.mu, program, bounds) if options.mu else 0.0
    found = torch.stack(residuals(phi, program, bounds, x, nu, lam, products), -1)
    failed = (status == Status.OPTIMAL) & ~(found.amax(-1) <= options.tol)
    if failed.any():
        status, ray = _diagnose(phi, bounds, options, program, iterations, failed, status, ray)
    method = torch.full_like(iterations, METHODS.index(options.operator))
    return Values(x, nu, lam, status, iterations, found, degenerate, ray, w, x.new_empty(len(x), 0), method)


def _directly(phi: Phi, bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]) -> Solved:
    start = torch.zeros_like(program.p)
    loop = Loop.of(phi, program, bounds, OPERATORS[options.operator], start)
    first = loop.warm_start(*warm) if warm else loop.start(start)
    at, kkt, iterations = optimise(loop, first, options.tol, options.max_iter)
    degenerate = weakly_active(loop, at).any(-1) | kkt.singular()
    lam = split_fixed(loop, at.lam)
    w = _prefer_positive(bounds, program, kkt.w, lam)
    return Solved(at.x, at.nu, lam, iterations, degenerate, w)


def _centrally(phi: Phi, bounds: Bounds, options: Options, program: Program, warm: tuple[Tensor, ...]) -> Solved:
    """The point of the central path at mu; w = s / lam belongs to the derivative there."""
    start = torch.zeros_like(program.p)
    loop = Loop.of(phi, program, bounds, OPERATORS[options.operator], start)
    products = _barrier(options.mu, program, bounds)
    at, iterations = centre(loop, loop.start(start), products, options.tol, options.max_iter)
    w = loop.rows.weights(at.s.square() / options.mu)
    lam = split_fixed(loop, at.lam)
    return Solved(at.x, at.nu, lam, iterations, loop.kkt(at.x, w).singular(), _prefer_positive(bounds, program, w, lam))


def _barrier(mu: float, program: Program, bounds: Bounds) -> Tensor:
    """What lam s is on the central path: mu on the rows that a slack belongs to."""
    return mu * Rows.of(program, bounds).interior.to(program.d.dtype)


def factorised(kind: str, H: Tensor, program: Program, bounds: Bounds, w: Tensor) -> KKT:
    """M at the active set that w describes."""
    units = measure_units(H, program, bounds)
    return OPERATORS[kind].factorise(H, program.A, program.G, bounds, w, units.rho, units.delta)


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
    if isinstance(phi, Quadratic) and program.p.shape[-1] <= DIAGNOSED:
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


def active_sides(bounds: Bounds, program: Program, warm: tuple[Tensor, ...]) -> Tensor:
    """From multipliers (x, nu, lam) the side of the rows of G and of the variables that they hold, int8."""
    lam = warm[2]
    lam_G, lower, upper = split_rows(program.G, bounds, lam)
    sides = [lam_G > 0]
    if any(bounds):
        of_variables = torch.zeros_like(program.p, dtype=torch.int8)
        of_variables = of_variables - (lower > 0).to(torch.int8) if bounds.lower else of_variables
        sides.append(of_variables + (upper > 0).to(torch.int8) if bounds.upper else of_variables)
    return torch.cat([side.to(torch.int8) for side in sides], -1)
