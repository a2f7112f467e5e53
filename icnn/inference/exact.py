"""The program whose solution is the minimum of a piecewise linear network over a box.

With g(v) = max_p (a_p'v + o_p) and a last layer v_k = P z + S y + b, f = v_k + ½ y'Qy,

    minimise v_k + ½ y'Qy   subject to   z_{i+1} ≥ a_p'(P_i z_i + S_i y + b_i) + o_p for every line p,   y in the box,

in (y, z_1, …). A minimiser need not have z_{i+1} = g(v_i), since P ≥ 0 only weighs units that matter, but its value is
f(y). The multipliers of the lines of a unit, divided by their sum, average them to s'v + o ≤ g(v): slopes with which f
becomes affine, nowhere above itself, and with a quadratic term its tangent: a lower bound that does not rest on the
solver.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from icnn.certificates.jacobian_bounds import matrix
from icnn.certificates.ranges import activations, linear_part
from icnn.networks import Activation
from icnn.networks.energy import LayeredEnergy
from icnn.solvers import LP, QP, SparseQP

Line = tuple[tuple[float, ...], float]


@runtime_checkable
class Multipliers(Protocol):
    """Those of the rows of a program, and of its lower bounds."""

    @property
    def lam(self) -> Tensor: ...
    @property
    def lam_lower(self) -> Tensor: ...


class Block(NamedTuple):
    """A part of G: values (m, rows, columns) from this row and column on."""

    row: int
    column: int
    values: Tensor


class Unit(NamedTuple):
    """Where one line of a layer went: its slopes and offset, and its rows; from_below: bounds of z instead of rows."""

    line: Line
    place: slice
    from_below: bool


@dataclass(frozen=True, eq=False)
class Epigraph:
    """The program of m energies, its constant (m,), and where the lines of each layer stand; x = (y, z_1, …)."""

    program: QP | SparseQP
    constant: Tensor
    layers: tuple[tuple[Unit, ...], ...]
    widths: tuple[torch.Size, ...]

    def lines(self, solution: Multipliers) -> list[tuple[Tensor, Tensor]]:
        """The average lines of each layer by their multipliers, s (m, *v_shape) and o (m, *z_shape); see `replaced`."""
        return [self._average(units, shape, solution) for units, shape in zip(self.layers, self.widths, strict=True)]

    def _average(self, units: tuple[Unit, ...], shape: torch.Size, solution: Multipliers) -> tuple[Tensor, Tensor]:
        parts = [(solution.lam_lower if unit.from_below else solution.lam)[:, unit.place] for unit in units]
        weight = torch.stack(parts, -1).clamp_min(0.0)
        total = weight.sum(-1, keepdim=True)
        weight = torch.where(total > 0, weight / total.masked_fill(total == 0, 1.0), 1 / len(units))
        slopes = weight @ weight.new_tensor([unit.line[0] for unit in units])
        offset = weight @ weight.new_tensor([unit.line[1] for unit in units])
        pieces = slopes.shape[-1]
        slopes = slopes.reshape(-1, *shape, pieces) if pieces > 1 else slopes.reshape(-1, *shape)
        return slopes, offset.reshape(-1, *shape)


def has_lines(energy: LayeredEnergy) -> bool:
    """Whether every activation in use is known as a maximum of lines."""
    return all(activation.lines is not None for activation in activations(energy))


def lines_of(activation: Activation, like: Tensor) -> list[Line]:
    """Slopes and offsets of g = max (s'v + o), the constant included, which g(0) tells."""
    assert activation.lines is not None
    origin = torch.zeros(1 if activation.pieces == 1 else (1, activation.pieces)).to(like)
    constant = float(activation(origin)) - max(offset for _, offset in activation.lines)
    return [(slopes, offset + constant) for slopes, offset in activation.lines]


def epigraph_program(energy: LayeredEnergy, lower: Tensor, upper: Tensor, sparse: bool = False) -> Epigraph:
    """The program min f(y) over lower ≤ y ≤ upper, (m, *y_shape), for each of m energies.

    energy: with lines (see `has_lines`), P ≥ 0, and a batch of m or of none. sparse: a `SparseQP`, else a `QP`.
    Source: Amos, Xu, Kolter (2017), section 3 (inference in piecewise linear networks is a linear program).
    """
    builder = _Builder(energy, lower)
    for number, activation in enumerate(activations(energy)):
        builder.add(number, activation)
    return builder.finish(upper, sparse)


class _Builder:
    """Collects rows layer by layer; the columns of z are those of the last layer added."""

    def __init__(self, energy: LayeredEnergy, lower: Tensor) -> None:
        self.energy, self.y, self.m = energy, lower, len(lower)
        self.blocks: list[Block] = []
        self.h: list[Tensor] = []
        self.lower: list[Tensor] = [lower.flatten(1)]
        self.layers: list[tuple[Unit, ...]] = []
        self.widths: list[torch.Size] = []
        self.z: Tensor | None = None  # zeros in the shape of the last layer
        self.columns, self.rows = lower[0].numel(), 0

    def add(self, number: int, activation: Activation) -> None:
        """z ≥ every line of g(P z + S y + b), or the same plus the z before, of a residual stack."""
        P, S, b = self._matrices(number)
        before = self.energy.residual is not None and self.z is not None and number < len(self.energy.steps) - 1
        h = self.energy.residual if before else 1.0
        assert h is not None
        size = b.shape[1] // activation.pieces
        start, old = self.columns, self.columns - (0 if self.z is None else self.z.numel())
        eye = torch.eye(size).to(b).unsqueeze(0)
        below = torch.full((self.m, size), -torch.inf).to(b)
        units: list[Unit] = []
        for slopes, offset in lines_of(activation, b):
            a = b.new_tensor(slopes)
            right = offset + b.unflatten(1, (size, -1)) @ a
            if not any(slopes) and not before:
                units.append(Unit((slopes, offset), slice(start, start + size), from_below=True))
                below = torch.maximum(below, right)
                continue
            units.append(Unit((slopes, offset), slice(self.rows, self.rows + size), from_below=False))
            self.blocks.append(Block(self.rows, 0, h * _along(S, size, a)))
            if P is not None:
                self.blocks.append(Block(self.rows, old, h * _along(P, size, a) + (eye if before else 0.0)))
            self.blocks.append(Block(self.rows, start, -eye))
            self.h.append((-h * right).expand(self.m, -1))
            self.rows += size
        self.lower.append(below)
        shape = self._shape(number, activation)
        self.z = self.y.new_zeros(shape)
        self.layers.append(tuple(units))
        self.widths.append(shape)
        self.columns += size

    def finish(self, upper: Tensor, sparse: bool) -> Epigraph:
        n = self.y[0].numel()
        p = self.y.new_zeros(self.m, self.columns)
        constant = self.y.new_zeros(self.m)
        if self.energy.output is None:
            P, S, b = self._matrices(len(self.energy.steps) - 1)
            p[:, :n], constant = S[:, 0], constant + b[:, 0]
            if P is not None:
                p[:, -P.shape[-1] :] = P[:, 0]
        else:
            p[:, -1] = 1.0
        free = torch.full((self.m, self.columns - n), torch.inf).to(p)
        box = dict(lower=torch.cat(self.lower, 1), upper=torch.cat((upper.flatten(1), free), 1))
        rows = dict(G=self._sparse() if sparse else self._dense(), h=torch.cat(self.h, 1)) if self.rows else {}
        if self.energy.curvature is None:
            program = SparseQP(None, p, **rows, **box) if sparse else LP(p, **rows, **box)
        else:
            Q = torch.nn.functional.pad(matrix(self.energy.curvature, self.y)[0], (0, self.columns - n) * 2)
            program = SparseQP(Q.to_sparse(), p, **rows, **box) if sparse else QP(Q, p, **rows, **box)
        return Epigraph(program, constant, tuple(self.layers), tuple(self.widths))

    def _dense(self) -> Tensor:
        G = self.y.new_zeros(self.m, self.rows, self.columns)
        for row, column, values in self.blocks:
            G[:, row : row + values.shape[1], column : column + values.shape[2]] = values
        return G

    def _sparse(self) -> Tensor:
        indices, values = zip(*self._entries(), strict=True)
        size = (self.m, self.rows, self.columns)
        G = torch.sparse_coo_tensor(torch.cat(indices, 1), torch.cat(values), size, check_invariants=False)
        return G.coalesce()

    def _entries(self) -> Iterator[tuple[Tensor, Tensor]]:
        for row, column, values in self.blocks:
            values = values.expand(self.m, -1, -1)
            index = values.nonzero().mT
            yield index + index.new_tensor([[0], [row], [column]]), values[tuple(index)]

    def _matrices(self, number: int) -> tuple[Tensor | None, Tensor, Tensor]:
        """P, S and b of a step, (m or 1, v, z), (m or 1, v, y) and (m or 1, v), with v flattened."""
        step, y, z = self.energy.steps[number], self.y[:1], self.z
        linear, axes = linear_part(step), torch.eye(y.numel()).to(y).reshape(-1, 1, *y.shape[1:])
        S = linear(None if z is None else z.expand(len(axes), 1, *z.shape), axes).flatten(2).movedim(0, -1)
        b = step(None if z is None else z.unsqueeze(0), torch.zeros_like(y)).flatten(1)
        if z is None:
            return None, S, b
        units = torch.eye(z.numel()).to(z).reshape(-1, 1, *z.shape)
        return linear(units, torch.zeros_like(y)).flatten(2).movedim(0, -1), S, b

    def _shape(self, number: int, activation: Activation) -> torch.Size:
        z = None if self.z is None else self.z.unsqueeze(0)
        v = self.energy.steps[number](z, torch.zeros_like(self.y[:1]))
        return v.shape[1:] if activation.pieces == 1 else v.shape[1:-1]


def _along(M: Tensor, size: int, a: Tensor) -> Tensor:
    """Σ_r a_r M_r over the pieces of each unit, (m or 1, size, columns)."""
    return torch.einsum("mpac,a->mpc", M.unflatten(1, (size, -1)), a)
