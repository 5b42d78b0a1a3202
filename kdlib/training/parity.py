"""Predicted against reference values on the test part, and a teacher's atomic energies in place."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.datasets.coverage import phase_of
from kdlib.datasets import Split
from kdlib.datasets import frame_numbers
from kdlib.datasets import species
from kdlib.hipnn import Potential
from kdlib.geometry.neighbors import neighbor_pairs

#: First minimum of g(r) of liquid aluminium, Angstrom: neighbours closer than this are counted.
FIRST_SHELL = 3.9
#: The same for other materials, over the median distance of nearest neighbours: between the first
#: and the second shell of close packing (1 and 1.41), beyond both of bcc (1 and 1.15).
SHELL_RATIO = 1.35


def parity(
    potential: Potential,
    frames: Sequence[Atoms],
    split: Split,
    other: Potential | None = None,
    first_shell: float | None = None,
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
        Radius that defines the coordination number, Angstrom; by default 3.9 for aluminium, and
        1.35 times the median distance of nearest neighbours for anything else.

    Returns
    -------
    xr.Dataset
        Result of kind ``parity``.
    """
    test = [frames[k] for k in split.test]
    sizes = [len(atoms) for atoms in test]
    radius = first_shell_of(test) if first_shell is None else first_shell
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
                np.concatenate([_coordination(atoms, radius) for atoms in test]),
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


def first_shell_of(frames: Sequence[Atoms]) -> float:
    """Radius of the first shell of neighbours, Angstrom."""
    if species(frames) == ("Al",):
        return FIRST_SHELL
    nearest = [_nearest(atoms) for atoms in frames]
    return float(SHELL_RATIO * np.median(np.concatenate(nearest)))


def _nearest(atoms: Atoms, reach: float = 4.0) -> np.ndarray:
    """Distance of each atom's nearest neighbour, of those that have one within reach, Angstrom."""
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    lengths = np.linalg.norm(pairs.vectors(atoms.positions, atoms.cell.array), axis=1)
    found = np.full(len(atoms), np.inf)
    np.minimum.at(found, pairs.first, lengths)
    return np.where(np.isfinite(found), found, reach)


def _coordination(atoms: Atoms, radius: float) -> np.ndarray:
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, radius)
    return np.diff(pairs.row)
