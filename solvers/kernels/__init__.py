"""Compiled CPU kernels for batches of small dense problems: numba, one instance at a time, threads over the batch.

Importing this package does not import numba; its modules do, on their first use. Where numba is absent the torch
code does everything.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor


def kernels_for(t: Tensor) -> ModuleType | None:
    """The module `calls`, if there are kernels for tensors like t."""
    return _calls() if t.device.type == "cpu" else None


@cache
def _calls() -> ModuleType | None:
    return import_module(".calls", __name__) if find_spec("numba") else None
