"""The kernels as functions of tensors with one batch dimension; what the batch shares has stride zero along it."""

import numpy as np
import torch
from torch import Tensor

from ..program import Bounds, Program
from . import active_set, adjoint, bundle, certificate, outer, separable
from .instance import Arrays
from .threads import array, over_batch


def solve_active_set(program: Program, bounds: Bounds, sides: Tensor | None) -> dict[str, Tensor]:
    """The fields of `active_set.Found` and the residuals, by the dual active-set method.

    sides: (batch, m + n) int8, the active side of rows to start with (1 upper, -1 lower, 0 none).
    """
    arrays = arrays_of(program)
    batch, n = arrays.p.shape
    rows, constraints = arrays.d.shape[1], arrays.A.shape[1] + arrays.G.shape[1]
    work = n * n * (n / 3 + constraints) if arrays.Q.ndim == 3 else n * constraints**2
    U, regular = np.empty_like(arrays.Q), np.empty(len(arrays.Q), np.bool_)
    over_batch(active_set.factorise_range, len(U), n**3 / 3, arrays.Q, U, regular)
    found = active_set.Found(
        x=np.zeros((batch, n)),
        nu=np.zeros(arrays.b.shape),
        lam=np.zeros((batch, rows)),
        w=np.zeros((batch, rows)),
        U=U,
        regular=regular,
        iterations=np.zeros(batch, np.int64),
        done=np.zeros(batch, np.bool_),
        degenerate=np.zeros(batch, np.bool_),
    )
    warm = np.zeros((batch, 0), np.int8) if sides is None else array(sides)
    over_batch(active_set.solve_range, batch, 2 * work + 500, arrays, bounds, warm, found)
    return _with_certificate(arrays, bounds, found._asdict())


def solve_active_kkt(program: Program, bounds: Bounds, U: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """(c, relative residual): the KKT system with the rows w = 0 as equalities, right-hand side as in `adjoint`."""
    arrays = arrays_of(program)
    batch, n = arrays.p.shape
    c = np.empty((batch, n + arrays.b.shape[1] + arrays.d.shape[1]))
    error = np.empty(batch)
    work = n * n * (arrays.A.shape[1] + arrays.G.shape[1]) + 4 * n * n
    over_batch(adjoint.solve_range, batch, work, arrays, bounds, array(distinct(U)), array(w), c, error)
    return torch.from_numpy(c), torch.from_numpy(error)


def solve_separable(program: Program, bounds: Bounds) -> dict[str, Tensor]:
    """`closed_form.solve_separable`."""
    arrays = arrays_of(program)
    batch, n = arrays.p.shape
    found = separable.Found(
        x=np.empty((batch, n)),
        nu=np.empty(arrays.b.shape),
        lam=np.empty(arrays.d.shape),
        w=np.empty(arrays.d.shape),
        iterations=np.zeros(batch, np.int64),
        done=np.zeros(batch, np.bool_),
        degenerate=np.zeros(batch, np.bool_),
    )
    over_batch(separable.solve_range, batch, 50 * n, arrays, bounds, found)
    return _with_certificate(arrays, bounds, found._asdict())


def solve_separable_kkt(program: Program, bounds: Bounds, w: Tensor) -> tuple[Tensor, Tensor]:
    """`closed_form.solve_separable_kkt`."""
    arrays = arrays_of(program)
    batch, n = arrays.p.shape
    c, error = np.empty((batch, n + arrays.b.shape[1] + arrays.d.shape[1])), np.empty(batch)
    over_batch(separable.solve_kkt_range, batch, 10 * n, arrays, bounds, array(w), c, error)
    return torch.from_numpy(c), torch.from_numpy(error)


def _with_certificate(arrays: Arrays, bounds: Bounds, found: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """What was found as tensors, with the five residuals, (batch, 5)."""
    found["residuals"] = certify(arrays, bounds, found["x"], found["nu"], found["lam"])
    return {name: torch.from_numpy(value) for name, value in found.items()}


def certify(arrays: Arrays, bounds: Bounds, x: np.ndarray, nu: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """The five residuals of the certificate, (batch, 5)."""
    residuals = np.empty((len(arrays.p), 5))
    work = 2 * arrays.p.shape[1] * (arrays.Q.shape[1] + arrays.A.shape[1] + arrays.G.shape[1])
    over_batch(certificate.certify_range, len(arrays.p), work, arrays, bounds, x, nu, lam, residuals)
    return residuals


def solve_bundle(program: Program, tol: float, max_iter: int, lam: Tensor | None) -> dict[str, Tensor]:
    """The same for entropy bundles; lam to start from."""
    rows = program.G.contiguous()
    n = rows.shape[2] - 1
    dual = bundle.entropy_dual(rows, -program.d, tol, max_iter, lam, n)
    x = torch.cat((dual.y, dual.t.unsqueeze(-1)), -1)
    certified = np.empty((len(x), 5))
    arguments = (array(t) for t in (rows, program.d, x, dual.lam))
    over_batch(certificate.certify_bundle_range, len(x), 50 * n, *arguments, certified)
    return {
        "x": x,
        "nu": dual.lam[:, :0],
        "lam": dual.lam,
        "w": torch.zeros_like(dual.lam).masked_fill(dual.idle, torch.inf),
        "iterations": dual.iterations,
        "done": torch.ones_like(dual.done),
        "degenerate": dual.weak.any(-1) | dual.singular,
        "residuals": torch.from_numpy(certified),
    }


def outer_sum(u: Tensor, x: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """u x' + v y' for vectors with any batch dimensions, all the same."""
    out = u.new_empty(*u.shape, x.shape[-1])
    batch = u.shape[:-1].numel()
    flat = (array(t).reshape(batch, -1) for t in (u, x, v, y))
    entries = out.numpy().reshape(batch, *out.shape[-2:])
    over_batch(outer.outer_sum_range, batch, 4 * u.shape[-1] * x.shape[-1], *flat, entries)
    return out


def asymmetry(Q: Tensor) -> float:
    """max |Q - Q'| relative to max |Q| of the instance; ignores nan."""
    given = array(distinct(Q))
    found = np.empty(len(given))
    over_batch(certificate.asymmetry_range, len(given), given.shape[1] ** 2, given, found)
    return float(found.max(initial=0.0))


def distinct(t: Tensor) -> Tensor:
    """One instance of what all share."""
    return t[:1] if t.stride(0) == 0 else t


def arrays_of(program: Program) -> Arrays:
    """The program for the kernels."""
    Q, p, A, b, G, d = program
    return Arrays(*map(array, (distinct(Q), p, distinct(A), b, distinct(G), d)))
