"""What icnn.argmin will do by itself."""

import torch

from icnn.inference import argmin as entropic
from icnn.networks import ConvexNetwork


class Tilted(ConvexNetwork):
    def __init__(self, f, linear):
        super().__init__(f.x_shape, f.y_shape, f.activation)
        self.f = f
        self.c = linear
        self.layers, self.quadratic, self.output = f.layers, f.quadratic, f.output

    def given(self, x=None):
        energy, axes = self.f.given(x), tuple(range(-len(self.y_shape), 0))
        return lambda y: energy(y) + (self.c * y).sum(axes)

    def forward(self, x, y):
        return self.given(x)(y)


class Domain:
    pass


UNIT = Domain()
Regularizer = str | None


def phi(y, axes):
    return -(torch.special.entr(y) + torch.special.entr(1 - y)).sum(axes)


def argmin(f, x, domain, *, regularizer, linear=None, gradient="implicit", **options):
    assert regularizer == "entropy"
    g = f if linear is None else Tilted(f, linear)
    if x is None and linear is not None:
        options = {"start": torch.full_like(linear, 0.5).detach(), **options}
    through = "implicit" if gradient == "danskin" else gradient
    solution = entropic(g, x, regularizer="entropy", gradient=through, **options)
    if gradient == "danskin":  # a minimiser on a kink has no slope of its own: follow it
        axes = tuple(range(-len(f.y_shape), 0))
        failed = solution.status > 1
        y = solution.y.masked_fill(failed.reshape(failed.shape + (1,) * len(f.y_shape)), 0.5)
        if x is not None:
            x = x.masked_fill(failed.reshape(failed.shape + (1,) * len(f.x_shape)), 0.0)
        object.__setattr__(solution, "value", g.given(x)(y) + phi(y, axes))
    return solution


def check_labels(domain, y):
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError("y must lie in the domain; got entries outside of [0, 1]")
