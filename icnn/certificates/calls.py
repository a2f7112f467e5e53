"""What a rule is: it is called with the operation and its arguments by name, tensors as Facts.

It returns the Facts of what the operation returns, a tuple where that is several tensors, an empty one where it does
not know. Operations of fixed values alone need no rule.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .algebra import through
from .facts import Facts, known

Arguments = dict[str, Any]
Result = Facts | tuple[Facts, ...]
Rule = Callable[[Any, Arguments], Result]
EXPANDED = 10**7  # entries of a product or difference of all pairs, before they are summed


def number(value: object) -> Facts:
    """Facts about an argument that may be a plain number."""
    return value if isinstance(value, Facts) else known(torch.as_tensor(value, dtype=torch.float64))


def numeric(value: Facts) -> bool:
    """Whether facts are about real numbers, not indices or masks."""
    return value.value is None or value.value.is_floating_point()


def call(operation: Any, given: Arguments) -> Any:
    """The operation on tensors, whatever its arguments are called."""
    names = [argument for argument in operation._schema.arguments if argument.name in given]
    args = [given[argument.name] for argument in names if not argument.kwarg_only]
    return operation(*args, **{argument.name: given[argument.name] for argument in names if argument.kwarg_only})


def reshaped_factor(value: Facts, shape: tuple[int, ...]) -> Facts:
    """A weight in another shape; its values stay known where they are."""
    if value.value is not None:
        return known(value.value.reshape(shape))
    return through(value, lambda part: part.reshape(shape))


def because(found: Facts, reason: str) -> Facts:
    """The facts with another reason."""
    return replace(found, reason=reason)
