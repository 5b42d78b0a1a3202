"""Child processes: number, threads, output and end."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from kdlib import processes, progress
from kdlib.errors import WorkerKilled


def threads() -> tuple[int, int, int]:
    """Threads of torch, threads of numba, size of numba's pool."""
    import numba
    import torch

    return torch.get_num_threads(), numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS


def test_a_worker_has_one_thread():
    """Neither torch nor numba starts more, and numba's pool has no idle threads to wake."""
    with processes.pool(1) as pool:
        assert pool.submit(threads).result() == (1, 1, 1)


def test_workers_are_replaced_when_asked():
    """With one task per process, every task has a fresh process."""
    with processes.pool(1, tasks_per_process=1) as pool:
        first, second = (pool.submit(os.getpid).result() for _ in range(2))
    assert first != second
    assert os.getpid() not in (first, second)


def device() -> str | None:
    """CUDA devices that this process sees."""
    return os.environ.get(processes.DEVICE_VARIABLE)


@pytest.mark.parametrize(
    ("seen", "count", "expected"),
    [(None, 2, ["0", "1", "0"]), ("3,5", 2, ["3", "5", "3"]), (None, 0, [None] * 3)],
)
def test_workers_share_devices_in_turn(monkeypatch, seen, count, expected):
    """Process k sees device k mod n, by the name that this process knows it by, and no other."""
    monkeypatch.delenv(processes.DEVICE_VARIABLE, raising=False)
    if seen:
        monkeypatch.setenv(processes.DEVICE_VARIABLE, seen)
    with processes.pool(1, tasks_per_process=1, devices=count) as pool:
        assert [pool.submit(device).result() for _ in expected] == expected
    assert device() == seen


@pytest.mark.parametrize(
    ("setting", "expected"), [("3", 3), ("4,2", 4), ("", None), ("0", None), ("many", None)]
)
def test_the_user_chooses_threads(monkeypatch, setting, expected):
    """OMP_NUM_THREADS says how many, its first level where there are several; else the cores do."""
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert processes.threads() == (expected or processes.cores())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind processes")
def test_cores_are_those_that_the_process_may_use():
    """A process bound to one core, as by a batch system, counts one, however many there are."""
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert processes.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert processes.cores() == len(allowed)


def _settings() -> list[str | None]:
    return [os.getenv(name) for name in (*processes.THREAD_VARIABLES, "OMP_WAIT_POLICY")]


def test_threads_of_a_call():
    """The environment of the process names its threads before anything is imported; ours stays."""
    before = _settings()
    assert processes.call(_settings, threads=3) == ["3", "3", "3", "passive"]
    assert _settings() == before


def _killed() -> None:
    os._exit(9)


def test_killed_process_is_a_memory_error():
    """The system kills a process that outgrows the memory: the benchmark goes on."""
    with pytest.raises(MemoryError, match="was killed"):
        processes.call(_killed)


def _shot() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _use(function) -> None:
    with processes.pool(2) as pool:
        pool.submit(function).result()


def test_a_worker_that_was_killed_is_one_sentence():
    """As when memory runs out: the command ends with a sentence; a worker that crashed does not."""
    with pytest.raises(WorkerKilled, match="when memory runs out; repeat the command, which res"):
        _use(_shot)
    with pytest.raises(BrokenExecutor):
        _use(_killed)


def _speak() -> None:
    progress._in_terminal = lambda: True
    for item in progress.bar(range(2), desc="epochs"):
        progress.line(f"epoch {item}")


def test_workers_say_nothing(capfd):
    """Lines of a worker, which shares the terminal of its parent, stay away."""
    processes.call(_speak)
    assert capfd.readouterr() == ("", "")


PARENT = """
import os, time
from kdlib import processes

if __name__ == "__main__":
    with processes.pool(2) as pool:
        jobs = [pool.submit(time.sleep, 60) for _ in range(2)]
        while len(pool._processes) < 2 or not all(job.running() for job in jobs):
            time.sleep(0.01)
        print(*pool._processes, flush=True)
        jobs[0].result()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, how):
    """A parent that is killed, SIGKILL included, leaves no process behind that computes."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert not any(map(_gone, workers))
        parent.send_signal(how)
    end = time.monotonic() + 20
    while not all(map(_gone, workers)):
        assert time.monotonic() < end, "a worker lives on"
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # dead, and not yet collected by whoever is its parent now


SCRIPT = """
import numba
import torch
from kdlib import processes


def alone():
    numba.njit(lambda x: x + 1)(1)
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)
    return torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS


if __name__ == "__main__":
    with processes.pool(1) as pool:
        assert pool.submit(alone).result() == (1, 1)
"""


@pytest.mark.skipif(os.cpu_count() == 1, reason="the number of threads must change")
def test_a_script_may_import_torch_and_numba_at_its_top(tmp_path):
    """A spawned process imports the script, and both libraries, first: one thread all the same."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, script], check=True, timeout=120)
