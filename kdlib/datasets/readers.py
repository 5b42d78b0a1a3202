"""Frames from a user's own files: any that ASE reads, several at once, with unique identities."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from glob import has_magic
from io import TextIOWrapper
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import (
    UnknownFileTypeError,
    filetype,
    get_ioformat,
    open_with_compression,
)

from kdlib import progress
from kdlib.datasets import ani_al, databases, registry
from kdlib.datasets.checks import broken
from kdlib.datasets.labels import Keys, labeled
from kdlib.errors import InputError
from kdlib.files import fixed_part, matching, replacing

#: Endings of HDF5 files, which must have the layout of ANI-Al.
HDF5 = (".h5", ".hdf5")
#: Endings of extended XYZ files, and of compressed ones.
EXTXYZ, COMPRESSED = (".xyz", ".extxyz"), (".gz", ".bz2", ".xz")
#: A label in the second line of a frame of extxyz.
_TENSOR = re.compile(r"(?<!\S)(stress|virial)(?=\s*=)")
_NONE = np.empty(0)
_Path = str | os.PathLike[str]


def read(paths: _Path | Sequence[_Path], keys: Keys | None = None) -> list[Atoms]:
    """Read and check frames of files as in :func:`kdlib.datasets.load`; ``keys`` name the labels.

    Returns
    -------
    list[Atoms]
        Frames with unique identities: their own, or their position in the file, for several files
        after the path of the file below the folder that they share.

    Raises
    ------
    InputError
        Names file, frame and rule.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = [path for each in listed for path in expand(each)]
    real = [path.resolve() for path in found]
    if repeated := [path for k, path in enumerate(found) if real[k] in real[:k]]:
        raise InputError(f"{repeated[0]}: named twice")
    root, keys = _root(listed, found), keys or Keys()
    frames, where = [], []
    for path in found:
        some = _read_one(path, keys)
        _name(some, f"{_absolute(path).relative_to(root).as_posix()}:" if len(found) > 1 else "")
        frames += some
        where += [f"{path}: frame {k}" for k in range(len(some))]
    for k, rule in broken(frames, where):
        raise InputError(f"{where[k]}: {rule}")
    _check_stress_key(frames, keys, listed)
    return frames


def _check_stress_key(frames: Sequence[Atoms], keys: Keys, listed: Sequence[_Path]) -> None:
    """Refuse a name of the stress that no frame knows: frames may lack a stress, but not all."""
    names = [name for name in (keys.stress, keys.virial) if name]
    if names and not any("stress" in atoms.calc.results for atoms in frames):
        files = ", ".join(map(str, listed))
        raise InputError(f"{files}: no frame with a cell has {' or '.join(map(repr, names))}")


def expand(path: _Path) -> list[Path]:
    """Files that match a path or a pattern, sorted.

    Raises
    ------
    InputError
        There is none.
    """
    if found := matching(path):
        return found
    text = os.fspath(path)
    if has_magic(text):
        raise InputError(f"{text}: matches no file")
    known = ", ".join(registry.names())
    raise InputError(f"{text}: neither a file nor one of the datasets {known}")


def frames_of(path: Path) -> Iterator[Atoms]:
    """Frames of one file as ASE reads them, whatever its name; text is UTF-8 in every locale.

    ASE takes an at sign for an index, a folder ``mysql`` for a database, a file ``OUTCAR.xyz`` for
    VASP's, and reads text in the locale's encoding.
    """
    whole, kind = str(path.absolute()), _format(path)
    form = get_ioformat(kind)
    by_name = not form.acceptsfd
    with nullcontext(whole) if by_name else open_with_compression(whole, "rb") as file:
        if not (by_name or form.isbinary):
            file = TextIOWrapper(file, "utf-8-sig")  # some editors begin a file with a mark
        options = {"properties_parser": _comment} if kind == "extxyz" else {}
        yield from ase.io.iread(file, format=kind, do_not_split_by_at_sign=True, **options)


def write(frames: Atoms | Sequence[Atoms], path: Path) -> None:
    """Write extended XYZ that :func:`frames_of` reads, whole or not at all."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as text:
        ase.io.write(text, frames, format="extxyz")


def _format(path: Path) -> str:
    """ASE's name of the format of a file."""
    return "extxyz" if _ending(path) in EXTXYZ else filetype(str(path.absolute()))


def _ending(path: Path) -> str:
    """Ending of a file's name in lower case, without that of a compression."""
    endings = [ending.lower() for ending in path.suffixes]
    return next((ending for ending in reversed(endings) if ending not in COMPRESSED), "")


def _read_one(path: Path, keys: Keys) -> list[Atoms]:
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty")
    if path.suffix.lower() in HDF5:
        return ani_al.read([path]).frames
    frames: list[Atoms] = []
    left_out: Counter[str] = Counter()
    try:
        for atoms, data in _configurations(path, keys):
            found = labeled(atoms, keys, data)
            frames.append(found.frame)
            left_out.update(found.left_out)
    except InputError as error:
        raise InputError(f"{path}: frame {len(frames)}: {error}") from error
    except Exception as error:
        where = f"{path}: frame {len(frames)}"
        raise InputError(f"{where}: ASE cannot read it ({_reason(error)})") from error
    if not frames:
        raise InputError(f"{path}: holds no frames")
    for reason, count in left_out.items():
        progress.line(f"{path}: a label of {count} frames is left out: {reason}")
    return frames


def _reason(error: Exception) -> str:
    """Why ASE cannot read a file, in one line: some of its errors are but a word or a class."""
    if isinstance(error.__cause__, StopIteration):
        return "it ends within a frame"
    if isinstance(error, UnknownFileTypeError):
        return "neither its name nor its content is that of a known format"
    if isinstance(error, KeyError):
        return f"{error} is unknown"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _configurations(path: Path, keys: Keys) -> Iterator[tuple[Atoms, Mapping]]:
    """Frames of a file, each with what a database keeps beside it."""
    if _format(path) in databases.FORMATS:
        yield from databases.rows(path, keys)
        return
    for atoms in frames_of(path):
        yield atoms, {}


def _comment(line: str) -> dict[str, object]:
    """Information of a frame of extxyz by ASE's parser, which knows no stress but 3x3.

    Text instead of numbers becomes an array without any, which has no layout of a stress.
    """
    found = key_val_str_to_dict(_TENSOR.sub(r"kdlib_\1", line))
    for name in ("stress", "virial"):
        value = found.pop(f"kdlib_{name}", None)
        if value is not None:
            numbers = np.atleast_1d(value) if isinstance(value, np.ndarray | np.number) else _NONE
            found[name] = numbers.reshape(3, 3) if numbers.size == 9 else numbers
    return found


def _root(listed: Sequence[_Path], found: Sequence[Path]) -> Path:
    """Folder that identities are relative to: above a pattern, or shared by all files."""
    if len(listed) == 1:
        return _absolute(fixed_part(listed[0])[0])
    return Path(os.path.commonpath([_absolute(path.parent) for path in found]))


def _absolute(path: Path) -> Path:
    """Absolute path without ``..``; symbolic links stay."""
    return Path(os.path.abspath(path))


def _name(frames: Sequence[Atoms], prefix: str) -> None:
    """Give every frame of a file an identity: its own if all have one, else its position."""
    own = [atoms.info.get("frame") for atoms in frames]
    unique = not prefix and None not in own and len(set(map(str, own))) == len(own)
    for k, atoms in enumerate(frames):
        atoms.info["frame"] = own[k] if unique else f"{prefix}{k}" if prefix else k
