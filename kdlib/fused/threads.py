"""One knob for threads: compiled loops use as many as torch does."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch


@contextmanager
def torch_threads() -> Iterator[int]:
    """Run numba's parallel loops on ``torch.get_num_threads()`` threads; yields that number.

    So ``torch.set_num_threads(1)`` (or ``OMP_NUM_THREADS=1``) in a worker process of a sweep keeps
    the kernels to one thread too. The caller's own numba setting is put back.
    """
    wanted = torch.get_num_threads()
    before = numba.get_num_threads()  # the first call starts a pool that resets OpenMP's count
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    n_threads = min(wanted, numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(n_threads)
    try:
        yield n_threads
    finally:
        numba.set_num_threads(before)
