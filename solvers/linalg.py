"""Batched products of matrices and vectors over any leading dimensions."""

import torch
from torch import Tensor


def mv(M: Tensor, x: Tensor) -> Tensor:
    """M x; batched matrix-vector products on a CPU are faster as sums than as one-column matrix products."""
    return (M * x.unsqueeze(-2)).sum(-1)


def tmv(M: Tensor, x: Tensor) -> Tensor:
    """M'x."""
    return (x.unsqueeze(-2) @ M).squeeze(-2)


def outer(x: Tensor, y: Tensor) -> Tensor:
    """x y'."""
    return x.unsqueeze(-1) * y.unsqueeze(-2)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """x'y."""
    return (x * y).sum(-1)


def largest(x: Tensor) -> Tensor:
    """max |x_i| over the last dimension, 0 when there is none; keeps nan."""
    return torch.linalg.vector_norm(x, torch.inf, dim=-1) if x.shape[-1] else x.sum(-1)


def stack(*parts: Tensor, dim: int = -1) -> Tensor:
    """The parts side by side; no copy where only one has entries."""
    present = [part for part in parts if part.shape[dim]] or [parts[0]]
    return present[0] if len(present) == 1 else torch.cat(present, dim)
