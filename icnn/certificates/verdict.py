"""A proof that a module is convex in some of its inputs, by disciplined composition.

The module is run once with stand-ins for its arguments. Each operation that torch executes is met by a rule that
knows, entry by entry, what it does to bounds and curvature (Grant, Boyd, Ye: Disciplined convex programming, 2006);
weights take part with the values that they have now. What no rule covers ends in UNKNOWN: the answer is never CONVEX by
default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor, nn

from .facts import Facts, Node
from .walk import Box, Stopped, walk


class Curvature(StrEnum):
    """In the chosen inputs, jointly, for every value of the others. A constant is affine."""

    AFFINE = "affine"
    CONVEX = "convex"
    CONCAVE = "concave"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """What certify found: the curvature; for UNKNOWN also the node where it was lost and the reason."""

    curvature: Curvature
    node: Node | None = None
    reason: str = ""

    @property
    def convex(self) -> bool:
        """Whether f is certainly convex; affine counts."""
        return self.curvature in (Curvature.CONVEX, Curvature.AFFINE)

    def __repr__(self) -> str:
        where = f" at {self.node}: {self.reason}" if self.node is not None else ""
        return f"Verdict({self.curvature.name}{where})"


def certify(
    f: nn.Module | Callable[..., Any],
    *arguments: Tensor,
    inputs: str | int | Sequence[str | int] | None = None,
    bounds: Mapping[str | int, Box] | None = None,
) -> Verdict:
    """Whether f is provably convex, concave or affine in some of its inputs.

    Every entry of the output is judged as a function of all entries of the chosen inputs together. The other floating
    point arguments are held fixed at any value; other arguments (integers, masks) at the value given. UNKNOWN is
    no proof of the contrary: icnn.falsify looks for one.

    f: a module, taken as it is (call eval() on one with dropout or batch norm), or a function of tensors.
    arguments: one example for each argument of f: shape and dtype count. May be left out for the networks of icnn.
    inputs: names or positions of the arguments in which; by default "y" where f has it, else all.
    bounds: lower and upper bounds of arguments, by name or position, numbers or tensors; by default none.
    Returns a Verdict. Claims hold where f is finite, in real arithmetic, for the shapes of the examples.
    Raises ValueError for missing arguments or unknown names.
    Source: Grant, Boyd, Ye, Disciplined convex programming, 2006.
    """
    try:
        outputs = walk(f, arguments, inputs, bounds)
    except Stopped as stopped:
        return Verdict(Curvature.UNKNOWN, *stopped.stop)
    return _verdict(outputs)


def _verdict(outputs: list[Facts]) -> Verdict:
    for value in outputs:
        if value.stop is not None:
            return Verdict(Curvature.UNKNOWN, *value.stop)
    convex, concave = (all(bool(getattr(v, name).all()) for v in outputs) for name in ("convex", "concave"))
    if convex or concave:
        both = Curvature.AFFINE if convex and concave else None
        return Verdict(both or (Curvature.CONVEX if convex else Curvature.CONCAVE))
    return Verdict(Curvature.UNKNOWN, Node("", "output"), "some entries are convex, others concave")
