import pickle
import subprocess
import sys
from threading import get_ident

import hippynn.custom_kernels
import numba
import pytest
import torch
from ase.build import bulk

from kdlib import hipnn
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.hipnn.calculator import HipnnCalculator, stock_calculator
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


@pytest.mark.parametrize("way", ["prediction", "layers", "stock"])
def test_hippynns_own_loops_use_as_many_threads_as_torch(way, monkeypatch):
    """Where hippynn's layers run, one thread stays one, in numba as well, and is put back."""
    torch.set_num_threads(1)
    potential = Potential(hipnn.build(HipnnConfig(5, 5, 1, cutoff=4.0, soft_max=3.5)))
    seen, envsum, before = [], hippynn.custom_kernels.envsum, numba.get_num_threads()

    def watched(*arguments):
        seen.append((numba.get_num_threads(), torch.get_num_threads()))
        return envsum(*arguments)

    monkeypatch.setattr(hippynn.custom_kernels, "envsum", watched)
    atoms = bulk("Al", cubic=True)
    if way == "prediction":
        potential.predict([atoms])
    else:
        own = HipnnCalculator(potential, device="cpu", backend="hippynn")
        atoms.calc = own if way == "layers" else stock_calculator(potential, device="cpu")
        atoms.get_forces()
    assert seen == [(1, 1)]
    assert (numba.get_num_threads(), torch.get_num_threads()) == (before, 1)


FORK = """
import os, signal, sys
import numpy as np
import torch
from kdlib.errors import InputError
from kdlib.hipnn.kernels import celllist

positions = np.random.default_rng(0).uniform(0, 20, (500, 3))
large = torch.ones(10**6)


def find():
    return len(celllist.build(positions, np.eye(3) * 20, True, 5.0))


def forked(work):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hanging child ends
        os._exit(0 if work() else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, code


def works():
    found = find(), float(large.exp().sum()), torch.get_num_threads()
    torch.set_num_threads(2)  # numba's loops stay on one all the same
    return (found[0], round(found[1])) == (expected, round(total)) and found[2] == 1 and find()


def refuses():
    try:
        find()
    except InputError as error:
        return "forked" in str(error) and "spawn" in str(error)


torch.set_num_threads(2)
forked(lambda: torch.get_num_threads() == 2 and find() > 0)  # nothing was computed yet
expected, total = find(), float(large.exp().sum())
forked(works)
forked(lambda: forked(works) is None)
assert find() == expected and torch.get_num_threads() == 2
from numba.np.ufunc import omppool
del omppool.launch_threads  # as in another numba
forked(refuses)
"""


def test_forked_children_compute_on_one_thread_or_say_why_not():
    """Children of a process that computed compute, too; where numba keeps them, they say so.

    One whose parent has started no threads keeps the number that it was told.
    """
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
