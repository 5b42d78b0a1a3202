"""One function call in a process of its own, with a chosen number of threads.

What a benchmark measures then starts from nothing: no memory, no pool of threads and no cache of
what ran before it. Like :mod:`kdlib.workers`, this module imports neither numba nor torch, because
both take the number of threads from the environment when they are imported.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def call(function: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """Return ``function(*arguments)``, computed in a fresh process that ends with the call.

    Parameters
    ----------
    function, arguments
        What is called; they and the result must be picklable.
    threads
        Of torch, BLAS and numba.

    Raises
    ------
    MemoryError
        The process was killed, which the system does when memory runs out.
    """
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context, start_process, (threads,)) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenExecutor as error:
        raise MemoryError(f"the process of {function.__name__} was killed") from error


def start_process(threads: int) -> None:
    """Set the threads of torch, BLAS and numba before their import; end with the parent process.

    Parameters
    ----------
    threads
        Of each of them.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
