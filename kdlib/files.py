"""Files: how users name them, and how they appear whole or not at all.

A user's path may start with ``~``, and what exists under exactly its name is no pattern, whatever
signs the name has. One run at a time writes to a folder.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path

from kdlib.errors import InputError

#: A disk with less free space than this (bytes) counts as full.
LEAST_ROOM = 2**20


def named(path: str | os.PathLike[str]) -> Path:
    """Path that a user names, where ``~`` is a home folder."""
    return Path(os.path.expanduser(path))


def matching(path: str | os.PathLike[str]) -> list[Path]:
    """Files that a path or a pattern such as ``runs/*/OUTCAR`` names, sorted; empty if none."""
    whole = named(path)
    if os.path.isfile(whole):  # False, not an error, for what cannot be a path
        return [whole]
    folder, pattern = fixed_part(path)
    if not has_magic(pattern):
        return []
    found = (folder / name for name in glob(pattern, root_dir=folder, recursive=True))
    return sorted((one for one in found if one.is_file()), key=str)


def fixed_part(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Divide a path into the folder above its pattern, and the pattern or name below it.

    A part with brackets or stars that exists is no pattern.
    """
    parts = named(path).parts
    free = (k for k, part in enumerate(parts) if has_magic(part) and not _exists(parts[: k + 1]))
    k = next(free, max(len(parts) - 1, 0))
    return Path(*parts[:k]), os.path.join("", *parts[k:])


def _exists(parts: tuple[str, ...]) -> bool:
    return os.path.exists(Path(*parts))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; at the end, the new file replaces the old one.

    If the block raises, or the disk is full, the old file stays as it is.
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
    """Keep a second process out of an existing folder while the block does ``what`` there.

    The lock ends with the process, however that ends.

    Raises
    ------
    InputError
        Another process holds the lock.
    """
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another {what} is writing here") from error
        yield


@contextmanager
def full_disk_reported(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Report a full disk as such, whichever library hits it first.

    Libraries raise errors of their own, and HDF5 can end a worker process. The block writes to
    ``folder``, which it may create.

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
        if not (_mentions_full_disk(error) or _full(Path(folder))):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def _mentions_full_disk(error: BaseException) -> bool:
    return os.strerror(errno.ENOSPC).lower() in str(error).lower()


def _full(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free < LEAST_ROOM
