"""numba functions cached on disk until a source file of their folder changes.

numba recompiles a cached function when its own file has changed, but not when a file of the
functions that it calls has. Ours call functions of other files, so the whole folder counts.
"""

from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function as ``numba.njit`` does, and cache the code until its folder changes.

    Where the cache cannot be read or written, then or later, or numba has changed its inside, the
    function is compiled in every process.
    """

    def decorate(function: Callable) -> Callable:
        try:
            kept = numba.njit(cache=True, **options)(function)
            file = kept._cache._cache_file
            file._source_stamp = (
                file._source_stamp,
                *_stamp(Path(function.__code__.co_filename).parent),
            )
            for name in ("load_overload", "save_overload"):
                setattr(kept._cache, name, _if_possible(getattr(kept._cache, name)))
        except (RuntimeError, AttributeError):  # no folder, or another numba
            return numba.njit(**options)(function)
        return kept

    return decorate


def inlined(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function for the :func:`compiled` ones that call it, as a part of each of them.

    Without ``forceinline`` LLVM may leave it a function of its own. The process that compiles it
    then runs a version optimized alone, and those that read the cache one optimized with its
    caller: results would differ in their last bits.
    """
    return numba.njit(forceinline=True, **options)


def _if_possible(access: Callable[..., Any]) -> Callable[..., Any]:
    """Access to the cache that finds and keeps nothing on a full disk, say, instead of failing."""

    @wraps(access)
    def attempt(*arguments: Any) -> Any:
        try:
            return access(*arguments)
        except (OSError, EOFError):
            return None

    return attempt


@cache
def _stamp(folder: Path) -> tuple[int, int]:
    """Newest change (ns) and total size (bytes) of a folder's sources."""
    found = [path.stat() for path in folder.glob("*.py")]
    newest = max((one.st_mtime_ns for one in found), default=0)
    return newest, sum(one.st_size for one in found)
