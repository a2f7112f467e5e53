"""Derivatives by other means than the adjoint: finite differences, and a dense solve of the linearised KKT system."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import icnn

from .examples import Data

ACTIVE = 1e-6


def finite_differences(losses: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient by central differences of a function that maps (k, *shape) to k losses."""
    moves = step * torch.eye(at.numel(), dtype=at.dtype).reshape(-1, *at.shape)
    with torch.no_grad():
        slopes = (losses(at + moves) - losses(at - moves)) / (2 * step)
    return slopes.reshape(at.shape)


def tangent(data: Data, solution: icnn.Solution, direction: Data) -> dict[str, np.ndarray]:
    """How x, nu and the multipliers of one instance move when the data move along `direction`.

    The implicit function theorem, forwards: differentiate  grad phi + p + A'nu + J'lam = 0,  A x = b  and, on the
    active rows,  J x = d,  and solve for the differentials of the unknowns.
    """
    given, moved = ({name: t.numpy() for name, t in part.items()} for part in (data, direction))
    x, nu = solution.x.detach().numpy(), solution.nu.detach().numpy()
    multipliers = (solution.lam, solution.lam_lower, solution.lam_upper)
    lam = torch.cat(multipliers).detach().numpy()
    eye = np.eye(len(x))
    J = np.concatenate((given["G"], -eye, eye))[lam > ACTIVE]
    dG = np.concatenate((moved["G"], 0 * eye, 0 * eye))[lam > ACTIVE]
    dd = np.concatenate((moved["h"], -moved["lower"], moved["upper"]))[lam > ACTIVE]
    rows = np.concatenate((given["A"], J))
    M = np.block([[given["Q"], rows.T], [rows, np.zeros((len(rows), len(rows)))]])
    pull = moved["Q"] @ x + moved["p"] + moved["A"].T @ nu + dG.T @ lam[lam > ACTIVE]
    dz = np.linalg.solve(M, -np.concatenate((pull, moved["A"] @ x - moved["b"], dG @ x - dd)))
    dx, dnu, active = np.split(dz, [len(x), len(x) + len(nu)])
    dlam = np.zeros_like(lam)
    dlam[lam > ACTIVE] = active
    lengths = np.cumsum([len(part) for part in multipliers])[:-1]
    return {"x": dx, "nu": dnu, **dict(zip(("lam", "lam_lower", "lam_upper"), np.split(dlam, lengths), strict=True))}
