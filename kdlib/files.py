"""Files: how users name them, and how they appear whole or not at all.

A user's path may start with ``~``, and what exists under exactly its name is no pattern, whatever
signs the name has. One process at a time writes to a folder.

What the system refuses on the user's own paths (no permission, a full disk, a file in place of a
folder) becomes an :class:`~kdlib.errors.InputError` where it happens, which is here: all output
goes through these functions.
"""

import errno
import fcntl
import json
import os
import shlex
import shutil
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any

from kdlib.errors import InputError

#: A disk with less free space than this (bytes) counts as full.
LEAST_ROOM = 2**20
#: Errors by which the system refuses to write.
REFUSALS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
        *(errno.ELOOP, errno.EIO, errno.ESTALE),
    }
)


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

    Raises
    ------
    InputError
        The system refuses to write the file.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with writing(target):
        try:
            yield part
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def tidied(folder: str | os.PathLike[str]) -> Path:
    """Remove the temporary files of killed processes in a folder, made if missing; return it."""
    home = made(folder)
    with writing(home):
        for part in home.rglob(".*.part"):
            number = part.name.split(".")[-2]
            if number.isdecimal() and not _is_alive(int(number)):
                part.unlink(missing_ok=True)
    return home


def made(folder: str | os.PathLike[str]) -> Path:
    """Make a folder, with all above it, where it is missing, and return it.

    Raises
    ------
    InputError
        The system refuses to, or there is a file of this name.
    """
    path = Path(folder)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the system's refusal to write a file, or into a folder, into one sentence.

    An error that names a path elsewhere passes, and so do all errors but the system's.

    Raises
    ------
    InputError
        Names the path and the reason.
    """
    try:
        yield
    except OSError as error:
        is_ours = error.errno in REFUSALS
        if error.filename is not None:
            is_ours &= _is_near(os.fsdecode(error.filename), Path(path))
        if is_ours:
            raise _cannot_write(path, error.errno) from error
        raise


@contextmanager
def full_disk_reported(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Report a full disk as such, whatever breaks first.

    Libraries raise errors of their own, and HDF5 can end a worker process. The block writes to
    ``folder``, which it may create.

    Raises
    ------
    InputError
        Names the folder.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if os.strerror(errno.ENOSPC).lower() in str(error).lower() or _is_full(Path(folder)):
            raise _cannot_write(folder, errno.ENOSPC) from error
        raise


def _is_near(name: str, path: Path) -> bool:
    """Whether a name is the path, its temporary name, or a folder above or below it."""
    named, wanted = Path(os.path.abspath(name)), Path(os.path.abspath(path))
    temporary = named.parent == wanted.parent and named.name.startswith(f".{wanted.name}.")
    inside, above = named.is_relative_to(wanted), wanted.is_relative_to(named)
    return temporary or inside or above


def _cannot_write(path: str | os.PathLike[str], number: int) -> InputError:
    reason = os.strerror(number)
    if number in (errno.EEXIST, errno.ENOTDIR):
        reason = "a file is in the place of a folder"
    if number in (errno.ENOSPC, errno.EDQUOT):
        reason += "; make room and repeat the command, which resumes"
    return InputError(f"{path}: cannot be written: {reason}")


def _is_full(folder: Path) -> bool:
    above = (folder, *folder.absolute().parents)
    there = next(path for path in above if os.path.exists(path))  # False where we may not look
    return shutil.disk_usage(there).free < LEAST_ROOM


#: File in a folder that a process writes to; it says who that is.
LOCK = ".lock"
#: Errors by which a file system says that it has no locks.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
#: Without locks: seconds after which a later writer of the file would show.
_SETTLED = 0.2
#: Most characters of a command in a message.
_LONGEST = 120
#: Folders that this process has locked -> its thread.
_held: dict[Path, int] = {}
_changing = threading.Lock()


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep everybody else from writing to a folder, made if missing, while the block does.

    The system holds the lock (``flock`` on the open file :data:`LOCK`), so that it ends with the
    process, however that ends. The thread that has locked a folder may lock it again, and so may a
    process that it has started, such as the kernel of a notebook. A new folder that stays empty is
    removed again.

    On a file system without locks the content of the file counts: a process of this host that is
    alive is respected, and so is every process of another host, because nothing tells whether it
    is alive. The message then says which file to remove if it is not. Two that start within the
    same instant are told apart only if each sees what the other has written.

    Raises
    ------
    InputError
        Another process writes there: names its command, number, host and start. Or the system
        refuses to write to the folder.
    """
    is_new = not os.path.lexists(folder)
    home, me = made(folder).resolve(), threading.get_ident()
    with _changing:
        file = None if _held.get(home) == me else _taken(home)
        if file is not None:
            _held[home] = me
    try:
        yield
    finally:
        if file is not None:
            with _changing, file:
                del _held[home]
                with suppress(OSError):  # a file that is left behind locks nothing
                    (home / LOCK).unlink()  # before it is closed: the next one makes its own
                if is_new:
                    with suppress(OSError):  # it is not empty
                        home.rmdir()


def _taken(home: Path) -> IO[str] | None:
    """Lock a folder and return the open file; None if the process that started us has locked it."""
    path, record = home / LOCK, _record()
    while True:
        with writing(path):
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        try:
            if home in _held or not _is_ours(file, path, record):
                holder = _read(path)
                if (holder.get("host"), holder.get("pid")) != (record["host"], os.getppid()):
                    raise _in_use(home, holder)
                file.close()
                return None
            # The last holder may have removed the file between our opening and our locking it.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                _write(file, path, record)
                return file
            file.close()
        except BaseException:
            file.close()
            raise


def _is_ours(file: IO[str], path: Path, record: dict[str, Any]) -> bool:
    """Try to lock an open file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        record["remove"] = str(path)
        if _may_live(_read(path)):
            return False
        _write(file, path, record)
        time.sleep(_SETTLED)
        return _read(path) == record
    return True


def _record() -> dict[str, Any]:
    """What a lock says about this process."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == "__main__" else program.name
    return {
        "command": textwrap.shorten(shlex.join([name, *sys.argv[1:]]), _LONGEST),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }


def _write(file: IO[str], path: Path, record: dict[str, Any]) -> None:
    with writing(path):
        file.seek(0)
        file.truncate()
        file.write(json.dumps(record) + "\n")
        file.flush()


def _read(path: Path) -> dict[str, Any]:
    """What a lock says; nothing where it is just being written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _may_live(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock names may still run."""
    if not holder or holder["host"] != socket.gethostname():
        return bool(holder)
    return holder["pid"] != os.getpid() and _is_alive(holder["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True


def _in_use(home: Path, holder: dict[str, Any]) -> InputError:
    text = f"{home}: another command is writing here"
    if holder:
        text += f": {holder['command']} (process {holder['pid']} on {holder['host']}, since "
        text += f"{holder['since']})"
    if "remove" in holder:
        text += f"; if it has ended, remove {holder['remove']}"
    return InputError(text)
