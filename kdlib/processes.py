"""Worker processes: how many, with how many threads, and how they end.

Every process starts from scratch: no memory, threads or caches of what ran before it. Its
libraries read their number of threads from the environment at the start. Jobs that run side by
side have one thread each: idle threads cost tens of milliseconds a call when all cores are busy.
Jobs on CUDA devices share them evenly: of n devices, process k sees device k mod n alone. No
process outlives the one that started it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from kdlib import progress
from kdlib.errors import WorkerKilled

#: Variables that set the number of threads of torch, BLAS and numba.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
#: Variable that names the CUDA devices that a process sees.
DEVICE_VARIABLE = "CUDA_VISIBLE_DEVICES"
#: All threads share the environment, so processes start one at a time.
_STARTING = threading.Lock()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads() -> int:
    """Threads of a process that has the machine to itself: OMP_NUM_THREADS, or one per core."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(chosen) if chosen.isdecimal() and int(chosen) else cores()


def visible_devices(count: int) -> list[str]:
    """Names of the first ``count`` CUDA devices that this process sees, for its children."""
    chosen = [name.strip() for name in os.environ.get(DEVICE_VARIABLE, "").split(",")]
    named = [name for name in chosen if name] or [str(k) for k in range(count)]
    return named[:count]


def thread_settings(n_threads: int) -> dict[str, str]:
    """Environment of a process whose libraries use ``n_threads`` threads each.

    Idle threads sleep: by default they spin between parallel loops and take time from other
    trainings, or whatever else runs on the machine.
    """
    return dict.fromkeys(THREAD_VARIABLES, str(n_threads)) | {"OMP_WAIT_POLICY": "passive"}


def call(function: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """Return ``function(*arguments)``, computed in a fresh process that ends with the call.

    Function, arguments and result must be picklable.

    Raises
    ------
    MemoryError
        The process was killed, which the system does when memory runs out.
    """
    try:
        with pool(1, threads=threads) as executor:
            return executor.submit(function, *arguments).result()
    except (BrokenExecutor, WorkerKilled) as error:
        raise MemoryError(f"the process of {function.__name__} was killed") from error


@contextmanager
def pool(
    workers: int | None = None,
    tasks_per_process: int | None = None,
    threads: int = 1,
    devices: int = 0,
) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor of spawned processes, by default one per core.

    Each has ``threads`` threads in torch, BLAS and numba. After ``tasks_per_process`` tasks, if
    given, a fresh process replaces it. Where there are ``devices``, the number of CUDA devices that
    this process sees, each process sees one of them, in turn.

    Raises
    ------
    WorkerKilled
        When the block ends with an executor that broke because a process was killed.
    """
    context = _Spawning(threads, devices)
    try:
        with ProcessPoolExecutor(
            workers or cores(), context, _start, max_tasks_per_child=tasks_per_process
        ) as executor:
            yield executor
    except BrokenExecutor as error:
        if any(process.exitcode == -signal.SIGKILL for process in context.started):
            raise WorkerKilled(
                "a worker process was killed, as the system does when memory runs out; repeat the "
                "command, which resumes"
            ) from error
        raise


def _start() -> None:
    progress.silence()
    end_with_parent(parent_process().sentinel)


def end_with_parent(pipe: int) -> None:
    """End this process when its parent ends, and its group if it leads one, as a kernel does.

    Only the parent holds the other end of ``pipe``, a descriptor that nobody writes to
    (multiprocessing opens one for every process that it spawns). The system closes it however the
    parent ends, SIGKILL included.
    """
    threading.Thread(target=_end_with, args=(pipe,), name="lifeline", daemon=True).start()


def _end_with(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class _Spawning(SpawnContext):
    """Context whose processes have ``n_threads`` threads from the start.

    A spawned process first imports the user's script, and with it perhaps torch and numba, which
    read the number of threads once and for all. So the parent sets the number while it starts
    the process. The same holds for the CUDA device that it sees.
    """

    def __init__(self, n_threads: int, devices: int = 0) -> None:
        super().__init__()
        self.settings = thread_settings(n_threads)
        self.devices = visible_devices(devices)
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # noqa: N802 - multiprocessing's
        """Make a process, and remember it for its exit code."""
        settings = dict(self.settings)
        if self.devices:
            settings[DEVICE_VARIABLE] = self.devices[len(self.started) % len(self.devices)]
        self.started.append(_Limited(*args, settings=settings, **kwargs))
        return self.started[-1]


class _Limited(SpawnProcess):
    """Spawned process that inherits its number of threads, and its device, from the environment."""

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
