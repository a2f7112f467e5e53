"""Whether a sparse symmetric matrix is positive semidefinite, and a direction of negative curvature where it is not."""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu, spsolve_triangular

from .instance import CSR, Vector, unit

CURVATURE = 1e-9


def negative_curvature(Q: CSR) -> Vector | None:
    """A direction d with d'Qd < 0, or None.

    Diagonally dominant matrices need no factor. Otherwise the pivots of S + 1e-9 tell, S = Q scaled to a diagonal of
    ones: with S = L D L' and D_k < 0 the solution of L'd = e_k has d'Sd = D_k.
    """
    diagonal = Q.diagonal()
    others = np.asarray(abs(Q).sum(axis=1)).ravel() - np.abs(diagonal)
    if (diagonal >= others).all():
        return None
    scale = 1 / np.sqrt(unit(np.abs(diagonal)))
    by_scale: CSR = sparse.diags_array(scale)
    shifted = by_scale @ Q @ by_scale + CURVATURE * sparse.eye_array(len(scale))
    options = dict(SymmetricMode=True, Equil=False)
    lu = splu(sparse.csc_matrix(shifted), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    negative = np.flatnonzero(lu.U.diagonal() <= 0)
    if not len(negative):
        return None
    first = np.zeros(len(scale))
    first[negative[0]] = 1.0
    direction = spsolve_triangular(sparse.csr_matrix(lu.L.T), first, lower=False, unit_diagonal=True)
    direction = direction[lu.perm_c] * scale
    return direction if direction @ (Q @ direction) < 0 else None
