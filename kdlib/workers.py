"""Worker processes for jobs that run side by side: fresh, one thread each, none left behind.

A pool of several threads of which one is used costs tens of milliseconds a call when all cores are
busy: see :func:`kdlib.isolation.spawning`.
"""

from concurrent.futures import ProcessPoolExecutor

from kdlib.isolation import cores, end_with_parent, spawning


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
        workers or cores(),
        mp_context=spawning(1),
        initializer=_start,
        max_tasks_per_child=tasks_per_process,
    )


def _start() -> None:
    """Keep every library to its one thread, and end when the parent process does."""
    end_with_parent()
    import numba
    import torch

    torch.set_num_threads(1)
    numba.set_num_threads(1)
