"""Reference data: registered datasets and own files, checking, splitting, summaries.

A frame is an ``ase.Atoms`` whose calculator holds ``energy`` (eV per cell, consistent with the
forces) and ``forces`` (eV/Angstrom), and where it is known ``stress`` (eV/Angstrom^3, ASE's order
and sign) and atomic ``energies`` (eV). Energies are never shifted: models hold the energies of
isolated atoms.
"""

from collections.abc import Sequence
from os import PathLike

from ase import Atoms

from kdlib.datasets import ani_al, readers, registry
from kdlib.datasets.checks import check
from kdlib.datasets.energies import atomic_energies, augmented, energies_table, with_energies
from kdlib.datasets.labels import Keys
from kdlib.datasets.registry import names, write_packed
from kdlib.datasets.reserved import PARTS, WEIGHT, loss_weight
from kdlib.datasets.splits import (
    Extremes,
    Split,
    fingerprint,
    frame_numbers,
    identity,
    kept_extremes,
    species,
    split,
)
from kdlib.datasets.summary import coverage, summary
from kdlib.errors import InputError

__all__ = [
    "PARTS",
    "WEIGHT",
    "Extremes",
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
    "kept_extremes",
    "load",
    "loss_weight",
    "names",
    "species",
    "split",
    "summary",
    "with_energies",
    "write_packed",
]

Path = str | PathLike[str]


def load(
    name_or_path: Path | Sequence[Path],
    energy_key: str = "",
    forces_key: str = "",
    stress_key: str = "",
    virial_key: str = "",
) -> list[Atoms]:
    """Frames of a registered dataset, or of files that ASE reads, checked one by one.

    Parameters
    ----------
    name_or_path
        ``"al-pbe"``, ``"ani-al"`` (after ``kdlib fetch ani-al``), the path of any file that ASE
        reads (extxyz, ASE database, output of VASP or Quantum ESPRESSO, ...), a pattern such as
        ``"runs/*/OUTCAR"``, or a list of these.
    energy_key, forces_key
        Names of the labels in own files; empty for the usual ones (:mod:`kdlib.datasets.labels`).
    stress_key, virial_key
        The same for the stress. With one of them, the other label is not looked at; frames without
        the label have no stress.

    Returns
    -------
    list[Atoms]
        ``info["frame"]`` is the frame's identity, ``info["part"]``, if present, the part of the
        split that the dataset prescribes.

    Raises
    ------
    InputError
        A file is missing or altered, or a frame breaks a rule; names file, frame and rule.
    """
    keys = Keys(energy_key, forces_key, stress_key, virial_key)
    if isinstance(name_or_path, str) and name_or_path in names():
        if keys != Keys():
            raise InputError(f"{name_or_path}: a registered dataset has its own keys, give none")
        if name_or_path == ani_al.NAME:
            return ani_al.load().frames
        return check(*registry.unpack(name_or_path))
    return readers.read(name_or_path, keys)


def fetch(name: str, base_url: str = "") -> str:
    """Download a dataset that does not come with the package, and return its description.

    ``base_url``, or else the environment variable KDLIB_MIRROR, replaces GitHub's address for raw
    files.

    Raises
    ------
    InputError
        There is nothing to download under this name, the download failed, or its content is
        another one.
    """
    entry = registry.entry(name)
    if name != ani_al.NAME:
        raise InputError(f"{name}: comes with the package, there is nothing to download")
    folder = ani_al.fetch(base_url)
    found = ani_al.load()
    lines = [f"{name}: in {folder}", *registry.contents(found.frames), *found.notes]
    return "\n".join([*lines, f"cite: {entry['cite']}", f"licence: {entry['licence']}"])


def card(name_or_path: Path) -> str:
    """Card of a dataset: origin, content and citation; for own files, a table of their content."""
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
