"""Rules for operations that move entries and compute nothing: views, copies, choices, padding, changes of type."""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .algebra import joined, through
from .calls import Arguments, Result, call, number, numeric
from .facts import Facts, facts, unknown
from .forms import moved

REARRANGEMENTS = (
    "permute",
    "t",
    "transpose",
    "expand",
    "squeeze",
    "unsqueeze",
    "slice",
    "select",
    "index",
    "index_select",
    "gather",
    "cat",
    "stack",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "flip",
    "roll",
    "repeat",
    "clone",
    "detach",
    "alias",
    "lift_fresh",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "channel_shuffle",
    "diagonal",
    "unfold",
    "movedim",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "narrow",
    "contiguous",
)


def rearrangement(operation: Any, given: Arguments) -> Result:
    """Views, copies, gathers and concatenations: applied to each fact; indices stay what they are."""
    indices = tree_leaves([given.get("index"), given.get("indices")], is_leaf=_is_facts)
    if any(_is_facts(index) and index.value is None for index in indices):
        return ()

    def with_part(pick: Callable[[Facts], Tensor]) -> Any:
        def place(leaf: object) -> object:
            if not _is_facts(leaf):
                return leaf
            return pick(leaf) if numeric(leaf) else leaf.value

        return call(operation, tree_map(place, given, is_leaf=_is_facts))

    def mask(name: str) -> list[Tensor]:
        return [part > 0.5 for part in _several(with_part(lambda value: getattr(value, name).double()))]

    masks = [mask(name) for name in ("convex", "concave", "fixed", "rooted", "logconvex")]
    lower, upper = (_several(with_part(lambda value, name=name: getattr(value, name))) for name in ("lower", "upper"))
    found = [facts(*parts) for parts in zip(lower, upper, *masks, strict=True)]
    leaves = [leaf for leaf in tree_leaves(given, is_leaf=_is_facts) if _is_facts(leaf) and numeric(leaf)]
    if len(leaves) == 1:
        picks = [lambda part, k=k: _several(with_part(lambda _: part))[k] for k in range(len(found))]
        found = [moved(one, leaves[0], pick) for one, pick in zip(found, picks, strict=True)]
    return found[0] if len(found) == 1 else tuple(found)


def _is_facts(leaf: object) -> TypeGuard[Facts]:
    return isinstance(leaf, Facts)


def _several(result: Tensor | list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def reshaped(operation: Any, given: Arguments) -> Facts:
    """view: by reshape, since facts need not lie in memory as the tensor does."""
    return through(given["self"], lambda part: part.reshape(given["size"]))


def padded(operation: Any, given: Arguments) -> Facts:
    """Padding with a constant."""
    fill = float(given["value"] or 0)
    value, pad = given["self"], given["pad"]
    sides = through(value, lambda part: F.pad(part, pad, value=1.0))  # what is added is fixed
    frame = F.pad(torch.zeros_like(value.lower), pad, value=1.0) > 0
    lower, upper = (F.pad(part, pad, value=fill) for part in (value.lower, value.upper))
    sign = ~frame | (fill >= 0)
    return facts(lower, upper, sides.convex, sides.concave, sides.fixed, sides.rooted & sign, sides.logconvex & sign)


def chosen(operation: Any, given: Arguments) -> Facts:
    """Entries of one or the other, where the condition does not depend on the inputs."""
    condition, a, b = given["condition"], number(given["self"]), number(given["other"])
    if not bool(condition.fixed.all()):
        return unknown(torch.broadcast_shapes(condition.lower.shape, a.lower.shape, b.lower.shape), "a choice by value")
    if condition.value is not None:
        return joined([a, b], lambda parts: torch.where(condition.value, *parts))
    lower, upper = torch.minimum(a.lower, b.lower), torch.maximum(a.upper, b.upper)
    pairs = zip(_masks(a), _masks(b), strict=True)
    return facts(*torch.broadcast_tensors(lower, upper, *(p & q for p, q in pairs), condition.lower)[:-1])


def _masks(value: Facts) -> tuple[Tensor, ...]:
    return value.convex, value.concave, value.fixed, value.rooted, value.logconvex


def filled(operation: Any, given: Arguments) -> Facts:
    """masked_fill: entries under the mask are replaced."""
    return chosen(operation, {"condition": given["mask"], "self": given["value"], "other": given["self"]})


def cast(operation: Any, given: Arguments) -> Facts:
    """A change of type."""
    value = given["self"]
    dtype = given.get("dtype")
    if dtype is None or dtype.is_floating_point:
        return value
    return unknown(value.lower.shape, "a conversion to integers", bool(value.fixed.all()))
