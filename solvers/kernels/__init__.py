"""Compiled CPU kernels for batches of small dense problems: numba, one instance at a time, threads over the batch.

Importing this package does not import numba; its modules do, on their first use. Where numba is absent the torch
loop does everything.
"""

from importlib.util import find_spec

from torch import Tensor


def available(t: Tensor) -> bool:
    """Whether there are kernels for tensors like t."""
    return t.device.type == "cpu" and find_spec("numba") is not None
