"""Neighbour lists: every pair of atoms inside the cutoff, with periodic images.

A list is *full* (pair ``i -> j`` and pair ``j -> i``) and sorted by its first atom, so that the
neighbours of atom ``i`` are the slice ``row[i]:row[i + 1]`` (compressed sparse rows, CSR). Cells
may be triclinic and smaller than the cutoff: an atom then sees its own images.
"""

from dataclasses import dataclass

import numpy as np
from ase import Atoms


@dataclass(frozen=True)
class Pairs:
    """Pairs of one configuration.

    Attributes
    ----------
    first, second
        Centre atom i and neighbour j, (n_pairs,) int64.
    shifts
        Lattice translations of j in cell vectors, (n_pairs, 3) int32.
    row
        Start of each atom's neighbours, (n_atoms + 1,) int64.
    """

    first: np.ndarray
    second: np.ndarray
    shifts: np.ndarray
    row: np.ndarray

    def vectors(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Displacements r_j + shift . cell - r_i, (n_pairs, 3) float64, Angstrom.

        Parameters
        ----------
        positions
            (n_atoms, 3), Angstrom.
        cell
            Cell vectors as rows, (3, 3), Angstrom.
        """
        return positions[self.second] - positions[self.first] + self.shifts @ cell

    def __len__(self) -> int:
        return len(self.first)


def neighbor_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray | bool, cutoff: float
) -> Pairs:
    """All pairs closer than ``cutoff``.

    Parameters
    ----------
    positions
        (n_atoms, 3), Angstrom; atoms may lie outside the cell.
    cell
        Cell vectors as rows, (3, 3), Angstrom.
    pbc
        Periodicity along each cell vector.
    cutoff
        In Angstrom.
    """
    import vesin  # imports torch, where there is one: a second that reading results must not cost

    search = vesin.NeighborList(cutoff=float(cutoff), full_list=True, sorted=True)
    first, second, shifts = search.compute(
        points=np.ascontiguousarray(positions, dtype=float),
        box=np.ascontiguousarray(cell, dtype=float),
        periodic=np.broadcast_to(np.asarray(pbc, dtype=bool), 3).copy(),
        quantities="ijS",
    )
    first, second = first.astype(np.int64), second.astype(np.int64)
    row = np.zeros(len(positions) + 1, dtype=np.int64)
    np.cumsum(np.bincount(first, minlength=len(positions)), out=row[1:])
    return Pairs(first, second, shifts.astype(np.int32), row)


class NeighborList:
    """A Verlet list: pairs out to ``cutoff + skin``, kept until an atom has moved half the skin.

    Parameters
    ----------
    cutoff
        Range of the potential, Angstrom.
    skin
        Extra range, Angstrom. It is applied once: no pair inside ``cutoff`` is missed as long as
        no atom has moved by more than ``skin / 2`` since the list was built.
    """

    def __init__(self, cutoff: float, skin: float = 1.0) -> None:
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.pairs: Pairs | None = None
        self.n_builds = 0
        self._built_for: Atoms | None = None

    def update(self, atoms: Atoms) -> bool:
        """Bring the list up to date with ``atoms``; True when it had to be rebuilt."""
        if self._still_valid(atoms):
            return False
        self.pairs = neighbor_pairs(
            atoms.positions, atoms.cell.array, atoms.pbc, self.cutoff + self.skin
        )
        self._built_for = Atoms(
            atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
        )
        self.n_builds += 1
        return True

    def _still_valid(self, atoms: Atoms) -> bool:
        old = self._built_for
        if old is None or len(old) != len(atoms) or (old.numbers != atoms.numbers).any():
            return False
        if (old.pbc != atoms.pbc).any() or (old.cell.array != atoms.cell.array).any():
            return False
        moved = atoms.positions - old.positions
        return bool((moved**2).sum(1).max(initial=0.0) <= (self.skin / 2) ** 2)
