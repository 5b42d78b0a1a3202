"""Neighbor lists: every pair of atoms inside the cutoff, with periodic images.

A list is *full* (pair ``i -> j`` and pair ``j -> i``) and sorted by its first atom, so that the
neighbors of atom ``i`` are the slice ``row[i]:row[i + 1]`` (compressed sparse rows, CSR). Cells
may be triclinic and smaller than the cutoff: an atom is then a neighbor of its own images.

A cell vector along which nothing is periodic is not looked at: molecules carry cells of zeros,
dummy cells, or remains of another program, and none of these may change a number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from kdlib.errors import InputError

#: Vectors of periodic axes that span less than this (Angstrom, Angstrom^2 or Angstrom^3) are
#: dependent but for rounding.
FLAT = 1e-6


def spans(cell: np.ndarray, pbc: np.ndarray) -> bool:
    """Whether the cell vectors (rows, Angstrom) of periodic axes are finite and independent."""
    periodic = np.asarray(cell, dtype=float)[np.asarray(pbc, dtype=bool)]
    return bool(
        np.isfinite(periodic).all() and np.linalg.svd(periodic, compute_uv=False).prod() > FLAT
    )


@dataclass(frozen=True)
class Pairs:
    """Pairs of one configuration."""

    first: np.ndarray
    """Central atom i, (n_pairs,) int64."""
    second: np.ndarray
    """Neighbor j, (n_pairs,) int64."""
    shifts: np.ndarray
    """Lattice translations of j in cell vectors, (n_pairs, 3) int32."""
    row: np.ndarray
    """Start of each atom's neighbors, (n_atoms + 1,) int64."""

    def vectors(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Displacements r_j + shift . cell - r_i, (n_pairs, 3), Angstrom; cell vectors are rows."""
        return positions[self.second] - positions[self.first] + self.offsets(cell)

    def offsets(self, cell: np.ndarray) -> np.ndarray:
        """Translations shift . cell, (n_pairs, 3), Angstrom."""
        crossed = self.shifts.any(axis=0)
        return self.shifts @ np.where(crossed[:, None], cell, 0.0)

    def distances(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Lengths of :meth:`vectors`, (n_pairs,), Angstrom."""
        vectors = self.vectors(positions, cell)
        return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))

    def nearest(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Distance of each atom's nearest neighbor, (n_atoms,), Angstrom; inf without one."""
        found = np.full(len(self.row) - 1, np.inf)
        np.minimum.at(found, self.first, self.distances(positions, cell))
        return found

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

    Raises
    ------
    InputError
        The vectors of periodic axes are not finite or not independent.
    """
    pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), 3).copy()
    if not spans(cell, pbc):
        raise InputError("neighbor list: the cell vectors of periodic axes span no volume")
    import vesin  # it imports torch if installed, a second that reading results must not cost

    search = vesin.NeighborList(cutoff=float(cutoff), full_list=True, sorted=True)
    first, second, shifts = search.compute(
        points=np.ascontiguousarray(positions, dtype=float),
        box=np.ascontiguousarray(cell, dtype=float),
        periodic=pbc,
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

    ``pairs`` are None before the first update; ``n_builds`` counts how often the list was built.
    """

    def __init__(self, cutoff: float, skin: float = 1.0) -> None:
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.pairs: Pairs | None = None
        self.n_builds = 0
        self._built_for: tuple[np.ndarray, ...] | None = None

    def update(self, atoms: Atoms, check: Callable[[Atoms], None] | None = None) -> bool:
        """Update the list for ``atoms``; True when it had to be rebuilt.

        ``check`` is called before, and may raise an error. A list that is kept needs none: species,
        cell and periodicity are those of the last build, and the positions are finite.
        """
        if self._still_valid(atoms):
            return False
        if check is not None:
            check(atoms)
        self.pairs = self._search(atoms)
        self._built_for = tuple(array.copy() for array in _geometry(atoms))
        self.n_builds += 1
        return True

    def closest(self, atoms: Atoms) -> tuple[int, float]:
        """Atom with the nearest neighbor, and its distance in Angstrom; inf without pairs."""
        distances = self.pairs.distances(atoms.positions, atoms.cell.array)
        if not len(distances):
            return -1, np.inf
        k = int(distances.argmin())
        return int(self.pairs.first[k]), float(distances[k])

    def _search(self, atoms: Atoms) -> Pairs:
        reach = self.cutoff + self.skin
        return neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)

    def _still_valid(self, atoms: Atoms) -> bool:
        if self._built_for is None:
            return False
        (before, *known), (now, *fixed) = self._built_for, _geometry(atoms)
        if not all(np.array_equal(a, b) for a, b in zip(known, fixed, strict=True)):
            return False
        # False also for NaN: a list for positions that are not finite is never kept.
        return bool(((now - before) ** 2).sum(1).max(initial=0.0) <= (self.skin / 2) ** 2)


def _geometry(atoms: Atoms) -> tuple[np.ndarray, ...]:
    """Positions, which may change a little, and all that must not change while a list is kept."""
    return atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc
