"""Cached machine code follows all sources of its folder, and needs no folder to be kept in."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numba.core.caching
import numba.core.dispatcher
import pytest

from kdlib import _numba

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
