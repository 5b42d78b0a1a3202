"""Worker processes for jobs that run side by side: fresh, one thread each, none left behind."""

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numba
import torch


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
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
