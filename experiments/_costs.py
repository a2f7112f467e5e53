"""What a count and its gradient cost: the closed form beside autograd."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments._surveys import Contacts
from icnn.adjoints import noisy_or_count

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Cost(NamedTuple):
    """Seconds of processor time, the most memory beyond what was there (bytes), and (s, ∂s/∂α, ∂s/∂β)."""

    seconds: float
    peak: float
    found: tuple[float, ...]


def closed_form(alpha: Tensor, beta: Tensor, of: Contacts) -> Tensor:
    return noisy_or_count(alpha, beta, of.I, of.D, of.offsets)


def autograd(alpha: Tensor, beta: Tensor, of: Contacts) -> Tensor:
    """The same in the log domain, as one would write it."""
    log_factors = -torch.nn.functional.softplus(alpha * of.I + beta * of.D, threshold=40)
    return -torch.segment_reduce(log_factors, "sum", offsets=of.offsets).expm1().sum()


WAYS: dict[str, Callable[[Tensor, Tensor, Contacts], Tensor]] = {"closed form": closed_form, "autograd": autograd}


def cost(way: str, contacts: Contacts, alpha: float, beta: float) -> Cost:
    """Of one count with its gradient, after what is computed before has left."""
    a, b = (torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in (alpha, beta))
    before = _high_water()
    start = time.process_time()
    s = WAYS[way](a, b, contacts)
    gradient = torch.autograd.grad(s, (a, b))
    seconds = time.process_time() - start
    peak = _mark() - before
    return Cost(seconds, peak, tuple(part.item() for part in (s, *gradient)))


def _high_water() -> float:
    """Bytes that are resident now, from where the high water mark starts again."""
    if not RESET.exists():
        return math.nan
    RESET.write_text("5", encoding="utf-8")
    return _mark()


def _mark() -> float:
    """The high water mark in bytes; nan where the system keeps none."""
    if not STATUS.exists():
        return math.nan
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(1024 * float(line.split()[1]) for line in lines if line.startswith("VmHWM"))
