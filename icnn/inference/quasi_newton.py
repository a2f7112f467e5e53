"""Minima of many smooth functions at once, by the limited-memory BFGS method (Liu, Nocedal 1989)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

PAIRS = 10  # of steps and slope changes that are remembered
HALVINGS = 20
DECREASE = 1e-4  # of what the slope promises, that a step must bring

# Values (some,) and slopes (some, n) of the functions with these numbers (some,), each at its own point (some, n).
Functions = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Point(NamedTuple):
    """Points, (m, n), with values, (m,), and slopes, (m, n), of their functions."""

    y: Tensor
    value: Tensor
    slope: Tensor

    def at(self, index: Tensor) -> "Point":
        return Point(*(part[index] for part in self))


@dataclass(frozen=True, eq=False)
class Memory:
    """The last steps s and changes of slope d: an approximate inverse Hessian for each function.

    steps, changes: (pairs, m, n). weight: 1 / sᵀd, 0 for a pair that does not count, (pairs, m). scale: (m,).
    """

    steps: Tensor
    changes: Tensor
    weight: Tensor
    scale: Tensor

    @staticmethod
    def empty(slope: Float[Tensor, "m n"]) -> "Memory":
        none = slope.new_zeros(PAIRS, *slope.shape)
        size = torch.linalg.vector_norm(slope, dim=-1)
        return Memory(none, none, none[..., 0], 1 / size.clamp_min(1.0))

    def times(self, slope: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        """The inverse Hessian times a slope, by the two loops."""
        image, shares = slope, []
        for step, change, weight in reversed(list(zip(self.steps, self.changes, self.weight, strict=True))):
            shares.append(weight * torch.linalg.vecdot(step, image))
            image = image - shares[-1].unsqueeze(-1) * change
        image = self.scale.unsqueeze(-1) * image
        for step, change, weight in zip(self.steps, self.changes, self.weight, strict=True):
            share = shares.pop() - weight * torch.linalg.vecdot(change, image)
            image = image + share.unsqueeze(-1) * step
        return image

    def after(self, step: Float[Tensor, "m n"], change: Float[Tensor, "m n"]) -> "Memory":
        """With one more pair, where its curvature is positive, and without the oldest one."""
        bent, length, size = (torch.linalg.vecdot(a, b) for a, b in ((step, change), (step, step), (change, change)))
        counts = bent > torch.finfo(bent.dtype).eps * length
        weight = torch.where(counts, bent.reciprocal(), 0.0)
        return Memory(
            torch.cat((self.steps[1:], step.unsqueeze(0))),
            torch.cat((self.changes[1:], change.unsqueeze(0))),
            torch.cat((self.weight[1:], weight.unsqueeze(0))),
            torch.where(counts, bent / size, self.scale),
        )

    def at(self, index: Tensor) -> "Memory":
        return Memory(self.steps[:, index], self.changes[:, index], self.weight[:, index], self.scale[index])


def minimise(
    functions: Functions, start: Float[Tensor, "m n"], tol: Float[Tensor, "m"], max_iter: int, precision: float
) -> tuple[Point, Int[Tensor, "m"]]:
    """A minimiser of each function, and the iterations that it took.

    A function is left where no entry of its slope exceeds its tolerance, where no step along the direction brings it
    down any more, and where its slope is not finite. Finished functions are not evaluated again.

    precision: the relative rounding of the values.
    """
    live = torch.arange(len(start), device=start.device)
    best, iterations = Point(start, *functions(start, live)), torch.zeros_like(live)
    point, memory = best, Memory.empty(best.slope)
    for _ in range(max_iter):
        going = torch.linalg.vector_norm(point.slope, torch.inf, -1) > tol[live]
        if not going.all():
            kept = going.nonzero().squeeze(-1)
            live, point, memory = live[kept], point.at(kept), memory.at(kept)
        if not len(live):
            break
        reached, moved = _search(functions, live, point, -memory.times(point.slope), precision)
        memory = memory.after(reached.y - point.y, reached.slope - point.slope)
        best = Point(*(whole.index_copy(0, live, part) for whole, part in zip(best, reached, strict=True)))
        iterations[live] += 1
        live, point, memory = live[moved], reached.at(moved), memory.at(moved)
    return best, iterations


def _search(
    functions: Functions, live: Tensor, point: Point, direction: Tensor, precision: float
) -> tuple[Point, Tensor]:
    """A point along each direction that is low enough, by halving, and the places of those that moved."""
    promise = DECREASE * torch.linalg.vecdot(point.slope, direction)
    rounding = 8 * precision * point.value.abs()
    length = torch.ones_like(promise)
    reached, left = point, torch.arange(len(live), device=live.device)
    for _ in range(HALVINGS):
        y = point.y[left] + length[left].unsqueeze(-1) * direction[left]
        trial = Point(y, *functions(y, live[left]))
        low = trial.value <= point.value[left] + length[left] * promise[left] + rounding[left]
        found = left[low]
        reached = Point(*(a.index_copy(0, found, b[low]) for a, b in zip(reached, trial, strict=True)))
        left = left[~low]
        if not len(left):
            break
        length[left] /= 2
    moved = torch.ones_like(length, dtype=torch.bool).index_fill(0, left, False)
    return reached, moved.nonzero().squeeze(-1)
