"""Differences of convex functions: everything that is twice differentiable, at the price of convexity."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .network import ConvexNetwork


class DifferenceOfConvex(nn.Module):
    """h = f − g, f and g convex in y; h itself is not, and `is_convex` is False.

    f, g: convex networks with the same y_shape and x_shape.
    Returns (*batch,) for y, or for x and y, as f and g do.
    Raises ValueError for networks of different shapes.
    """

    def __init__(self, f: ConvexNetwork, g: ConvexNetwork) -> None:
        super().__init__()
        if (f.x_shape, f.y_shape) != (g.x_shape, g.y_shape):
            shapes = f"x_shape {f.x_shape} and {g.x_shape}, y_shape {f.y_shape} and {g.y_shape}"
            raise ValueError(f"f and g have {shapes}, expected equal ones")
        self.f, self.g = f, g
        self.x_shape, self.y_shape = f.x_shape, f.y_shape

    def forward(self, *inputs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.f(*inputs) - self.g(*inputs)

    def given(self, x: Float[Tensor, "..."] | None = None) -> Callable[[Tensor], Tensor]:
        """The energy y -> h(x, y)."""
        f, g = self.f.given(x), self.g.given(x)
        return lambda y: f(y) - g(y)

    def majorant(self, y0: Float[Tensor, "..."], x: Float[Tensor, "..."] | None = None) -> Callable[[Tensor], Tensor]:
        """y -> f(y) − g(y0) − ∇g(y0)ᵀ(y − y0): convex, nowhere below h, and equal to h at y0.

        Its minimiser is the next point of the convex-concave procedure (Yuille, Rangarajan 2003).
        """
        f, g = self.f.given(x), self.g.given(x)
        with torch.enable_grad():
            leaf = y0.detach().requires_grad_()
            value = g(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        value, dims = value.detach(), len(self.y_shape)
        return lambda y: f(y) - value - (slope * (y - leaf.detach())).flatten(-dims).sum(-1)

    def is_convex(self) -> bool:
        return False
