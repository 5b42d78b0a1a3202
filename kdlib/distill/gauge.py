r"""The gauge of atomic energies: how an energy is divided among atoms is a choice.

Energies of local terms can be moved from an atom to its neighbours without changing the energy of
any configuration,

.. math:: \varepsilon_i \to \varepsilon_i + G_i, \qquad
          G_i = \sum_j \sum_{kc} a_{kc} \varphi_k(r_{ij}) (u^c_j - u^c_i), \qquad \sum_i G_i = 0,

with radial functions :math:`\varphi_k` and local quantities :math:`u^c` of the atoms: here the
atomic energy itself, how crowded the atom is, and its species. Another architecture than the
student's divides in its own way, and what a student would have to spend on following it is lost to
the forces. The coefficients that bring a teacher's partition as near as they can to the one that a
student finds by itself are a linear least-squares problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from kdlib.errors import InputError
from kdlib.geometry.neighbors import neighbor_pairs

#: Radial functions of a fitted gauge.
N_RADIAL = 8
#: Directions of the least-squares problem that are weaker than this share of the strongest are left
#: at zero: they would be fitted to noise.
WEAKEST = 1e-6


@dataclass(frozen=True)
class Gauge:
    """A fitted change of partition.

    Attributes
    ----------
    coefficients
        a_kc, over the columns that :func:`columns` makes.
    cutoff
        Range of the radial functions, Angstrom.
    species
        Atomic numbers, ascending.
    before, after
        Root mean square (eV) of what is left between the two partitions before and after the fit,
        up to a constant for each species.
    """

    coefficients: np.ndarray
    cutoff: float
    species: tuple[int, ...]
    before: float
    after: float

    @classmethod
    def fit(cls, frames: Sequence[Atoms], natural: Sequence[np.ndarray], cutoff: float) -> "Gauge":
        """Bring the partition of labelled frames near to another one.

        Parameters
        ----------
        frames
            Their calculators hold ``energies``, eV, without references of the species.
        natural
            Atomic energies that are wanted, one (n_atoms,) array per frame, eV.
        cutoff
            Range, Angstrom.

        Raises
        ------
        InputError
            There are no frames, or arrays that do not fit them.
        """
        if not frames or [len(a) for a in frames] != [len(part) for part in natural]:
            raise InputError("gauge: needs one array of atomic energies for each frame")
        numbers = np.concatenate([atoms.numbers for atoms in frames])
        species = tuple(int(z) for z in np.unique(numbers))
        changes = np.concatenate([columns(atoms, cutoff, species) for atoms in frames])
        constants = (numbers[:, None] == species).astype(float)
        energies = np.concatenate([atoms.calc.results["energies"] for atoms in frames])
        missing = np.concatenate(natural) - energies
        matrix = np.hstack([changes, constants])
        found = np.linalg.lstsq(matrix, missing, rcond=WEAKEST)[0]
        before = missing - constants @ np.linalg.lstsq(constants, missing, rcond=None)[0]
        after = missing - matrix @ found
        root = lambda x: float(np.sqrt(np.mean(x**2)))  # noqa: E731
        return cls(found[: changes.shape[1]], cutoff, species, root(before), root(after))

    def change(self, atoms: Atoms) -> np.ndarray:
        """G_i of a frame, (n_atoms,), eV; adds up to zero.

        Parameters
        ----------
        atoms
            As those it was fitted to.
        """
        return columns(atoms, self.cutoff, self.species) @ self.coefficients


def columns(atoms: Atoms, cutoff: float, species: Sequence[int]) -> np.ndarray:
    """Changes of the atomic energies that leave the energy alone, (n_atoms, n_columns).

    Parameters
    ----------
    atoms
        Its calculator holds ``energies``, eV.
    cutoff
        Range, Angstrom.
    species
        Atomic numbers; all but the last give a column of u each.
    """
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    r = np.linalg.norm(pairs.vectors(atoms.positions, atoms.cell.array), axis=1)
    centres = np.linspace(0.2, 0.9, N_RADIAL) * cutoff
    width = centres[1] - centres[0]
    fall = np.cos(0.5 * np.pi * r / cutoff) ** 2
    radial = np.exp(-0.5 * ((r[:, None] - centres) / width) ** 2) * fall[:, None]
    crowding = np.bincount(pairs.first, fall, minlength=len(atoms))
    local = [atoms.calc.results["energies"], crowding]
    local += [(atoms.numbers == z).astype(float) for z in species[:-1]]
    found = np.zeros((len(atoms), N_RADIAL, len(local)))
    for c, u in enumerate(local):
        moved = radial * (u[pairs.second] - u[pairs.first])[:, None]
        np.add.at(found[:, :, c], pairs.first, moved)
    return found.reshape(len(atoms), -1)
