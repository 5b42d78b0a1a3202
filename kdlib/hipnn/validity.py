r"""What a model has seen in training: closest pairs of species, and how crowded an atom was.

The crowding of atom i is a smooth number of its neighbours within the model's cutoff :math:`r_c`,

.. math:: n_i = \sum_j \left(1 - r_{ij}^2 / r_c^2\right)^2 ,

which grows with the density and falls at surfaces. A configuration outside the ranges is not wrong
in itself, but nothing that the model says of it was ever checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kdlib.errors import InputError
from kdlib.geometry.neighbors import neighbor_pairs

#: Share of the range by which configurations may leave it without a warning.
MARGIN = 0.05


@dataclass(frozen=True)
class Validity:
    """Ranges of a training set.

    Attributes
    ----------
    closest
        ``"Al-Cu"`` (symbols in alphabetical order) -> closest pair of the species, Angstrom.
    crowding
        Symbol -> smallest and largest crowding.
    cutoff
        Of the crowding, Angstrom.
    """

    closest: Mapping[str, float]
    crowding: Mapping[str, tuple[float, float]]
    cutoff: float

    @classmethod
    def of(cls, frames: Sequence[Atoms], cutoff: float) -> "Validity":
        """Ranges of frames, within a model's cutoff (Angstrom)."""
        if not frames:
            raise InputError("validity: there are no frames")
        closest: dict[str, float] = {}
        crowding: dict[str, tuple[float, float]] = {}
        for atoms in frames:
            near, dense = _measured(atoms, cutoff)
            for name, distance in near.items():
                closest[name] = min(distance, closest.get(name, np.inf))
            for name, (low, high) in dense.items():
                known = crowding.get(name, (np.inf, -np.inf))
                crowding[name] = (min(low, known[0]), max(high, known[1]))
        return cls(closest, crowding, cutoff)

    @classmethod
    def from_record(cls, record: Mapping) -> "Validity":
        """Read :meth:`record`."""
        crowding = {name: (low, high) for name, (low, high) in record["crowding"].items()}
        return cls(dict(record["closest"]), crowding, record["cutoff"])

    def record(self) -> dict:
        """What a model's JSON file keeps."""
        return asdict(self)

    def left_by(self, atoms: Atoms) -> list[str]:
        """How a configuration leaves the ranges, a sentence each; empty if it does not.

        Parameters
        ----------
        atoms
            Configuration.
        """
        near, dense = _measured(atoms, self.cutoff)
        said = []
        for name, distance in near.items():
            least = self.closest.get(name)
            if least is None:
                said.append(f"a pair {name} is closer than {self.cutoff:g} Angstrom, "
                            "and none was in training")  # fmt: skip
            elif distance < least * (1 - MARGIN):
                said.append(f"a pair {name} is {distance:.2f} Angstrom apart, closer than any in "
                            f"training ({least:.2f})")  # fmt: skip
        for name, (low, high) in dense.items():
            smallest, largest = self.crowding.get(name, (np.inf, -np.inf))
            margin = MARGIN * largest
            if high > largest + margin:
                said.append(f"{name} is more crowded ({high:.1f}) than in training ({largest:.1f})")
            elif low < smallest - margin:
                said.append(f"{name} is less crowded ({low:.1f}) than in training ({smallest:.1f})")
        return said


def _measured(
    atoms: Atoms, cutoff: float
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Closest pair of each two species, and range of the crowding of each species."""
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = pairs.vectors(atoms.positions, atoms.cell.array)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    weight = np.clip(1 - squares / cutoff**2, 0, None) ** 2
    crowding = np.bincount(pairs.first, weight, minlength=len(atoms))
    species, index = np.unique(atoms.numbers, return_inverse=True)
    least = np.full((len(species), len(species)), np.inf)
    np.minimum.at(least, (index[pairs.first], index[pairs.second]), squares)
    symbols = [chemical_symbols[z] for z in species]
    closest = {
        "-".join(sorted((symbols[a], symbols[b]))): float(np.sqrt(least[a, b]))
        for a in range(len(species))
        for b in range(a, len(species))
        if np.isfinite(least[a, b])
    }
    dense = {
        name: (float(crowding[index == a].min()), float(crowding[index == a].max()))
        for a, name in enumerate(symbols)
    }
    return closest, dense
