"""Frames from a user's own files: one, several, or a pattern of names."""

import os
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

import ase.io
from ase import Atoms

from kdlib.datasets import ani_al
from kdlib.datasets import registry
from kdlib.datasets.checks import broken
from kdlib.datasets.labels import labelled
from kdlib.errors import InputError

#: Endings of HDF5 files, read in the layout of ANI-Al.
HDF5 = (".h5", ".hdf5")
_Path = str | os.PathLike[str]


def read(paths: _Path | Sequence[_Path], energy_key: str = "", forces_key: str = "") -> list[Atoms]:
    """Read and check frames.

    Parameters
    ----------
    paths
        A file, a pattern such as ``runs/*/OUTCAR``, or several of both.
    energy_key, forces_key
        As in :func:`kdlib.datasets.load`.

    Returns
    -------
    list[Atoms]
        With identities that are unique: a frame's own where it has one; from several files,
        the path of its file within the folder that they share, and its place there.

    Raises
    ------
    InputError
        Naming file, frame and rule.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = [path for each in listed for path in expand(each)]
    if repeated := [path for k, path in enumerate(found) if path in found[:k]]:
        raise InputError(f"{repeated[0]}: named twice")
    root = _root(listed, found)
    frames, where = [], []
    for path in found:
        some = _read_one(path, energy_key, forces_key)
        _name(some, f"{path.relative_to(root).as_posix()}:" if len(found) > 1 else "")
        frames += some
        where += [f"{path}: frame {k}" for k in range(len(some))]
    for k, rule in broken(frames, where):
        raise InputError(f"{where[k]}: {rule}")
    return frames


def expand(path: _Path) -> list[Path]:
    """Files that a path or a pattern of names stands for, sorted.

    Raises
    ------
    InputError
        When there is none.
    """
    text = os.fspath(path)
    if Path(text).is_file():
        return [Path(text)]
    matches = [Path(name) for name in sorted(glob(text, recursive=True)) if Path(name).is_file()]
    if matches and has_magic(text):
        return matches
    if has_magic(text):
        raise InputError(f"{text}: matches no file")
    known = ", ".join(registry.names())
    raise InputError(f"{text}: neither a file nor one of the datasets {known}")


def _read_one(path: Path, energy_key: str, forces_key: str) -> list[Atoms]:
    if path.suffix in HDF5:
        return ani_al.read([path]).frames
    frames: list[Atoms] = []
    try:
        for atoms in ase.io.iread(path, do_not_split_by_at_sign=True):
            frames.append(labelled(atoms, energy_key, forces_key))  # noqa: PERF401 - counts frames
    except InputError as error:
        raise InputError(f"{path}: frame {len(frames)}: {error}") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: frame {len(frames)}: ASE cannot read it ({reason})") from error
    if not frames:
        raise InputError(f"{path}: holds no frames")
    return frames


def _root(listed: Sequence[_Path], found: Sequence[Path]) -> Path:
    """Folder that identities are relative to: where a pattern starts, or what all files share."""
    if len(listed) == 1:
        folders = Path(listed[0]).parts[:-1]
        fixed = next((k for k, part in enumerate(folders) if has_magic(part)), len(folders))
        return Path(*folders[:fixed])
    return Path(os.path.commonpath([path.parent for path in found]))


def _name(frames: Sequence[Atoms], prefix: str) -> None:
    """Give every frame of a file an identity: its own where all have one, else its place."""
    own = [atoms.info.get("frame") for atoms in frames]
    unique = not prefix and None not in own and len(set(map(str, own))) == len(own)
    for k, atoms in enumerate(frames):
        atoms.info["frame"] = own[k] if unique else f"{prefix}{k}" if prefix else k
