"""The neighbors of every atom, periodic images being atoms of their own."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdlib._numba import compiled


@dataclass(frozen=True)
class NeighborTable:
    """Every neighbor of every atom, ghosts included."""

    row: np.ndarray
    """Neighbors of atom i are ``index[row[i]:row[i + 1]]``, (n_atoms + 1,) int64."""
    index: np.ndarray
    """Atoms (below n_atoms) and ghosts (from n_atoms on), int32."""
    owner: np.ndarray
    """Atom that a ghost is an image of, (n_ghosts,) int32."""
    shift: np.ndarray
    """Cell vectors between a ghost and its wrapped owner, (n_ghosts, 3) int32."""
    wrap: np.ndarray
    """Cell vectors to be *subtracted* from an atom's position to wrap it, (n_atoms, 3) int32."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_atoms(self) -> int:
        """Number of real atoms."""
        return len(self.wrap)

    @property
    def longest(self) -> int:
        """Most neighbors that any atom has."""
        return int(np.diff(self.row).max(initial=0))

    def place(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Positions of wrapped atoms and ghosts, (n_atoms + n_ghosts, 3) float64, Angstrom.

        Parameters
        ----------
        positions
            (n_atoms, 3), Angstrom; near those that the table was built for.
        cell
            Cell vectors as rows, (3, 3), Angstrom.
        """
        positions, cell = np.ascontiguousarray(positions, float), np.where(self._crossed, cell, 0.0)
        return place(positions, cell, self.owner, self.shift, self.wrap)

    @cached_property
    def _crossed(self) -> np.ndarray:
        """Cell vectors that lie between any two atoms, (3, 1); no other is looked at."""
        return (self.shift.any(axis=0) | self.wrap.any(axis=0))[:, None]

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First and second atom and lattice translation of each pair, without ghosts.

        Returns
        -------
        tuple
            ``first``, ``second`` (n_pairs,) int64 and ``shifts`` (n_pairs, 3) int32 such that a
            pair's vector is ``positions[second] - positions[first] + shifts @ cell``.
        """
        atom = np.concatenate([np.arange(self.n_atoms), self.owner])
        shift = np.concatenate([-self.wrap, self.shift - self.wrap[self.owner]])
        first = np.repeat(np.arange(self.n_atoms), np.diff(self.row))
        return first, atom[self.index], shift[self.index] + self.wrap[first]


@compiled()
def place(positions, cell, owner, shift, wrap):
    """Positions of wrapped atoms and of ghosts."""
    n = positions.shape[0]
    placed = np.empty((n + owner.size, 3))
    for i in range(n):
        for c in range(3):
            moved = positions[i, c]
            for d in range(3):
                moved -= wrap[i, d] * cell[d, c]
            placed[i, c] = moved
    for g in range(owner.size):
        for c in range(3):
            moved = placed[owner[g], c]
            for d in range(3):
                moved += shift[g, d] * cell[d, c]
            placed[n + g, c] = moved
    return placed
