"""Frames of an ASE database, with labels wherever a row may keep them.

A row holds the results of a calculator, key-value pairs (numbers and texts) and ``data``, arrays by
name. SchNetPack keeps its labels in ``data`` and their units in the metadata of the database.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import ase.units
from ase import Atoms
from ase.db import connect

from kdlib.datasets.labels import USUAL_NAMES, Keys
from kdlib.errors import InputError

#: Databases that are one file, by ASE's names of their formats.
FORMATS = ("db", "json")
#: Metadata with the units of a row's labels, and of its positions.
UNITS, DISTANCE = "_property_unit_dict", "_distance_unit"
_ANGSTROM = {"A", "Å", "Angstrom"}


def rows(path: Path, keys: Keys) -> Iterator[tuple[Atoms, Mapping[str, object]]]:
    """Frames with key-value pairs as their information, and the data of their rows.

    Raises
    ------
    InputError
        The database says that a label is in other units than eV and Angstrom.
    """
    with connect(str(path), serial=True) as database:
        _check_units(database.metadata, keys)
        for row in database.select():
            atoms = row.toatoms()
            atoms.info.update(row.key_value_pairs)
            yield atoms, row.data


def _check_units(metadata: Mapping[str, object], keys: Keys) -> None:
    labels = USUAL_NAMES | keys.given
    stated = {name: unit for name, unit in metadata.get(UNITS, {}).items() if name in labels}
    for name, unit in {**stated, "positions": metadata.get(DISTANCE)}.items():
        if unit and not _is_ours(str(unit)):
            raise InputError(f"the database keeps {name} in {unit}, must be in eV and Angstrom")


def _is_ours(unit: str) -> bool:
    """Whether a product of powers such as ``eV/Ang^3`` has only eV and Angstrom, which are 1."""
    factors = [re.sub(r"[\^*]+-?\d+$", "", part.strip("() ")) for part in re.split(r"[/ ]", unit)]
    names = ["Ang" if factor in _ANGSTROM else factor for factor in factors if factor]
    return all(getattr(ase.units, name, None) == 1.0 for name in names)
