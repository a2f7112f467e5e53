"""A kernel over the batch on as many threads as torch uses."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORTH_A_THREAD = 2e5  # floating point operations below which handing work over costs more than it saves
SLICES = 4  # for each thread: the instances differ in how long they take


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
    edges = [batch * i // (SLICES * threads) for i in range(SLICES * threads + 1)]

    def share(thread: int) -> None:
        for i in range(thread, SLICES * threads, threads):
            kernel(edges[i], edges[i + 1], *arguments)

    futures = [_pool(threads, os.getpid()).submit(share, thread) for thread in range(1, threads)]
    share(0)
    for future in futures:
        future.result()


@lru_cache(maxsize=8)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """One pool per process: threads do not survive a fork. The caller is the first thread."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="icnn")


def array(t: Tensor) -> np.ndarray:
    """The tensor's numbers, contiguous; its own memory where it is so already."""
    return t.detach().contiguous().numpy()
