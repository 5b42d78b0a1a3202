"""Cells of atoms: bare copies, closest pairs, supercells, strained and rattled cells."""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import make_supercell

from kdlib.errors import InputError
from kdlib.geometry.neighbors import neighbor_pairs

#: Two atoms closer than this (Angstrom) mean a broken configuration: the shortest bond, that of H2,
#: measures 0.74.
OVERLAP = 0.5
#: Range of the first search, Angstrom: in condensed matter every atom has a neighbor within it.
FIRST_REACH = 3.5


def bare(atoms: Atoms) -> Atoms:
    """Copy of species, positions, cell and periodicity alone: no velocities, labels or notes."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


class Closest(NamedTuple):
    """Two atoms i and j, and the vector from i to (an image of) j."""

    i: int
    j: int
    vector: np.ndarray
    """(3,), Angstrom."""
    distance: float
    """Angstrom; infinite where there is no pair."""


_NO_PAIR = Closest(0, 0, np.full(3, np.inf), np.inf)


def closest_pair(atoms: Atoms, within: float = np.inf) -> Closest:
    """Closest pair of a frame, images of the cell included.

    Parameters
    ----------
    atoms
        Frame, periodic in all three directions or in none.
    within
        Range of the search, Angstrom, to save time; without a pair within it the distance is
        infinite.
    """
    reach = min(FIRST_REACH, within)
    while len(atoms) > 1 or atoms.pbc.any():
        pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)
        if len(pairs):
            vectors = pairs.vectors(atoms.positions, atoms.cell.array)
            squares = np.einsum("ij,ij->i", vectors, vectors)
            k = int(squares.argmin())
            i, j = int(pairs.first[k]), int(pairs.second[k])
            return Closest(i, j, vectors[k], float(squares[k] ** 0.5))
        if reach >= within:
            break
        reach = min(2 * reach, within)
    return _NO_PAIR


def half_open(atoms: Atoms) -> str:
    """End of a sentence on a cell that is periodic along some vectors only, and the way out.

    Empty for cells that are periodic along all vectors or along none.
    """
    if atoms.pbc.all() or not atoms.pbc.any():
        return ""
    along = tuple(np.flatnonzero(~atoms.pbc).tolist())
    axis = along if len(along) > 1 else along[0]
    return (
        "is periodic along some cell vectors only, must be along all or none; give it vacuum by "
        f"atoms.center(vacuum=10, axis={axis}); atoms.pbc = True"
    )


def supercell(atoms: Atoms, n_atoms: int) -> Atoms:
    """Supercell with about this many atoms, as nearly cubic as its multiples allow."""
    copies = max(1, round(n_atoms / len(atoms)))
    best, least = np.eye(3, dtype=int), np.inf
    for matrix in _multiples(copies):
        cell = matrix @ atoms.cell.array
        # The sphere that fits between opposite faces, relative to that of a cube.
        width = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0).max()
        badness = -width / abs(np.linalg.det(cell)) ** (1 / 3)
        badness += 0.2 * abs(np.linalg.det(matrix) / copies - 1)
        if badness < least - 1e-9:
            best, least = matrix, badness
    return bare(make_supercell(atoms, best))


def _multiples(copies: int) -> list[np.ndarray]:
    """Integer matrices with a determinant near ``copies``: multiples of three kinds of cells."""
    conventional = (
        np.eye(3, dtype=int),
        np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]),  # cubic cell of fcc from the primitive one
        np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]),  # and of bcc
    )
    largest = int(np.ceil(copies ** (1 / 3))) + 2
    sizes = range(1, largest + 1)
    found = []
    for base in conventional:
        unit = abs(round(np.linalg.det(base)))
        for counts in np.stack(np.meshgrid(sizes, sizes, sizes), -1).reshape(-1, 3):
            if 0.75 * copies <= unit * counts.prod() <= 1.3 * copies:
                found.append(np.diag(counts) @ base)
    return found or [np.eye(3, dtype=int)]


def tile(atoms: Atoms, n_atoms: int) -> Atoms:
    """Repeat a periodic cell to ``n_atoms``, a multiple of its own, as nearly cubic as possible."""
    copies, remainder = divmod(n_atoms, len(atoms))
    if remainder or copies < 1:
        raise InputError(f"{n_atoms} atoms are not a multiple of a cell of {len(atoms)} atoms")
    lengths = atoms.cell.lengths()

    def elongation(repeats: tuple[int, int, int]) -> float:
        return max(lengths * repeats) / min(lengths * repeats)

    divisors = [k for k in range(1, copies + 1) if copies % k == 0]
    repeats = [
        (a, b, copies // (a * b)) for a in divisors for b in divisors if copies % (a * b) == 0
    ]
    return bare(atoms).repeat(min(repeats, key=elongation))


def scaled(atoms: Atoms, ratio: float) -> Atoms:
    """Copy with ``ratio`` times the volume, atoms scaled along."""
    copy = atoms.copy()
    copy.set_cell(copy.cell.array * ratio ** (1 / 3), scale_atoms=True)
    return copy


def deformed(
    atoms: Atoms, volume: float, strain: float, rattle: float, rng: np.random.Generator
) -> Atoms:
    """Strained, scaled and rattled copy.

    Parameters
    ----------
    volume
        Volume relative to the cell's.
    strain
        Largest entry of the random strain, which conserves the volume.
    rattle
        Standard deviation of the displacements, Angstrom.
    """
    copy = atoms.copy()
    change = np.eye(3) + rng.uniform(-strain, strain, (3, 3))
    change *= (volume / abs(np.linalg.det(change))) ** (1 / 3)
    copy.set_cell(copy.cell.array @ change, scale_atoms=True)
    copy.positions += rng.normal(scale=rattle, size=copy.positions.shape)
    return copy


def exchanged(atoms: Atoms, n_pairs: int, rng: np.random.Generator) -> Atoms:
    """Copy in which pairs of atoms of different species have exchanged places.

    Parameters
    ----------
    atoms
        Cell; one of a single species is copied unchanged.
    n_pairs
        Number of exchanges; the same atom may be drawn again.
    """
    copy = atoms.copy()
    if len(set(copy.numbers)) == 1:
        return copy
    for _ in range(n_pairs):
        i = rng.integers(len(copy))
        j = rng.choice(np.flatnonzero(copy.numbers != copy.numbers[i]))
        copy.numbers[[i, j]] = copy.numbers[[j, i]]
    return copy


def pressed(
    atoms: Atoms, n_pairs: int, distances: tuple[float, float], rng: np.random.Generator
) -> Atoms:
    """Copy in which pairs of atoms have been pushed together; each kind of pair is as likely.

    Parameters
    ----------
    distances
        Range of a pair's new distance, Angstrom.
    """
    copy = atoms.copy()
    kinds = list(combinations_with_replacement(np.unique(copy.numbers), 2))
    for _ in range(n_pairs):
        one, other = kinds[rng.integers(len(kinds))]
        i = rng.choice(np.flatnonzero(copy.numbers == one))
        others = np.flatnonzero((copy.numbers == other) & (np.arange(len(copy)) != i))
        vectors = copy.get_distances(i, others, mic=True, vector=True)
        lengths = np.linalg.norm(vectors, axis=1)
        k = lengths.argmin()
        step = (lengths[k] - rng.uniform(*distances)) / 2 * vectors[k] / lengths[k]
        copy.positions[i] += step
        copy.positions[others[k]] -= step
    return copy
