"""A batch of sparse programs as the user states them: where the entries stand, and their values as torch tensors."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .instance import CSR, Instance, rows_of


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the entries of a batch of sparse matrices stand.

    Matrix k holds the entries starts[k]:starts[k + 1], in the order of CSR; instance i of the batch has matrix
    which[i].
    """

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    starts: np.ndarray
    which: np.ndarray

    def matrices(self, values: np.ndarray) -> list[CSR]:
        """The distinct matrices."""
        return [self._matrix(slice(*ends), values) for ends in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def _matrix(self, part: slice, values: np.ndarray) -> CSR:
        counts = np.bincount(self.rows[part], minlength=self.shape[0])
        ends = np.concatenate(([0], counts.cumsum())).astype(np.int32)
        return sparse.csr_array((values[part], self.columns[part], ends), shape=self.shape)

    def entries(self, i: int) -> slice:
        """The entries of the matrix of instance i."""
        k = self.which[i]
        return slice(self.starts[k], self.starts[k + 1])

    def outer(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """sum over pairs (u, v) of u_i v_i', summed over the instances of each matrix, on the stored entries only."""
        out = np.zeros(len(self.rows))
        for left, right in pairs:
            for i in range(len(self.which)):
                part = self.entries(i)
                out[part] += left[i, self.rows[part]] * right[i, self.columns[part]]
        return out

    def multiply(self, values: Tensor, x: Tensor) -> Tensor:
        """M x for (batch, n) to (batch, rows), differentiable in both."""
        counts = np.diff(self.starts)[self.which]
        owner = np.repeat(np.arange(len(self.which)), counts)
        first = np.repeat(self.starts[self.which] - (counts.cumsum() - counts), counts)
        entry = first + np.arange(len(owner))
        source, target = owner * self.shape[1] + self.columns[entry], owner * self.shape[0] + self.rows[entry]
        products = values[torch.from_numpy(entry)] * x.reshape(-1)[torch.from_numpy(source)]
        out = products.new_zeros(len(self.which) * self.shape[0]).index_add(0, torch.from_numpy(target), products)
        return out.reshape(len(self.which), self.shape[0])


@dataclass(frozen=True, eq=False)
class Canonical:
    """The data in float64 on the CPU, the batch as one dimension; differentiable in the user's tensors."""

    patterns: tuple[Pattern, Pattern, Pattern]
    values: tuple[Tensor, Tensor, Tensor]
    p: Tensor
    b: Tensor
    h: Tensor
    lower: Tensor
    upper: Tensor


def instances(data: Canonical) -> list[Instance]:
    """The programs of the batch."""
    Q, A, G = (_per_instance(*pair) for pair in zip(data.patterns, data.values, strict=True))
    vectors = (data.p, data.b, data.h, data.lower, data.upper)
    p, b, h, lower, upper = (t.detach().numpy() for t in vectors)
    return [Instance(*parts) for parts in zip(Q, p, A, b, G, h, lower, upper, strict=True)]


def _per_instance(pattern: Pattern, values: Tensor) -> list[CSR]:
    distinct = pattern.matrices(values.detach().numpy())
    return [distinct[k] for k in pattern.which]


def entries(M: Any, batch: torch.Size, rows: int, n: int) -> tuple[Pattern, Tensor]:
    """The pattern of a matrix and its values, float64 on the CPU, differentiable. None has no entries in
    `rows` rows.
    """
    if M is None:
        own, index, values = (), np.zeros((2, 0), np.int32), torch.zeros(0, dtype=torch.float64)
        shape = (rows, n)
    elif isinstance(M, Tensor):
        own, shape = tuple(M.shape[:-2]), (M.shape[-2], M.shape[-1])
        coo = M.coalesce() if M.layout == torch.sparse_coo else M
        index = coo.indices().cpu().numpy() if M.layout == torch.sparse_coo else _csr_index(M)
        values = coo.values().to("cpu", torch.float64)
    else:
        csr: CSR = sparse.csr_array(M, dtype=np.float64, copy=True)
        csr.sum_duplicates()
        own, shape = (), (csr.shape[0], csr.shape[1])
        index, values = np.stack((rows_of(csr), csr.indices)), torch.from_numpy(csr.data)
    count = int(np.prod(own))
    owner = np.ravel_multi_index(tuple(index[:-2]), own) if own else np.zeros(index.shape[1], np.int64)
    starts = np.searchsorted(owner, np.arange(count + 1))
    which = np.broadcast_to(np.arange(count).reshape(own), batch).ravel()
    return Pattern(shape, index[-2].astype(np.int32), index[-1].astype(np.int32), starts, which), values


def _csr_index(M: Tensor) -> np.ndarray:
    counts = M.crow_indices().cpu().numpy()
    rows = np.repeat(np.arange(M.shape[0]), np.diff(counts))
    return np.stack((rows, M.col_indices().cpu().numpy()))
