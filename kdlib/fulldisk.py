"""A full disk is said to be one, whatever it broke."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdlib.errors import InputError

#: With less room than this (bytes) a disk counts as full.
LEAST = 2**20


@contextmanager
def said(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what a full disk causes into the one error that says so.

    Libraries raise errors of their own, and HDF5 can end the process of a worker.

    Parameters
    ----------
    folder
        Where the block writes; it may be made there.

    Raises
    ------
    OSError
        With ``errno.ENOSPC`` and the folder as its ``filename``.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not (_of_space(error) or _full(Path(folder))):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def _of_space(error: BaseException) -> bool:
    return os.strerror(errno.ENOSPC).lower() in str(error).lower()


def _full(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free < LEAST
