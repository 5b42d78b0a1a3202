"""A Verlet list over the cell list: rebuilt only when an atom has moved half the skin."""

import numpy as np
from ase import Atoms

from kdlib._numba import compiled
from kdlib.hipnn.kernels import celllist
from kdlib.hipnn.kernels.neighbortable import NeighborTable


class VerletList:
    """Neighbours out to ``cutoff + skin``, kept until an atom has moved half the skin.

    Parameters
    ----------
    cutoff
        Range of the potential, Angstrom.
    skin
        Extra range, Angstrom; applied once.

    Attributes
    ----------
    table
        The neighbours, None before the first update.
    n_builds
        How often the list was built.
    """

    def __init__(self, cutoff: float, skin: float = 1.0) -> None:
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.table: NeighborTable | None = None
        self.n_builds = 0
        self._built_for: tuple[np.ndarray, ...] | None = None

    def update(self, atoms: Atoms) -> bool:
        """Bring the list up to date with ``atoms``; True when it had to be rebuilt."""
        if self._still_valid(atoms):
            return False
        self.table = celllist.build(
            atoms.positions, atoms.cell.array, atoms.pbc, self.cutoff + self.skin
        )
        self._built_for = (
            atoms.positions.copy(),
            atoms.numbers.copy(),
            atoms.cell.array.copy(),
            atoms.pbc.copy(),
        )
        self.n_builds += 1
        return True

    def closest(self, atoms: Atoms) -> tuple[int, float]:
        """Atom with the nearest neighbour, and its distance in Angstrom; inf without pairs."""
        placed = self.table.place(atoms.positions, atoms.cell.array)
        return _closest(placed, self.table.row, self.table.index)

    def _still_valid(self, atoms: Atoms) -> bool:
        if self._built_for is None:
            return False
        positions, *fixed = self._built_for
        now = (atoms.numbers, atoms.cell.array, atoms.pbc)
        if not all(np.array_equal(a, b) for a, b in zip(fixed, now, strict=True)):
            return False
        return _largest_square(atoms.positions, positions) <= (self.skin / 2) ** 2


@compiled()
def _largest_square(a, b):
    """Largest squared distance between corresponding rows, Angstrom^2; inf if one is NaN."""
    largest = 0.0
    for i in range(a.shape[0]):
        d2 = 0.0
        for c in range(3):
            d2 += (a[i, c] - b[i, c]) ** 2
        if not d2 <= largest:
            largest = d2 if d2 == d2 else np.inf
    return largest


@compiled()
def _closest(placed, row, index):
    """Atom with the nearest neighbour and the distance, Angstrom."""
    atom, least = -1, np.inf
    for i in range(row.size - 1):
        for p in range(row[i], row[i + 1]):
            d2 = 0.0
            for c in range(3):
                d2 += (placed[index[p], c] - placed[i, c]) ** 2
            if not d2 >= least:
                atom, least = i, d2
    return atom, np.sqrt(least)
