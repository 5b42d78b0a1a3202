"""Worker processes: one thread each, replaced when asked."""

import os
import subprocess
import sys

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


SCRIPT = """
import numba
import torch
from kdlib import workers


def alone():
    numba.njit(lambda x: x + 1)(1)
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)
    return torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS


if __name__ == "__main__":
    with workers.single_threaded(1) as pool:
        assert pool.submit(alone).result() == (1, 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason="the number of threads must change")
def test_a_script_may_import_torch_and_numba_at_its_top(tmp_path):
    """A spawned process imports the script, and both libraries, first: one thread all the same."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, script], check=True, timeout=120)
