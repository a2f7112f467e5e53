"""Sums of outer products, written once: what a gradient for a matrix is."""

from .compiled import compiled


@compiled
def outer_sum_range(start, stop, u, x, v, y, out):
    """out = u x' + v y' for the instances start <= i < stop."""
    for i in range(start, stop):
        for j in range(u.shape[1]):
            row, a, b = out[i, j], u[i, j], v[i, j]
            for k in range(x.shape[1]):
                row[k] = a * x[i, k] + b * y[i, k]
