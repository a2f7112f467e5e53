"""The canonical program as the kernels see it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[np.float64]


class Arrays(NamedTuple):
    """`Program` in arrays, or one instance of it; Q, A, G have a leading dimension of one where they are shared."""

    Q: Array
    p: Array
    A: Array
    b: Array
    G: Array
    d: Array


@compiled
def instance(program, i):
    """Number i of a batch."""
    Q, p, A, b, G, d = program
    return Arrays(Q[i * (len(Q) > 1)], p[i], A[i * (len(A) > 1)], b[i], G[i * (len(G) > 1)], d[i])
