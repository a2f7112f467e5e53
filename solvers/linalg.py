"""Batched products of matrices and vectors over any leading dimensions."""

import torch
from torch import Tensor


def mv(M: Tensor, x: Tensor) -> Tensor:
    """M x."""
    return (M @ x.unsqueeze(-1)).squeeze(-1)


def tmv(M: Tensor, x: Tensor) -> Tensor:
    """M'x."""
    return (x.unsqueeze(-2) @ M).squeeze(-2)


def outer(x: Tensor, y: Tensor) -> Tensor:
    """x y'."""
    return x.unsqueeze(-1) * y.unsqueeze(-2)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """x'y."""
    return (x * y).sum(-1)


def largest(x: Tensor, floor: float = 0.0) -> Tensor:
    """max |x_i| over the last dimension, floor when there is none; keeps nan."""
    return torch.nn.functional.pad(x.abs(), (0, 1), value=floor).amax(-1)
