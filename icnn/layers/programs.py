"""Convex programs as torch modules: the data come in, the minimiser goes out, gradients flow back to all data."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from scipy.sparse import issparse
from torch import Tensor, nn

from icnn.solvers import LP, QP, ConvexProblem, EntropyBundle, SparseQP, solve


class _ProgramLayer(nn.Module, ABC):
    """Holds the options of `solve` (tol, max_iter, method, on_failure) and no parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    @abstractmethod
    def problem(self, *data: Any, **named: Any) -> ConvexProblem | SparseQP:
        """The program with these data."""

    def forward(self, *data: Any, **named: Any) -> Tensor:
        return solve(self.problem(*data, **named), **self.options).x

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class QPLayer(_ProgramLayer):
    """(Q, p, G, h, A, b, lower, upper) -> argmin x'Qx/2 + p'x subject to A x = b, G x <= h, lower <= x <= upper.

    Constructed with the options of `icnn.solve`; arguments, shapes and errors of `icnn.QP`, where a matrix is sparse
    of `icnn.SparseQP`. Returns (*batch, n).
    """

    def problem(self, *data: Any, **named: Any) -> ConvexProblem | SparseQP:
        sparse = any(_is_sparse(value) for value in (*data, *named.values()))
        return SparseQP(*data, **named) if sparse else QP(*data, **named)


class LPLayer(_ProgramLayer):
    """(c, G, h, A, b, lower, upper) -> argmin c'x subject to A x = b, G x <= h, lower <= x <= upper.

    Constructed with the options of `icnn.solve`; arguments, shapes and errors of `icnn.LP`, also what it says of the
    derivative with respect to c, and the same `icnn.ZeroGradientWarning`. Returns (*batch, n).
    """

    def problem(self, *data: Any, **named: Any) -> ConvexProblem:
        return LP(*data, **named)


class BundleEntropyLayer(_ProgramLayer):
    """(G, o) -> argmin over y in [0, 1]^n, or in the simplex, of max_i (G_i'y + o_i) - H(y), H the entropy there.

    Constructed with `simplex` of `icnn.EntropyBundle` and the options of `icnn.solve`; arguments, shapes and errors of
    `icnn.EntropyBundle`. Returns (*batch, n).
    """

    def __init__(self, *, simplex: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.simplex = simplex

    def problem(self, *data: Any, **named: Any) -> ConvexProblem:
        return EntropyBundle(*data, **named, simplex=self.simplex)

    def forward(self, *data: Any, **named: Any) -> Tensor:
        return super().forward(*data, **named)[..., :-1]

    def extra_repr(self) -> str:
        return ", ".join(["simplex=True"] * self.simplex + [super().extra_repr()] * bool(self.options))


def _is_sparse(value: Any) -> bool:
    return issparse(value) or (isinstance(value, Tensor) and value.layout != torch.strided)
