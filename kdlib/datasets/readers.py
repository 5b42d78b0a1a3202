"""Frames from a user's own files, and their labels under whatever name and order a file has them.

Labels are looked for among the results that ASE's readers recognize (``atoms.calc``), in
``atoms.info`` and in ``atoms.arrays``. Three rules decide:

- Where a code reports ``energy`` and ``free_energy``, the free energy is taken: with smeared
  occupations it is the one whose gradient the forces are, while ``energy`` is then extrapolated to
  zero smearing. (In `al-pbe` the free energy is stored under the name ``energy``.)
- Labels under two names that say the same are one label.
- Labels under two names that differ, such as ``energy`` of a potential beside ``REF_energy``, are
  an error that asks for the name: no guess decides what a model learns.

Energies of single atoms, which no reference method has but many potentials do, are kept where an
ASE reader recognizes them as ``energies``.
"""

import os
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from kdlib.datasets import ani_al, registry
from kdlib.datasets.checks import broken
from kdlib.errors import InputError
from kdlib.geometry.cells import bare

_PREFIXES = ("REF_", "ref_", "DFT_", "dft_", "QM_", "qm_")


def _prefixed(*names: str) -> tuple[str, ...]:
    return names + tuple(prefix + name for name in names for prefix in _PREFIXES)


#: Usual names of the energy of a cell, eV.
ENERGY_NAMES = (*_prefixed("energy"), "Energy", "energy_dft", "total_energy")
#: Name that ASE's readers give to the energy that is consistent with the forces.
FREE_ENERGY = "free_energy"
#: Usual names of the forces, eV/Angstrom.
FORCES_NAMES = (*_prefixed("forces", "force"), "Forces", "forces_dft", "force_dft")
#: Usual names of the stress, eV/Angstrom^3, and of the virial -stress x volume, eV.
STRESS_NAMES = _prefixed("stress")
VIRIAL_NAMES = _prefixed("virial", "virials")


def labelled(atoms: Atoms, energy_key: str = "", forces_key: str = "") -> Atoms:
    """Frame with nothing but its structure, its information and its labels under their ASE names.

    Constraints are left out: a model must learn the forces on fixed atoms, too. Labels that are not
    there are left out as well: :func:`kdlib.datasets.check` says so.

    Parameters
    ----------
    energy_key, forces_key
        Names of the labels; empty for the usual ones.

    Raises
    ------
    InputError
        Two names say different things, or a label is not made of numbers.
    """
    known = dict(atoms.calc.results) if atoms.calc is not None else {}
    everything = {**atoms.arrays, **atoms.info, **known}
    found = {
        "energy": _scalar(_energy(everything, known, energy_key)),
        "forces": _numbers(_one(everything, FORCES_NAMES, forces_key, "forces_key"), "forces"),
        "stress": _stress(everything, atoms),
        "energies": _numbers(known.get("energies"), "energies"),
    }
    labels = (*ENERGY_NAMES, *FORCES_NAMES, *STRESS_NAMES, *VIRIAL_NAMES, energy_key, forces_key)
    info = {key: value for key, value in atoms.info.items() if key not in labels}
    frame = bare(atoms)
    frame.info = info
    frame.calc = SinglePointCalculator(
        frame, **{name: value for name, value in found.items() if value is not None}
    )
    return frame


def _energy(everything: dict, known: dict, key: str) -> object:
    """Energy of a frame: the force-consistent one in place of the one that ASE calls `energy`."""
    if not key and known.get(FREE_ENERGY) is not None:
        everything = everything | {"energy": known[FREE_ENERGY]}
    return _one(everything, ENERGY_NAMES, key, "energy_key")


def _one(everything: dict, names: Iterable[str], key: str, argument: str) -> object:
    """Value under a given name, or the one value under all usual names; None without any."""
    if key:
        if everything.get(key) is None:
            there = ", ".join(sorted(set(everything) - {"numbers", "positions"})) or "nothing else"
            raise InputError(f"has no {key!r}; it holds {there}")
        return everything[key]
    found = {name: everything[name] for name in names if everything.get(name) is not None}
    first, *others = found or [None]
    for name in others:
        if not _equal(found[first], found[name]):
            what = argument.removesuffix("_key")
            raise InputError(
                f"{first!r} and {name!r} are both names of {what} and differ: say which one is "
                f"meant with {argument}"
            )
    return found.get(first)


def _equal(one: object, other: object) -> bool:
    a, b = (np.asarray(value) for value in (one, other))
    return a.shape == b.shape and a.dtype.kind in "iuf" and np.allclose(a, b, rtol=1e-9, atol=1e-6)


def _numbers(value: object, label: str) -> np.ndarray | None:
    if value is None:
        return None
    try:
        return np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"{label} is not made of numbers but {str(value)[:20]!r}") from None


def _scalar(value: object) -> float | None:
    number = _numbers(value, "energy")
    if number is None:
        return None
    if number.size != 1:
        raise InputError(f"energy has shape {number.shape}, must be one number for a cell")
    return float(number.ravel()[0])


def _stress(everything: dict, atoms: Atoms) -> np.ndarray | None:
    """Stress (xx, yy, zz, yz, xz, xy), eV/Angstrom^3, positive where the cell wants to shrink."""
    if not atoms.pbc.all() or atoms.cell.rank != 3:
        return None
    stress = _voigt(_one(everything, STRESS_NAMES, "", "stress"), "stress")
    virial = _voigt(_one(everything, VIRIAL_NAMES, "", "virial"), "virial")
    if virial is None:
        return stress
    from_virial = -virial / atoms.get_volume()
    if stress is not None and not np.allclose(stress, from_virial, rtol=1e-3, atol=1e-6):
        raise InputError("stress and virial disagree: the virial must be -stress x volume, in eV")
    return from_virial


def _voigt(value: object, label: str) -> np.ndarray | None:
    tensor = _numbers(value, label)
    if tensor is None or tensor.shape == (6,):
        return tensor
    if tensor.size != 9:
        raise InputError(f"{label} has shape {tensor.shape}, must hold 6 or 9 numbers")
    tensor = tensor.reshape(3, 3)
    if not np.allclose(tensor, tensor.T, rtol=0, atol=1e-3 * np.abs(tensor).max() + 1e-12):
        raise InputError(f"{label} is not symmetric")
    return full_3x3_to_voigt_6_stress((tensor + tensor.T) / 2)


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
