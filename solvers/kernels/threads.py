"""A kernel over the batch on as many threads as torch uses."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORTH_A_THREAD = 2e5  # floating point operations below which handing work over costs more than it saves


def over_batch(kernel: Callable[..., None], batch: int, cost: float, *arguments: Any) -> None:
    """kernel(start, stop, *arguments) for slices that make up the batch; cost: operations per instance, roughly.

    Kernels release the interpreter lock and write into their arguments. A worker of a DataLoader has one torch
    thread and starts none; a forked process starts its own.
    """
    threads = min(batch, int(batch * cost / WORTH_A_THREAD))
    threads = min(threads, torch.get_num_threads()) if threads > 1 else 1
    if threads == 1:
        kernel(0, batch, *arguments)
        return
    edges = np.linspace(0, batch, min(4 * threads, batch) + 1).astype(int).tolist()
    slices = list(pairwise(edges))
    pool = _pool(threads, os.getpid())
    futures = [pool.submit(kernel, start, stop, *arguments) for start, stop in slices]
    for future in futures:
        future.result()


@lru_cache(maxsize=8)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """One pool per process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="icnn")


def array(t: Tensor) -> np.ndarray:
    """The tensor's numbers, contiguous; its own memory where it is so already."""
    return t.detach().contiguous().numpy()
