import pickle
import subprocess
import sys
from threading import get_ident

import numba
import pytest
import torch

from kdlib.hipnn.kernels.threads import Workers, torch_threads


def test_numba_uses_as_many_threads_as_torch_and_is_put_back():
    """Inside the context numba runs on torch's number of threads, after it on its own."""
    before = numba.get_num_threads()
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        with torch_threads() as n:
            assert n == numba.get_num_threads() == min(n_threads, numba.config.NUMBA_NUM_THREADS)
        assert numba.get_num_threads() == before


def test_compiled_loops_leave_torch_s_threads_alone():
    """In a fresh process, starting numba's threads does not undo torch.set_num_threads(1)."""
    script = (
        "import torch; torch.set_num_threads(1); import numpy as np\n"
        "from kdlib.hipnn.kernels import celllist\n"
        "celllist.build(np.zeros((1, 3)), np.eye(3) * 4, True, 5.0)\n"
        "print(torch.get_num_threads())"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_pieces_run_on_threads_of_one_core_each():
    """Every piece runs once; torch works serially inside the workers, and as before outside."""
    torch.set_num_threads(2)
    seen = {}
    workers = Workers()
    for n_pieces in (2, 3, 2):
        seen.clear()
        workers.run(lambda k: seen.update({k: (get_ident(), torch.get_num_threads())}), n_pieces)
        assert sorted(seen) == list(range(n_pieces))
        assert {n for _, n in seen.values()} == {1}
        assert get_ident() not in {thread for thread, _ in seen.values()}
        assert torch.get_num_threads() == 2


def test_one_piece_needs_no_thread():
    """A single piece runs in the caller's thread, with the caller's torch."""
    torch.set_num_threads(2)
    seen = []
    Workers().run(lambda _: seen.append((get_ident(), torch.get_num_threads())), 1)
    assert seen == [(get_ident(), 2)]


def test_errors_come_back_to_the_caller():
    """An exception in a worker is raised where the work was asked for."""
    with pytest.raises(ZeroDivisionError):
        Workers().run(lambda k: 1 / k, 2)


def test_workers_can_be_copied():
    """A copy starts threads of its own."""
    workers = Workers()
    workers.run(lambda _: None, 2)
    seen = []
    pickle.loads(pickle.dumps(workers)).run(seen.append, 2)
    assert sorted(seen) == [0, 1]
