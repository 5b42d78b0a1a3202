"""Machine code that numba keeps on disk, and what it depends on.

numba compiles a cached function again when the file it stands in has changed, but not when a file
of functions it calls has. Ours call functions of other files, so all sources of a folder count.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function as ``numba.njit`` does, and keep the code until its folder changes.

    Without a cache that can be written to, or can be told what the code depends on, the function
    is compiled in every process.
    """

    def decorate(function: Callable) -> Callable:
        try:
            kept = numba.njit(cache=True, **options)(function)
            file = kept._cache._cache_file
            file._source_stamp = (
                file._source_stamp,
                *_stamp(Path(function.__code__.co_filename).parent),
            )
        except (RuntimeError, AttributeError):  # no folder, or another numba
            return numba.njit(**options)(function)
        return kept

    return decorate


@cache
def _stamp(folder: Path) -> tuple[int, int]:
    """Newest change (ns) and total size (bytes) of a folder's sources."""
    found = [path.stat() for path in folder.glob("*.py")]
    newest = max((one.st_mtime_ns for one in found), default=0)
    return newest, sum(one.st_size for one in found)
