"""Student against teacher, value by value, on frames that nothing learnt from."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.hipnn import Potential

#: Points of a parity plot at most.
MAX_POINTS = 4000
#: What is compared.
ENERGY = {"units": "eV/atom", "long_name": "energy per atom"}
FORCE = {"units": "eV/Angstrom", "long_name": "force component"}
ATOMIC = {"units": "eV", "long_name": "atomic energy, from the mean of its species"}


def parity(potential: Potential, fresh: Sequence[Atoms]) -> xr.Dataset:
    """Energies, forces and atomic energies of both.

    Parameters
    ----------
    potential
        Student, with the teacher's energies of atoms.
    fresh
        Labelled frames; ``info["molten"]`` says which are melts.

    Returns
    -------
    xarray.Dataset
        ``reference_*`` of the teacher and ``predicted_*`` of the student: ``energy(frame)``
        eV/atom, ``force(sample)`` eV/Angstrom and, where the teacher gives them, ``atomic(atom)``
        eV; ``frame_molten`` and ``sample_molten`` are 1 in a melt. Of forces and atomic energies at
        most :data:`MAX_POINTS`, drawn at random. Atomic energies are compared up to a constant for
        each species, which no force knows.
    """
    ds = potential.predict(fresh)
    sizes = np.array([len(atoms) for atoms in fresh])
    molten = np.array([float(atoms.info["molten"]) for atoms in fresh])
    energies = np.array([atoms.calc.results["energy"] for atoms in fresh])
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in fresh])
    rng = np.random.default_rng(0)
    chosen = rng.permutation(forces.size)[:MAX_POINTS]
    found = xr.Dataset(
        _both("energy", "frame", energies / sizes, ds.energy.values / sizes, ENERGY)
        | _both("force", "sample", forces.ravel()[chosen], ds.forces.values.ravel()[chosen], FORCE)
        | _melts("frame", molten)
        | _melts("sample", np.repeat(molten, 3 * sizes)[chosen])
    )  # fmt: skip
    if all("energies" in atoms.calc.results for atoms in fresh):
        numbers = np.concatenate([atoms.numbers for atoms in fresh])
        labels = np.concatenate([atoms.calc.results["energies"] for atoms in fresh])
        chosen = rng.permutation(len(labels))[:MAX_POINTS]
        reference, predicted = (
            from_mean(values, numbers)[chosen] for values in (labels, ds.atomic_energies.values)
        )
        found = found.assign(_both("atomic", "atom", reference, predicted, ATOMIC))
    return found


def _both(
    name: str, dim: str, reference: np.ndarray, predicted: np.ndarray, about: dict[str, str]
) -> dict[str, tuple]:
    return {
        f"reference_{name}": (dim, reference, about),
        f"predicted_{name}": (dim, predicted, about),
    }


def _melts(dim: str, molten: np.ndarray) -> dict[str, tuple]:
    return {f"{dim}_molten": (dim, molten, {"units": "1", "long_name": "1 in a melt"})}


def from_mean(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Values of atoms, (n_atoms,), without the mean of their species."""
    found = values.copy()
    for z in np.unique(numbers):
        found[numbers == z] -= found[numbers == z].mean()
    return found
