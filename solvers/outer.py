"""Sums of two outer products, the form of every gradient with respect to a matrix."""

from typing import Any

import torch
from torch import Tensor

from .kernels import kernels_for
from .linalg import mv, tmv

WORTH_A_KERNEL = 2**15  # entries


def outer_sum(u: Tensor, x: Tensor, v: Tensor, y: Tensor, shape: torch.Size) -> Tensor:
    """u x' + v y', summed over the batch dimensions in which `shape` has one; differentiable to any order."""
    if shape[:-2].numel() == 1 and u.dim() > 1:
        u, x, v, y = (t.flatten(0, -2) for t in (u, x, v, y))
        return (torch.cat((u, v)).mT @ torch.cat((x, y))).reshape(shape)
    if u.numel() * x.shape[-1] >= WORTH_A_KERNEL:
        return OuterSum.apply(u, x, v, y).sum_to_size(shape)
    return _in_torch(u, x, v, y).sum_to_size(shape)


class OuterSum(torch.autograd.Function):
    """u x' + v y' in one pass over memory, where there is a kernel for it."""

    @staticmethod
    def forward(u: Tensor, x: Tensor, v: Tensor, y: Tensor) -> Tensor:
        kernels = kernels_for(u)
        return _in_torch(u, x, v, y) if kernels is None else kernels.outer_sum(u, x, v, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, of_sum: Tensor) -> tuple[Tensor, ...]:
        u, x, v, y = ctx.saved_tensors
        return mv(of_sum, x), tmv(of_sum, u), mv(of_sum, y), tmv(of_sum, v)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *vectors: Tensor) -> tuple[Tensor, int]:
        moved = [
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(vectors, in_dims, strict=True)
        ]
        return OuterSum.apply(*moved), 0


def _in_torch(u: Tensor, x: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return torch.addcmul(u.unsqueeze(-1) * x.unsqueeze(-2), v.unsqueeze(-1), y.unsqueeze(-2))
