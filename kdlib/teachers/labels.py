"""What a teacher's labelled frames hand on to the training of a student."""

from collections.abc import Sequence

import xarray as xr
from ase import Atoms

from kdlib.datasets import identity
from kdlib.errors import InputError
from kdlib.training.roles import as_labels


def atomic_energies(frames: Sequence[Atoms]) -> xr.DataArray:
    """Atomic energies of labelled frames, as :func:`kdlib.training.fit` takes them.

    Parameters
    ----------
    frames
        As :meth:`kdlib.teachers.Teacher.label` returns them.

    Returns
    -------
    xr.DataArray
        Over ``atom`` (the atoms of all frames in order) with ``frame_index(atom)``, eV.

    Raises
    ------
    InputError
        A frame has no atomic energies.
    """
    for atoms in frames:
        if atoms.calc is None or atoms.calc.results.get("energies") is None:
            raise InputError(f"frame {identity(atoms)}: has no atomic energies")
    return as_labels([atoms.calc.results["energies"] for atoms in frames])
