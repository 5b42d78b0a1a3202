"""Files that appear whole or not at all, in folders that one run at a time writes to."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdlib.errors import InputError

#: With less room than this (bytes) a disk counts as full.
LEAST_ROOM = 2**20


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what is written there takes its place at the end.

    When the block raises, or the disk is full, the file that was there stays as it is.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Keep a second process out of a folder while the block works there.

    Parameters
    ----------
    folder
        An existing one. The lock goes with the process, however that ends.
    what
        Name of the work, e.g. ``"kdlib run"``.

    Raises
    ------
    InputError
        Another process holds the lock.
    """
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another {what} is writing here") from error
        yield


@contextmanager
def full_disk_reported(folder: str | os.PathLike[str]) -> Iterator[None]:
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
    return shutil.disk_usage(there).free < LEAST_ROOM
