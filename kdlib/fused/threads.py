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
    before = numba.get_num_threads()
    n_threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(n_threads)
    try:
        yield n_threads
    finally:
        numba.set_num_threads(before)
