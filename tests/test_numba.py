"""Cached machine code follows all sources of its folder, and computes what fresh code does."""

import errno
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numba.core.caching
import numba.core.dispatcher
import pytest

from kdlib import _numba
from kdlib.hipnn import kernels

INNER = "from numba import njit\n\n\n@njit\ndef inner(x):\n    return x + {number}\n"
OUTER = """from inner import inner
from kdlib._numba import compiled


@compiled()
def outer(x):
    return inner(x)


print(outer(1), sum(outer.stats.cache_hits.values()))
"""


def called(folder: Path) -> str:
    """Result of `outer` and how often its code came from the cache, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", "import outer"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_an_edit_of_a_called_function_compiles_its_callers_again(tmp_path):
    """Code is reused as long as no file of the folder changes, and never longer."""
    (tmp_path / "inner.py").write_text(INNER.format(number=10))
    (tmp_path / "outer.py").write_text(OUTER)
    assert called(tmp_path) == "11 0"
    assert called(tmp_path) == "11 1"
    (tmp_path / "inner.py").write_text(INNER.format(number=20))
    os.utime(tmp_path / "inner.py", ns=(0, 4 * 10**18))
    assert called(tmp_path) == "21 0"


@pytest.mark.parametrize("broken", [RuntimeError("no locator available"), None])
def test_without_a_cache_functions_are_compiled(broken, monkeypatch):
    """No folder to write to, or a numba that keeps its stamp elsewhere: compiled all the same."""

    class Cache(numba.core.dispatcher.NullCache):
        def __init__(self, function):
            if broken:
                raise broken

    monkeypatch.setattr(numba.core.dispatcher, "FunctionCache", Cache)
    doubled = _numba.compiled()(lambda x: 2 * x)
    assert doubled(21) == 42
    assert type(doubled._cache) is numba.core.dispatcher.NullCache


@pytest.mark.parametrize(
    ("access", "error"),
    [
        ("save", OSError(errno.ENOSPC, "No space left on device")),
        ("save", PermissionError(errno.EACCES, "Permission denied")),
        ("load", PermissionError(errno.EACCES, "Permission denied")),
        ("load", EOFError("Ran out of input")),
    ],
)
def test_a_cache_that_fails_later_fails_nobody(access, error, monkeypatch):
    """A disk that fills up, or a file of another user, costs the cache and not the calculation."""

    def fail(*_):
        raise error

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", lambda *_: None)
    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, access, fail)
    assert _numba.compiled()(lambda x: 2 * x)(21) == 42


#: Prints what two epochs make of the weights, and how often machine code came from the cache.
TRAINING = """
import hashlib
from types import SimpleNamespace
import numpy as np
from kdlib import datasets, hipnn, training
from kdlib.hipnn.kernels import trainsums
from kdlib.training import roles
from kdlib.training.loop import Loop

frames, split = datasets.load("al-pbe")[:9], SimpleNamespace(train=np.arange(6), valid=[6, 7, 8])
settings = training.TrainingConfig(batch_size=3, max_epochs=2)
loop = Loop(hipnn.HipnnConfig(5, 6, 2), settings, roles.role("teacher").schedule(2), frames, split)
loop.run_epoch(), loop.run_epoch()
weights = b"".join(p.detach().numpy().tobytes() for p in loop.trainable)
print(hashlib.sha256(weights).hexdigest(), sum(trainsums.tangents.stats.cache_hits.values()))
"""


def test_what_compiled_functions_call_is_a_part_of_them():
    """A function of its own would be optimized otherwise where it is compiled than in the cache."""
    names = [name for _, name, _ in pkgutil.iter_modules(kernels.__path__, kernels.__name__ + ".")]
    found = {
        f"{name}.{key}": value
        for name in names
        for key, value in vars(importlib.import_module(name)).items()
        if isinstance(value, numba.core.dispatcher.Dispatcher)
    }
    called = {k: f for k, f in found.items() if isinstance(f._cache, numba.core.caching.NullCache)}
    assert len(called) > 20
    assert [name for name, f in called.items() if not f.targetoptions.get("forceinline")] == []


@pytest.mark.slow
def test_a_training_is_the_same_with_and_without_a_cache(tmp_path):
    """Weights of the process that compiles the kernels, and of one that reads them; all bits."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", TRAINING],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout.split()
        for _ in range(2)
    )  # fmt: skip
    assert (first[1], second[1]) == ("0", "1")
    assert first[0] == second[0]
