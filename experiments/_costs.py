"""What a count and its gradient cost: the closed form beside autograd."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks._memory import peak_bytes
from experiments._surveys import Contacts
from icnn.adjoints import noisy_or_count


class Cost(NamedTuple):
    """Seconds of processor time, the most bytes allocated at a time beside the inputs, and (s, ∂s/∂α, ∂s/∂β)."""

    seconds: float
    peak: int
    found: tuple[float, ...]


def closed_form(alpha: Tensor, beta: Tensor, of: Contacts) -> Tensor:
    return noisy_or_count(alpha, beta, of.I, of.D, of.offsets)


def autograd(alpha: Tensor, beta: Tensor, of: Contacts) -> Tensor:
    """The same in the log domain, as one would write it."""
    log_factors = -torch.nn.functional.softplus(alpha * of.I + beta * of.D, threshold=40)
    return -torch.segment_reduce(log_factors, "sum", offsets=of.offsets).expm1().sum()


WAYS: dict[str, Callable[[Tensor, Tensor, Contacts], Tensor]] = {"closed form": closed_form, "autograd": autograd}


def cost(way: str, contacts: Contacts, alpha: float, beta: float) -> Cost:
    """Of one count with its gradient; it runs twice, as watching the memory takes time."""
    a, b = (torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in (alpha, beta))

    def run() -> tuple[Tensor, ...]:
        s = WAYS[way](a, b, contacts)
        return s, *torch.autograd.grad(s, (a, b))

    start = time.process_time()
    found = run()
    seconds = time.process_time() - start
    return Cost(seconds, peak_bytes(run), tuple(part.item() for part in found))
