"""Derivatives of a value to any order, and their comparison."""

from collections.abc import Sequence

import torch
from torch import Tensor


def derivatives(value: Tensor, inputs: Sequence[Tensor], order: int) -> list[Tensor]:
    """Gradients of a form that is not linear in value, then of a form in those gradients, up to this order."""
    generator, found = torch.Generator().manual_seed(1), []
    total = (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum() + value.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        found += gradients
        directions = [torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in gradients]
        total = sum(((g * d).sum() for g, d in zip(gradients, directions, strict=True)), total.new_zeros(()))
    return found


def assert_equal(ours: Sequence[Tensor], theirs: Sequence[Tensor], tol: float = 1e-12) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= tol * (1 + other.abs().max())
