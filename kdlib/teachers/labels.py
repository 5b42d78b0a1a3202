"""What a teacher's labelled frames hand on to the training of a student."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.datasets import identity
from kdlib.errors import InputError


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
    index = np.repeat(np.arange(len(frames)), [len(atoms) for atoms in frames])
    return xr.DataArray(
        np.concatenate([atoms.calc.results["energies"] for atoms in frames]),
        dims="atom",
        coords={"frame_index": ("atom", index)},
        name="atomic_energies",
        attrs={"units": "eV", "long_name": "teacher's atomic energies"},
    )
