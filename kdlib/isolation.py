"""One function call in a process of its own, with a chosen number of threads.

What a benchmark measures then starts from nothing: no memory, no pool of threads and no cache of
what ran before it.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

#: Variables that torch, BLAS and numba take their number of threads from.
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
#: The environment belongs to the whole process: one start at a time.
_STARTING = threading.Lock()


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
    try:
        with ProcessPoolExecutor(1, spawning(threads), end_with_parent) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenExecutor as error:
        raise MemoryError(f"the process of {function.__name__} was killed") from error


def spawning(threads: int) -> SpawnContext:
    """Context whose processes have so many threads of torch, BLAS and numba from their start.

    A spawned process imports the user's script first, and with it perhaps torch and numba, which
    take the number of threads from the environment once and for all. So the number is set in the
    parent, for as long as the process starts.

    Parameters
    ----------
    threads
        Of each of the libraries.
    """
    context = SpawnContext()
    context.Process = partial(_Limited, n_threads=threads)
    return context


class _Limited(SpawnProcess):
    """Spawned process whose libraries find the number of threads in the environment."""

    def __init__(self, *args: Any, n_threads: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = dict.fromkeys(THREAD_SETTINGS, str(n_threads))
        self._settings["OMP_WAIT_POLICY"] = "passive"  # idle threads sleep

    @staticmethod
    def _Popen(process: "_Limited") -> Any:  # noqa: N802 - the name is multiprocessing's
        with _STARTING, _environment(process._settings):
            return SpawnProcess._Popen(process)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_with_parent() -> None:
    """End this process when its parent has ended."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
