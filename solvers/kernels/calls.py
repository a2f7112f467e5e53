"""The kernels as functions of tensors with one batch dimension; what the batch shares has stride zero along it."""

import numpy as np
import torch
from torch import Tensor

from ..program import Bounds, Program
from . import active_set, adjoint, bundle, certificate, separable
from .instance import Arrays
from .threads import array, over_batch


def solve_active_set(program: Program, bounds: Bounds, sides: Tensor | None) -> dict[str, Tensor]:
    """The fields of `active_set.Found` and `done`, by the dual active-set method.

    sides: (batch, m + n) int8, the active side of rows to start with (1 upper, -1 lower, 0 none).
    """
    arrays = _arrays(program)
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
    return {name: torch.from_numpy(value) for name, value in found._asdict().items()}


def solve_active_kkt(program: Program, bounds: Bounds, U: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """(c, relative residual): the KKT system with the rows w = 0 as equalities, right-hand side as in `adjoint`."""
    arrays = _arrays(program)
    batch, n = arrays.p.shape
    c = np.empty((batch, n + arrays.b.shape[1] + arrays.d.shape[1]))
    error = np.empty(batch)
    work = n * n * (arrays.A.shape[1] + arrays.G.shape[1]) + 4 * n * n
    over_batch(adjoint.solve_range, batch, work, arrays, bounds, array(distinct(U)), array(w), c, error)
    return torch.from_numpy(c), torch.from_numpy(error)


def solve_separable(program: Program, bounds: Bounds) -> dict[str, Tensor]:
    """`closed_form.solve_separable`."""
    arrays = _arrays(program)
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
    return {name: torch.from_numpy(value) for name, value in found._asdict().items()}


def solve_separable_kkt(program: Program, bounds: Bounds, w: Tensor) -> tuple[Tensor, Tensor]:
    """`closed_form.solve_separable_kkt`."""
    arrays = _arrays(program)
    batch, n = arrays.p.shape
    c, error = np.empty((batch, n + arrays.b.shape[1] + arrays.d.shape[1])), np.empty(batch)
    over_batch(separable.solve_kkt_range, batch, 10 * n, arrays, bounds, array(w), c, error)
    return torch.from_numpy(c), torch.from_numpy(error)


def certify(program: Program, bounds: Bounds, x: Tensor, nu: Tensor, lam: Tensor) -> Tensor:
    """The five residuals of the certificate, (batch, 5)."""
    arrays = _arrays(program)
    found = np.empty((len(arrays.p), 5))
    work = 2 * arrays.p.shape[1] * (arrays.Q.shape[1] + arrays.A.shape[1] + arrays.G.shape[1])
    points = (array(t) for t in (x, nu, lam))
    over_batch(certificate.certify_range, len(arrays.p), work, arrays, bounds, *points, found)
    return torch.from_numpy(found)


def solve_bundle(program: Program, tol: float, max_iter: int, lam: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
    """The fields of a solution of entropy bundles, and their certificate; lam to start from."""
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
    }, torch.from_numpy(certified)


def asymmetry(Q: Tensor) -> Tensor:
    """max |Q - Q'| and max |Q| of every instance, (batch or 1, 2)."""
    given = array(distinct(Q))
    found = np.empty((len(given), 2))
    over_batch(certificate.asymmetry_range, len(given), given.shape[1] ** 2, given, found)
    return torch.from_numpy(found)


def distinct(t: Tensor) -> Tensor:
    """One instance of what all share."""
    return t[:1] if t.stride(0) == 0 else t


def _arrays(program: Program) -> Arrays:
    Q, p, A, b, G, d = program
    return Arrays(*map(array, (distinct(Q), p, distinct(A), b, distinct(G), d)))
