"""A Verlet list over the cell list, whose periodic images are atoms of their own."""

import numpy as np
from ase import Atoms

from kdlib._numba import compiled
from kdlib.geometry.neighbors import NeighborList
from kdlib.hipnn.kernels import celllist
from kdlib.hipnn.kernels.neighbortable import NeighborTable


class VerletList(NeighborList):
    """A :class:`~kdlib.geometry.neighbors.NeighborList` whose pairs are a table with ghosts.

    Attributes
    ----------
    pairs
        A :class:`NeighborTable`: 4 bytes a pair instead of the 28 of pairs with their shifts.
    """

    pairs: NeighborTable | None

    def closest(self, atoms: Atoms) -> tuple[int, float]:
        """Atom with the nearest neighbor, and its distance in Angstrom; inf without pairs."""
        placed = self.pairs.place(atoms.positions, atoms.cell.array)
        return _closest(placed, self.pairs.row, self.pairs.index)

    def _search(self, atoms: Atoms) -> NeighborTable:
        reach = self.cutoff + self.skin
        return celllist.build(atoms.positions, atoms.cell.array, atoms.pbc, reach)


@compiled()
def _closest(placed, row, index):
    """Atom with the nearest neighbor and the distance, Angstrom."""
    atom, least = -1, np.inf
    for i in range(row.size - 1):
        for p in range(row[i], row[i + 1]):
            d2 = 0.0
            for c in range(3):
                d2 += (placed[index[p], c] - placed[i, c]) ** 2
            if not d2 >= least:
                atom, least = i, d2
    return atom, np.sqrt(least)
