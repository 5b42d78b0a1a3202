"""Reference data: the registry, own files, checking, splitting and what a dataset holds.

A frame is an ``ase.Atoms`` whose calculator holds ``energy`` (eV per cell, consistent with the
forces) and ``forces`` (eV/Angstrom), and where it is known ``stress`` (eV/Angstrom^3, ASE's order
and sign) and atomic ``energies`` (eV). Energies are never shifted: the energy of isolated atoms
lives in the model.
"""

from collections.abc import Sequence
from os import PathLike

from ase import Atoms

from kdlib.datasets import ani_al, readers, registry
from kdlib.datasets.checks import LARGEST_FORCE, NET_FORCE, check
from kdlib.datasets.energies import atomic_energies, augmented, energies_table, with_energies
from kdlib.datasets.registry import names, write_packed
from kdlib.datasets.splits import (
    PARTS,
    WEIGHT,
    Split,
    fingerprint,
    frame_numbers,
    identity,
    species,
    split,
)
from kdlib.datasets.summary import coverage, phase_of, summary
from kdlib.errors import InputError

__all__ = [
    "LARGEST_FORCE",
    "NET_FORCE",
    "PARTS",
    "WEIGHT",
    "Split",
    "atomic_energies",
    "augmented",
    "card",
    "check",
    "coverage",
    "energies_table",
    "fetch",
    "fingerprint",
    "frame_numbers",
    "identity",
    "load",
    "names",
    "phase_of",
    "species",
    "split",
    "summary",
    "with_energies",
    "write_packed",
]

Path = str | PathLike[str]


def load(
    name_or_path: Path | Sequence[Path], energy_key: str = "", forces_key: str = ""
) -> list[Atoms]:
    """Frames of a registered dataset, or of files that ASE reads, checked one by one.

    Parameters
    ----------
    name_or_path
        ``"al-pbe"``, ``"ani-al"`` (after ``kdlib fetch ani-al``), the path of an extxyz file, ASE
        database, VASP or Quantum ESPRESSO output, ... , a pattern such as ``"runs/*/OUTCAR"``, or
        a list of these.
    energy_key, forces_key
        Names of the labels in own files; empty for the usual ones (:mod:`kdlib.datasets.readers`).

    Returns
    -------
    list[Atoms]
        ``info["frame"]`` is the frame's identity; ``info["part"]``, where present, the part that
        the dataset itself prescribes.

    Raises
    ------
    InputError
        Naming file, frame and rule, when a file is missing or altered or a frame can't be right.
    """
    if isinstance(name_or_path, str) and name_or_path in names():
        if energy_key or forces_key:
            raise InputError(f"{name_or_path}: a registered dataset has its own keys, give none")
        if name_or_path == ani_al.NAME:
            return ani_al.load().frames
        return check(*registry.unpack(name_or_path))
    return readers.read(name_or_path, energy_key, forces_key)


def fetch(name: str, base_url: str = "") -> str:
    """Download a dataset that does not come with the package, and say what was found in it.

    Parameters
    ----------
    base_url
        Instead of GitHub's address for raw files; by default that of the environment variable
        KDLIB_MIRROR, where there is one.

    Raises
    ------
    InputError
        When nothing is to be downloaded under this name, the download fails, or what came is not
        the dataset.
    """
    entry = registry.entry(name)
    if name != ani_al.NAME:
        raise InputError(f"{name}: comes with the package, there is nothing to download")
    folder = ani_al.fetch(base_url)
    found = ani_al.load()
    lines = [f"{name}: in {folder}", *registry.contents(found.frames), *found.notes]
    return "\n".join([*lines, f"cite: {entry['cite']}", f"licence: {entry['licence']}"])


def card(name_or_path: Path) -> str:
    """Dataset card as text: how the data were made, what they hold, how to cite them.

    Parameters
    ----------
    name_or_path
        As for :func:`load`; of own files there is only a table of what they hold.
    """
    name = str(name_or_path)
    if name not in names():
        return summary(load(name)).to_string()
    entry = registry.entry(name)
    lines = [f"{name} - {entry['title']}", ""]
    lines += [f"{key:<12} {entry[key]}" for key in entry if key not in ("title", "file")]
    if name != ani_al.NAME:
        return "\n".join([*lines, *registry.contents(load(name))])
    if not ani_al.is_fetched():
        return "\n".join([*lines, f"{'frames':<12} not downloaded yet: kdlib fetch {name}"])
    found = ani_al.load()
    return "\n".join([*lines, *registry.contents(found.frames), *found.notes])
