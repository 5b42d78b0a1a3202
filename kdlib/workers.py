"""Worker processes for jobs that run side by side: fresh, one thread each, none left behind.

This module imports neither numba nor torch: numba fixes the size of its thread pool when it is
imported, and a pool of several threads of which one is used costs tens of milliseconds a call when
all cores are busy. So a worker sets the number first and imports afterwards.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from kdlib.isolation import start_process


def single_threaded(
    workers: int | None = None, tasks_per_process: int | None = None
) -> ProcessPoolExecutor:
    """Return an executor of spawned processes with one thread each.

    Parameters
    ----------
    workers
        Number of processes; by default one per core.
    tasks_per_process
        Tasks after which a process is replaced by a fresh one; by default it serves to the end.
    """
    return ProcessPoolExecutor(
        workers or os.cpu_count() or 1,
        mp_context=get_context("spawn"),
        initializer=_start,
        max_tasks_per_child=tasks_per_process,
    )


def _start() -> None:
    """Limit every library to one thread, and end when the parent process does."""
    start_process(1)
    import numba
    import torch

    torch.set_num_threads(1)
    numba.set_num_threads(1)
