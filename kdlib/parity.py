"""Predicted against reference values on the test part, and a teacher's atomic energies in place."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.coverage import phase_of
from kdlib.datasets import Split, frame_numbers
from kdlib.hipnn import Potential
from kdlib.neighbors import neighbor_pairs

#: First minimum of g(r) of liquid aluminium, Angstrom: neighbours closer than this are counted.
FIRST_SHELL = 3.9


def parity(
    potential: Potential,
    frames: Sequence[Atoms],
    split: Split,
    other: Potential | None = None,
    first_shell: float = FIRST_SHELL,
) -> xr.Dataset:
    """Compare a model with the reference on the test part.

    Parameters
    ----------
    potential
        Model.
    frames, split
        Data and their division; only the test part is looked at.
    other
        A model of another seed, to compare the atomic energies with.
    first_shell
        Radius that defines the coordination number, Angstrom.

    Returns
    -------
    xr.Dataset
        Result of kind ``parity``.
    """
    test = [frames[k] for k in split.test]
    sizes = [len(atoms) for atoms in test]
    ds = potential.predict(test)
    found = xr.Dataset(
        {
            "reference_energy": ("frame", [a.get_potential_energy() / len(a) for a in test]),
            "predicted_energy": ("frame", ds.energy.values / sizes),
            "frame_phase": ("frame", [phase_of(atoms) for atoms in test]),
            "reference_force": ("sample", np.concatenate([a.get_forces().ravel() for a in test])),
            "predicted_force": ("sample", ds.forces.values.ravel()),
            "atomic_energy": ("atom", ds.atomic_energies.values),
            "coordination": (
                "atom",
                np.concatenate([_coordination(atoms, first_shell) for atoms in test]),
            ),
            "atom_phase": ("atom", np.repeat([phase_of(atoms) for atoms in test], sizes)),
            "atom_frame": ("atom", ds.frame_index.values),
        },
        coords={"frame": frame_numbers(frames)[split.test]},
    )
    if other is not None:
        values = other.predict(test, forces=False).atomic_energies.values
        found["atomic_energy_other"] = ("atom", values)
    return found


def _coordination(atoms: Atoms, radius: float) -> np.ndarray:
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, radius)
    return np.diff(pairs.row)
