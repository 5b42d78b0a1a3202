"""Processes that compute beside this one: how many, with how many threads, and how they end.

Every process starts from nothing: no memory, no threads and no cache of what ran before it. Its
libraries find their number of threads in the environment at its start. Jobs that run side by side
have one thread each: a pool of several threads of which one is used costs tens of milliseconds a
call when all cores are busy. None of the processes outlives the one that started it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from kdlib import progress

#: Variables that torch, BLAS and numba take their number of threads from.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
#: The environment belongs to the whole process: one start at a time.
_STARTING = threading.Lock()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads() -> int:
    """Threads of a process that has the machine for itself: OMP_NUM_THREADS, or one per core."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(chosen) if chosen.isdecimal() and int(chosen) else cores()


def thread_settings(n_threads: int) -> dict[str, str]:
    """Environment of a process whose libraries have so many threads each.

    Idle threads sleep: by default they spin between parallel loops, and when several trainings
    share the cores, or the machine does other work, they take the time that the others need.
    """
    return dict.fromkeys(THREAD_VARIABLES, str(n_threads)) | {"OMP_WAIT_POLICY": "passive"}


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
        with pool(1, threads=threads) as executor:
            return executor.submit(function, *arguments).result()
    except BrokenExecutor as error:
        raise MemoryError(f"the process of {function.__name__} was killed") from error


def pool(
    workers: int | None = None, tasks_per_process: int | None = None, threads: int = 1
) -> ProcessPoolExecutor:
    """Return an executor of spawned processes.

    Parameters
    ----------
    tasks_per_process
        Tasks after which a process is replaced by a fresh one; by default it serves to the end.
    threads
        Of torch, BLAS and numba in each process.
    """
    return ProcessPoolExecutor(
        workers or cores(), _spawning(threads), _start, max_tasks_per_child=tasks_per_process
    )


def _start() -> None:
    progress.silence()
    end_with_parent(parent_process().sentinel)


def end_with_parent(pipe: int) -> None:
    """End this process when the other end of a pipe, which only its parent holds, is closed.

    The system closes it however the parent ends, SIGKILL included. Of a process that leads its
    group, as a kernel does, the group ends with it.

    Parameters
    ----------
    pipe
        Descriptor to read from, where nobody writes; multiprocessing gives one to every process
        that it spawns.
    """
    threading.Thread(target=_end_with, args=(pipe,), name="lifeline", daemon=True).start()


def _end_with(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _spawning(n_threads: int) -> SpawnContext:
    """Context whose processes have so many threads from their start.

    A spawned process imports the user's script first, and with it perhaps torch and numba, which
    take the number of threads from the environment once and for all. So the number is set in the
    parent, for as long as the process starts.
    """
    context = SpawnContext()
    context.Process = partial(_Limited, settings=thread_settings(n_threads))
    return context


class _Limited(SpawnProcess):
    """Spawned process whose libraries find the number of threads in the environment."""

    def __init__(self, *args: Any, settings: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings

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
