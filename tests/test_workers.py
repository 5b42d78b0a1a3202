"""Worker processes: one thread each, replaced when asked."""

import os

import pytest

from kdlib import workers


def threads() -> tuple[int, int, int]:
    """Threads of torch, threads of numba, size of numba's pool."""
    import numba
    import torch

    return torch.get_num_threads(), numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS


@pytest.mark.slow
def test_a_worker_has_one_thread():
    """Neither torch nor numba starts more, and numba's pool has no idle threads to wake."""
    with workers.single_threaded(1) as pool:
        assert pool.submit(threads).result() == (1, 1, 1)


def test_workers_are_replaced_when_asked(monkeypatch):
    """With one task per process, every task has a fresh process."""
    monkeypatch.setattr(workers, "_start", _nothing)
    with workers.single_threaded(1, tasks_per_process=1) as pool:
        first, second = (pool.submit(os.getpid).result() for _ in range(2))
    assert first != second
    assert os.getpid() not in (first, second)


def _nothing() -> None:
    """Start without torch and numba, which this test does not need."""
