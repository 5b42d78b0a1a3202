"""Frames from a user's own files, with labels under any usual name.

Labels are looked for among the results that ASE's readers recognize (``atoms.calc``), in
``atoms.info`` and in ``atoms.arrays``. Three rules decide:

- Where a code reports ``energy`` and ``free_energy``, the free energy is taken: with smeared
  occupations the forces are its gradient, while ``energy`` is extrapolated to zero smearing. (In
  `al-pbe` the free energy is stored under the name ``energy``.)
- Equal values under two names are one label.
- Different values under two names, such as ``energy`` of a potential beside ``REF_energy``, are an
  error that asks for the name: no guess decides what a model learns.

Atomic energies are kept where an ASE reader recognizes them as ``energies``.
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
#: ASE's name of the energy that is consistent with the forces.
FREE_ENERGY = "free_energy"
#: Usual names of the forces, eV/Angstrom.
FORCES_NAMES = (*_prefixed("forces", "force"), "Forces", "forces_dft", "force_dft")
#: Usual names of the stress, eV/Angstrom^3, and of the virial -stress x volume, eV.
STRESS_NAMES = _prefixed("stress")
VIRIAL_NAMES = _prefixed("virial", "virials")


def labeled(atoms: Atoms, energy_key: str = "", forces_key: str = "") -> Atoms:
    """Frame with only its structure, its information and its labels under their ASE names.

    Constraints are dropped: a model must learn the forces on fixed atoms, too. Missing labels are
    reported by :func:`kdlib.datasets.check`. Keys name the labels; empty for the usual names.

    Raises
    ------
    InputError
        Labels under two names differ, or a label is not made of numbers.
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
    """Force-consistent energy of a frame, or else what ASE calls `energy`."""
    if not key and known.get(FREE_ENERGY) is not None:
        everything = everything | {"energy": known[FREE_ENERGY]}
    return _one(everything, ENERGY_NAMES, key, "energy_key")


def _one(everything: dict, names: Iterable[str], key: str, argument: str) -> object:
    """Value under a given name, or the one value under the usual names; None if there is none."""
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
                f"{first!r} and {name!r} are both names of {what} and differ: choose one with "
                f"{argument}"
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


#: Endings of HDF5 files, which must have the layout of ANI-Al.
HDF5 = (".h5", ".hdf5")
_Path = str | os.PathLike[str]


def read(paths: _Path | Sequence[_Path], energy_key: str = "", forces_key: str = "") -> list[Atoms]:
    """Read and check frames, with arguments as in :func:`kdlib.datasets.load`.

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
    """Files that match a path or a pattern, sorted.

    Raises
    ------
    InputError
        There is none.
    """
    text = os.fspath(path)
    if os.path.isfile(text):
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
            frames.append(labeled(atoms, energy_key, forces_key))  # noqa: PERF401 - counts frames
    except InputError as error:
        raise InputError(f"{path}: frame {len(frames)}: {error}") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: frame {len(frames)}: ASE cannot read it ({reason})") from error
    if not frames:
        raise InputError(f"{path}: holds no frames")
    return frames


def _root(listed: Sequence[_Path], found: Sequence[Path]) -> Path:
    """Folder that identities are relative to: above a pattern, or shared by all files."""
    if len(listed) == 1:
        folders = Path(listed[0]).parts[:-1]
        fixed = next((k for k, part in enumerate(folders) if has_magic(part)), len(folders))
        return Path(*folders[:fixed])
    return Path(os.path.commonpath([path.parent for path in found]))


def _name(frames: Sequence[Atoms], prefix: str) -> None:
    """Give every frame of a file an identity: its own if all have one, else its position."""
    own = [atoms.info.get("frame") for atoms in frames]
    unique = not prefix and None not in own and len(set(map(str, own))) == len(own)
    for k, atoms in enumerate(frames):
        atoms.info["frame"] = own[k] if unique else f"{prefix}{k}" if prefix else k
