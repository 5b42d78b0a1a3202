"""One knob for threads: compiled loops and chunks use as many as torch does.

So ``torch.set_num_threads(1)`` (or ``OMP_NUM_THREADS=1``) in a worker process also limits
everything here to one thread.

A process forked from one that has computed (by a ``multiprocessing`` pool, say) is not left to
itself: the threads of its parent do not exist there, torch would wait for them forever, and numba
would end the process. It computes on one thread.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier

import numba
import torch

from kdlib.errors import InputError


@dataclass
class _Process:
    """What this process has inherited."""

    computed: bool = False
    """Whether it, or the process it was forked from, has computed."""
    forked: bool = False
    """Whether it was forked from a process that had started threads."""
    obstacle: str = ""
    """Why it cannot compute."""


_PROCESS = _Process()


@contextmanager
def torch_threads() -> Iterator[int]:
    """Run numba's parallel loops on ``torch.get_num_threads()`` threads; yields that number.

    The caller's own numba setting is put back. When numba starts its threads it also tells OpenMP,
    and with it torch, to use all cores from then on; torch's number is put back too.

    Raises
    ------
    InputError
        The process was forked, and numba's threads cannot be started anew.
    """
    if _PROCESS.obstacle:
        raise InputError(_PROCESS.obstacle)
    wanted = torch.get_num_threads()
    before = numba.get_num_threads()  # starts numba's threads, the first time
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    _PROCESS.computed = True
    n_threads = 1 if _PROCESS.forked else min(wanted, numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(n_threads)
    try:
        yield n_threads
    finally:
        numba.set_num_threads(before)


def _after_fork() -> None:
    """Let a forked process compute on one thread."""
    if _PROCESS.computed:
        torch.set_num_threads(1)
    try:
        started = numba.threading_layer() == "omp"
    except ValueError:  # no threads yet
        return
    _PROCESS.forked = _PROCESS.forked or _PROCESS.computed or started
    if not started:  # the other layers notice a fork
        return
    try:
        from numba.np.ufunc import omppool

        # numba remembers the process that called this last, and ends any other.
        ctypes.CFUNCTYPE(None, ctypes.c_int)(omppool.launch_threads)(1)
        numba.set_num_threads(1)
    except (ImportError, AttributeError):  # another numba
        _PROCESS.obstacle = (
            "this process was forked from one that has computed, whose threads do not exist here; "
            "start it with multiprocessing's 'spawn'"
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Workers:
    """Python threads that each compute on one core.

    Work that is cut into large independent pieces runs better this way than with parallel loops
    inside each step: nobody waits at the end of a loop, and no idle OpenMP thread (torch and numba
    bring one pool each) spins on a core that the other one wants.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0
        self._process = 0

    def run(self, task: Callable[[int], None], n_pieces: int) -> None:
        """Call ``task(0)`` to ``task(n_pieces - 1)``, at the same time if there are several."""
        if n_pieces == 1:
            task(0)
            return
        if self._size < n_pieces or self._process != os.getpid():
            self._start(n_pieces)
        list(self._pool.map(task, range(n_pieces)))

    def _start(self, size: int) -> None:
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown()  # a forked process has no threads to stop
        everyone_is_up = Barrier(size)

        def prepare(_: int) -> None:
            # Setting the number holds for this thread, unless torch initializes the thread later
            # (hence the first call), and for threads that torch has not seen yet (hence the repair
            # below, once all workers are up).
            torch.get_num_threads()
            torch.set_num_threads(1)
            everyone_is_up.wait()

        n_threads = torch.get_num_threads()
        self._pool, self._size, self._process = ThreadPoolExecutor(size), size, os.getpid()
        list(self._pool.map(prepare, range(size)))
        torch.set_num_threads(n_threads)

    def __getstate__(self) -> dict:
        # Threads are neither copied nor pickled.
        return {"_pool": None, "_size": 0, "_process": 0}
