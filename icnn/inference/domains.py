"""Convex sets that y may be confined to. A set states its data; what is done on it is in `regions`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .ball import BallRegion
from .regions import Corner, Polyhedron, Region

Bound = Tensor | float


@dataclass(frozen=True, eq=False)
class Domain(ABC):
    """A convex set of y. Data without batch dimensions are shared by all instances; they may ask for gradients.

    has_entropy: whether an entropy is a regulariser on it.
    """

    has_entropy: ClassVar[bool] = False

    @abstractmethod
    def region(self, batch: torch.Size, y_shape: torch.Size, device: torch.device) -> Region:
        """The set of each of m = batch.numel() instances, in float64 and with y as one vector.

        Raises ValueError for data that do not fit these shapes.
        """

    def batch(self, y_shape: torch.Size) -> torch.Size:
        """The batch dimensions of the data, none where all are shared. Raises ValueError where they differ."""
        own = {name: shape for name, shape in self._batches(y_shape).items() if shape}
        if len(set(own.values())) > 1:
            shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in own.items())
            raise ValueError(f"{type(self).__name__} has batch dimensions {shapes}, expected equal ones")
        return next(iter(own.values()), torch.Size())

    @abstractmethod
    def _batches(self, y_shape: torch.Size) -> dict[str, torch.Size]:
        """The batch dimensions of each datum."""


@dataclass(frozen=True, eq=False)
class Box(Domain):
    """{y : lower ≤ y ≤ upper}; lower, upper: numbers, y_shape or (*batch, *y_shape), infinite where there is none."""

    has_entropy: ClassVar[bool] = True

    lower: Bound = 0.0
    upper: Bound = 1.0

    def region(self, batch: torch.Size, y_shape: torch.Size, device: torch.device) -> Region:
        ends = {"lower": self.lower, "upper": self.upper}
        lower, upper = (vector(name, end, batch, y_shape, device) for name, end in ends.items())
        return Polyhedron(lower, upper)

    def _batches(self, y_shape: torch.Size) -> dict[str, torch.Size]:
        return {"lower": _batch(self.lower, y_shape), "upper": _batch(self.upper, y_shape)}


@dataclass(frozen=True, eq=False)
class Simplex(Domain):
    """{y ≥ 0 : Σ y = total}; total: a number or (*batch,), positive."""

    has_entropy: ClassVar[bool] = True

    total: Bound = 1.0

    def region(self, batch: torch.Size, y_shape: torch.Size, device: torch.device) -> Region:
        total = vector("total", self.total, batch, torch.Size(), device)
        lower = total.detach().new_zeros(batch.numel(), y_shape.numel())
        ones = torch.ones_like(lower[:1])
        return Corner(lower, torch.full_like(lower, torch.inf), A=ones, b=total)

    def _batches(self, y_shape: torch.Size) -> dict[str, torch.Size]:
        return {"total": _batch(self.total, torch.Size())}


@dataclass(frozen=True, eq=False)
class Ball(Domain):
    """{y : |y - centre| ≤ radius}; radius: a number or (*batch,), positive; centre: as the ends of a `Box`, finite."""

    radius: Bound = 1.0
    centre: Bound = 0.0

    def region(self, batch: torch.Size, y_shape: torch.Size, device: torch.device) -> Region:
        radius = vector("radius", self.radius, batch, torch.Size(), device)
        return BallRegion(radius, vector("centre", self.centre, batch, y_shape, device))

    def _batches(self, y_shape: torch.Size) -> dict[str, torch.Size]:
        return {"radius": _batch(self.radius, torch.Size()), "centre": _batch(self.centre, y_shape)}


@dataclass(frozen=True, eq=False)
class Polytope(Domain):
    """{y : G y ≤ h, A y = b, lower ≤ y ≤ upper}, each group optional, with y of shape y_shape as one vector of n.

    G: (*batch, r, n) with h (*batch, r); A: (*batch, q, n) with b (*batch, q); lower, upper as in `Box`.
    It may be empty or unbounded: inference says so in its status.
    """

    G: Tensor | None = None
    h: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None
    lower: Bound = -torch.inf
    upper: Bound = torch.inf

    def region(self, batch: torch.Size, y_shape: torch.Size, device: torch.device) -> Region:
        ends = {"lower": self.lower, "upper": self.upper}
        lower, upper = (vector(name, end, batch, y_shape, device) for name, end in ends.items())
        G, h = _rows("G", self.G, "h", self.h, batch, y_shape.numel(), lower)
        A, b = _rows("A", self.A, "b", self.b, batch, y_shape.numel(), lower)
        return Polyhedron(lower, upper, G, h, A, b)

    def _batches(self, y_shape: torch.Size) -> dict[str, torch.Size]:
        found = {"lower": _batch(self.lower, y_shape), "upper": _batch(self.upper, y_shape)}
        matrices, vectors = {"G": self.G, "A": self.A}, {"h": self.h, "b": self.b}
        found |= {name: t.shape[:-2] for name, t in matrices.items() if t is not None}
        return found | {name: t.shape[:-1] for name, t in vectors.items() if t is not None}


def vector(name: str, value: Bound, batch: torch.Size, shape: torch.Size, device: torch.device) -> Tensor:
    """A number, a tensor of this shape or one per instance as (m, n), or (m,) where the shape is that of a number."""
    t = torch.as_tensor(value, dtype=torch.float64, device=device)
    if t.dim() and t.shape not in (shape, batch + shape):
        expected = f"a number, {tuple(shape)} or {tuple(batch + shape)}"
        raise ValueError(f"{name} has shape {tuple(t.shape)}, expected {expected}")
    return t.expand(batch + shape).reshape(batch.numel(), *([shape.numel()] if shape else []))


def _batch(value: Bound, shape: torch.Size) -> torch.Size:
    return value.shape[: value.dim() - len(shape)] if isinstance(value, Tensor) else torch.Size()


def _rows(
    matrix: str, M: Tensor | None, right: str, v: Tensor | None, batch: torch.Size, n: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """(m or 1, rows, n) and (m, rows)."""
    if M is None and v is None:
        return like.new_zeros(1, 0, n), like.new_zeros(len(like), 0)
    if M is None or v is None:
        raise ValueError(f"{matrix} and {right} must be given together; {matrix if M is None else right} is missing")
    if M.dim() < 2 or M.shape[-1] != n or M.shape[:-2] not in (torch.Size(), batch):
        raise ValueError(f"{matrix} has shape {tuple(M.shape)}, expected (rows, {n}) or {(*batch, 'rows', n)}")
    rows = M.shape[-2]
    if v.shape not in (torch.Size([rows]), torch.Size((*batch, rows))):
        raise ValueError(f"{right} has shape {tuple(v.shape)}, expected ({rows},) or {(*batch, rows)}")
    M, v = M.to(like), v.to(like)
    own = M.unsqueeze(0) if M.dim() == 2 else M.reshape(batch.numel(), rows, n)
    return own, v.expand((*batch, rows)).reshape(batch.numel(), rows)
