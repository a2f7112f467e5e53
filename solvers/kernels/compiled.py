"""How kernels are compiled: no interpreter lock, once per machine, free to reorder sums but not to forget nan."""

from functools import partial

from numba import njit

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
inlined = partial(njit, forceinline=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})()
