"""Batched products of matrices and vectors over any leading dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor


def mv(M: Float[Tensor, "*#batch m n"], x: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch m"]:
    """M x; batched matrix-vector products on a CPU are faster as sums than as one-column matrix products."""
    return (M * x.unsqueeze(-2)).sum(-1)


def tmv(M: Float[Tensor, "*#batch m n"], x: Float[Tensor, "*#batch m"]) -> Float[Tensor, "*batch n"]:
    """M'x."""
    return (x.unsqueeze(-2) @ M).squeeze(-2)


def outer(x: Float[Tensor, "*#batch m"], y: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch m n"]:
    """x y'."""
    return x.unsqueeze(-1) * y.unsqueeze(-2)


def dot(x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch"]:
    """x'y."""
    return (x * y).sum(-1)


def largest(x: Tensor) -> Tensor:
    """max |x_i| over the last dimension, 0 when there is none; keeps nan."""
    return torch.linalg.vector_norm(x, torch.inf, dim=-1) if x.shape[-1] else x.sum(-1)


def stack(*parts: Tensor, dim: int = -1) -> Tensor:
    """The parts side by side; no copy where only one has entries."""
    present = [part for part in parts if part.shape[dim]] or [parts[0]]
    return present[0] if len(present) == 1 else torch.cat(present, dim)
