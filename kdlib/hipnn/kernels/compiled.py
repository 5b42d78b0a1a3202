"""Machine code that numba keeps on disk, and when it must go.

numba compiles a cached function again when the file it stands in has changed, but not when a file
of functions it calls has. The loops here call kernels of other files, so the whole package counts.
"""

import os
from pathlib import Path

_FOLDER = Path(__file__).parent


def discard_stale(folder: Path = _FOLDER) -> int:
    """Remove compiled code that is older than any source file beside it.

    Parameters
    ----------
    folder
        Package whose ``__pycache__`` holds numba's files.

    Returns
    -------
    int
        Number of files removed; 0 where the folder cannot be written to (numba then keeps its files
        with the user's, under a name that depends on the installation).
    """
    cached = [*(folder / "__pycache__").glob("*.nb[ci]")]
    if not cached or not os.access(folder / "__pycache__", os.W_OK):
        return 0
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    stale = [path for path in cached if _modified(path) < newest]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def _modified(path: Path) -> float:
    """Time of the last change; now, if another process has just removed the file."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
