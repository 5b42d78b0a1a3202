"""The closest pair of atoms of a frame."""

from typing import NamedTuple

import numpy as np
from ase import Atoms

from kdlib.geometry.neighbors import neighbor_pairs

#: Range of the first search, Angstrom: in condensed matter every atom has a neighbour in it.
FIRST_REACH = 3.5


class Closest(NamedTuple):
    """Two atoms i and j, and the vector from i to (an image of) j."""

    i: int
    j: int
    vector: np.ndarray
    """(3,), Angstrom."""
    distance: float
    """Angstrom; infinite for a single atom without images."""


def closest_pair(atoms: Atoms, reach: float = FIRST_REACH) -> Closest:
    """Closest pair of a frame, images of the cell included.

    Parameters
    ----------
    atoms
        Frame, periodic in all three directions or in none.
    reach
        Range of the first search, Angstrom; doubled until it finds a pair.
    """
    if len(atoms) < 2 and not atoms.pbc.any():
        return Closest(0, 0, np.full(3, np.inf), np.inf)
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    if not len(pairs):
        return closest_pair(atoms, 2 * reach)
    vectors = pairs.vectors(atoms.positions, atoms.cell.array)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    k = int(squares.argmin())
    return Closest(int(pairs.first[k]), int(pairs.second[k]), vectors[k], float(squares[k] ** 0.5))
