"""Factors in rows in groups, dense or ragged, cut into blocks of rows that are worked on one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

PIECE = 1 << 17  # factors at a time: few enough to stay in a cache, enough to hide what a call costs


class Even:
    """Every owner has as many members: the last dimension."""

    def spread(self, v: Tensor) -> Tensor:
        return v.unsqueeze(-1)

    def collect(self, t: Tensor) -> Tensor:
        return t.sum(-1)


class Single:
    """One owner, whose value broadcasts to all members."""

    def spread(self, v: Tensor) -> Tensor:
        return v

    def collect(self, t: Tensor) -> Tensor:
        return t.sum(-1, keepdim=True)


class Uneven:
    """The members of all owners one after the other; lengths: how many each has."""

    def __init__(self, lengths: Tensor) -> None:
        self.owners = len(lengths)
        self.owner = torch.arange(self.owners, device=lengths.device).repeat_interleave(lengths)

    def spread(self, v: Tensor) -> Tensor:
        return v if v.shape[-1] == 1 else v.index_select(-1, self.owner)

    def collect(self, t: Tensor) -> Tensor:
        return t.new_zeros(self.owners).index_add(-1, self.owner, t)


Level = Even | Single | Uneven
"""How members belong to owners, as factors to rows or rows to groups: `spread` gives to every member what its owner
has, its transpose `collect` to every owner the sum over its members."""


class Piece(NamedTuple):
    """Where some factors of a block lie, and how they belong to its rows."""

    at: slice | tuple[slice, ...]
    factors: Level


class Block(NamedTuple):
    """Some rows: the groups that they are of, how they belong to them, and their factors, in the order in memory.

    A row of more than PIECE factors is a block of several pieces; every other block has one.
    """

    groups: slice
    rows: Level
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Dense:
    """Groups of as many rows of as many factors: values of this shape (groups, rows, factors)."""

    shape: tuple[int, int, int]

    def blocks(self) -> Iterator[Block]:
        groups, rows, factors = self.shape
        step = min(max(factors, 1), PIECE)
        row_step = min(max(rows, 1), PIECE // step)
        ends = _cuts(factors, step)
        for g, r in product(_cuts(groups, PIECE // (step * row_step)), _cuts(rows, row_step)):
            yield Block(g, Even(), [Piece((g, r, at), Even()) for at in ends])


@dataclass(frozen=True)
class Ragged:
    """Row i has the values offsets[i] to offsets[i + 1], group g the rows groups[g] to groups[g + 1]."""

    offsets: Tensor
    groups: Tensor

    def blocks(self) -> Iterator[Block]:
        start, rows = 0, len(self.offsets) - 1
        while True:
            full = int(torch.searchsorted(self.offsets, int(self.offsets[start]) + PIECE, right=True)) - 1
            stop = min(max(full, start + 1), start + PIECE, rows)
            yield self._block(start, stop)
            if stop == rows:
                return
            start = stop

    def _block(self, start: int, stop: int) -> Block:
        first = int(torch.searchsorted(self.groups, start, right=True)) - 1
        last = max(first, int(torch.searchsorted(self.groups, stop)))
        rows = self.groups[first : last + 1].clamp(start, stop).diff()
        factors = _level(self.offsets[start : stop + 1].diff())
        begin, end = int(self.offsets[start]), int(self.offsets[stop])
        pieces = [Piece(slice(begin + cut.start, begin + cut.stop), factors) for cut in _cuts(end - begin, PIECE)]
        return Block(slice(first, last), _level(rows), pieces)


Layout = Dense | Ragged
"""Its blocks follow each other in memory and hold every row once."""


def _level(lengths: Tensor) -> Level:
    return Single() if len(lengths) == 1 else Uneven(lengths)


def _cuts(length: int, step: int) -> list[slice]:
    """0 to length in steps; one empty slice of nothing."""
    return [slice(start, min(start + step, length)) for start in range(0, max(length, 1), step)]
