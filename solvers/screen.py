"""What is known of an instance before it is solved: data that no solver should see."""

import torch
from torch import Tensor

from .kernels import kernels_for
from .linalg import largest
from .program import Bounds, Phi, Program, Quadratic, is_diagonal
from .solution import Status

CURVATURE = 1e-9


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


def replace_bad(program: Program, good: Tensor) -> Program:
    """Instances that are not solved take the place of an empty problem: minimise |x|^2/2, rows 0 <= inf."""

    def fill(t: Tensor, value: float) -> Tensor:
        return torch.where(good.reshape(-1, *[1] * (t.dim() - 1)), t, torch.full_like(t, value))

    Q, p, A, b, G, d = program
    Q = torch.where(good.reshape(-1, *[1] * (Q.dim() - 1)), Q, _identity(Q, p))
    return Program(Q, fill(p, 0.0), fill(A, 0.0), fill(b, 0.0), fill(G, 0.0), fill(d, torch.inf))


def _identity(Q: Tensor, p: Tensor) -> Tensor:
    return torch.ones_like(Q) if is_diagonal(Q, p) else torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)


def symmetry_defect(Q: Tensor, p: Tensor) -> float:
    """The largest |Q - Q'| relative to the largest |Q| of its instance, 0 for a diagonal; ignores nan."""
    if is_diagonal(Q, p) or not Q.numel():
        return 0.0
    if kernels := kernels_for(Q):
        return kernels.asymmetry(Q.reshape(-1, *Q.shape[-2:]))
    distinct = Q[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in Q.stride()[:-2])]
    size = largest(distinct.flatten(-2)).clamp_min(torch.finfo(Q.dtype).tiny)
    return float((largest((distinct - distinct.mT).flatten(-2)) / size).nan_to_num(0.0).max())
