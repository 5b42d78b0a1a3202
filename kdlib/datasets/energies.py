"""Frames that carry a teacher's atomic energies: the augmented dataset of eq. 4 of the paper.

Atomic energies are one more label of a frame, beside its energy and forces: ``energies`` of its
calculator, (n_atoms,), eV.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib.datasets.splits import identity
from kdlib.errors import InputError

#: ASE's name of the property.
ENERGIES = "energies"


def atomic_energies(atoms: Atoms) -> np.ndarray | None:
    """Atomic energies that a frame carries, (n_atoms,), eV; None if it carries none.

    Raises
    ------
    InputError
        Their shape is another one.
    """
    values = atoms.calc.results.get(ENERGIES) if atoms.calc is not None else None
    if values is None:
        return None
    if np.shape(values) != (len(atoms),):
        raise InputError(f"frame {identity(atoms)}: atomic energies have shape {np.shape(values)}, "
                         f"must be {(len(atoms),)}")  # fmt: skip
    return np.asarray(values, dtype=float)


def with_energies(frames: Sequence[Atoms], energies: Sequence[np.ndarray]) -> list[Atoms]:
    """Copies of frames with the given atomic energies, (n_atoms,) each, eV, and their own labels.

    Raises
    ------
    InputError
        An array does not hold one finite number for each atom.
    """
    found = []
    for atoms, values in zip(frames, energies, strict=True):
        if np.shape(values) != (len(atoms),) or not np.isfinite(values).all():
            raise InputError(f"frame {identity(atoms)}: the teacher's atomic energies are not "
                             f"{len(atoms)} finite numbers")  # fmt: skip
        own = atoms.calc.results if atoms.calc is not None else {}
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **(own | {ENERGIES: values}))
        found.append(copy)
    return found


def energies_table(frames_by_seed: Mapping[int, Sequence[Atoms]]) -> xr.Dataset:
    """Atomic energies of several teachers for a result file (schema kind ``labels``).

    Every seed has the same frames, with the atomic energies of its teacher.

    Returns
    -------
    xr.Dataset
        ``atomic_energies(seed, atom)`` eV, over all atoms of all frames, and ``frame_index(atom)``.

    Raises
    ------
    InputError
        A frame carries no atomic energies.
    """
    rows = []
    for frames in frames_by_seed.values():
        parts = [atomic_energies(atoms) for atoms in frames]
        missing = [identity(a) for a, part in zip(frames, parts, strict=True) if part is None]
        if missing:
            raise InputError(f"frame {missing[0]}: carries no atomic energies")
        rows.append(np.concatenate(parts))
    index = _frame_index(next(iter(frames_by_seed.values())))
    return xr.Dataset(
        {"atomic_energies": (("seed", "atom"), np.array(rows))},
        coords={"seed": list(frames_by_seed), "frame_index": ("atom", index)},
    )


def augmented(frames: Sequence[Atoms], table: xr.Dataset) -> dict[int, list[Atoms]]:
    """Seed of each teacher in a table of :func:`energies_table` -> frames with its atomic energies.

    Raises
    ------
    InputError
        The table belongs to other frames.
    """
    index = _frame_index(frames)
    if not np.array_equal(table.frame_index.values, index):
        where = table.encoding.get("source", "atomic energies")
        raise InputError(f"{where}: holds {table.sizes['atom']} atoms in other frames than the "
                         f"{len(index)} atoms of the {len(frames)} frames given")  # fmt: skip
    ends = np.cumsum([len(atoms) for atoms in frames])[:-1]
    return {
        int(seed): with_energies(frames, np.split(row.values, ends))
        for seed, row in zip(table.seed.values, table.atomic_energies, strict=True)
    }


def _frame_index(frames: Sequence[Atoms]) -> np.ndarray:
    """Position of each atom's frame, (n_atoms,)."""
    return np.repeat(np.arange(len(frames)), [len(atoms) for atoms in frames])
