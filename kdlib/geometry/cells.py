"""Cells of atoms: bare copies, closest pairs, supercells, strained and rattled cells.

Some teachers look at more of an atom than its species and position: at magnetic moments, charges or
tags (:data:`STATES`). Supercells and deformed cells keep these; they move with their atom. Masses
change no energy and are dropped.
"""

import hashlib
from collections.abc import Iterator
from itertools import combinations_with_replacement
from numbers import Real
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.data import chemical_symbols

from kdlib.errors import InputError
from kdlib.geometry.neighbors import neighbor_pairs
from kdlib.units import GRAM_PER_CM3

#: Two atoms closer than this (Angstrom) mean a broken configuration: the shortest bond, that of H2,
#: measures 0.74.
OVERLAP = 0.5
#: Range of the first search, Angstrom: in condensed matter every atom has a neighbor within it.
FIRST_REACH = 3.5


def bare(atoms: Atoms) -> Atoms:
    """Copy of species, positions, cell and periodicity alone: no velocities, labels or notes."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


#: Arrays of atoms that an energy may depend on -> their name in a sentence.
STATES = {
    "initial_magmoms": "magnetic moments",
    "initial_charges": "charges",
    "tags": "tags",
}
#: Notes on a whole cell that an energy may depend on -> values that mean nothing special.
CELL_STATES = {
    "charge": (0,),
    "total_charge": (0,),
    "spin": (0, 1),  # also the name of the multiplicity
    "total_spin": (0, 1),
    "multiplicity": (0, 1),
    "spin_multiplicity": (0, 1),
}


def unlabeled(atoms: Atoms) -> Atoms:
    """Copy of all that an energy may depend on: :func:`bare`, with the states of atoms and cell.

    Arrays of zeros are left out.
    """
    frame = bare(atoms)
    for name in STATES:
        if name in atoms.arrays and atoms.arrays[name].any():
            frame.set_array(name, atoms.arrays[name].copy())
    frame.info = {name: atoms.info[name] for name in CELL_STATES if name in atoms.info}
    return frame


def lattice(atoms: Atoms) -> np.ndarray:
    """Cell vectors of periodic axes, (3, 3), Angstrom; zero for the others, which say nothing."""
    return np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)


def digest(atoms: Atoms) -> str:
    """sha256 of all that an energy may depend on, the order of the atoms included."""
    frame = unlabeled(atoms)
    total = hashlib.sha256(np.asarray(frame.pbc).tobytes())
    for name in sorted(frame.arrays):
        values = np.asarray(frame.arrays[name], dtype=float) + 0.0  # no zero with a sign
        total.update(f"{name}{values.shape}".encode() + values.tobytes())
    total.update((lattice(frame) + 0.0).tobytes())
    total.update(repr(sorted((key, str(value)) for key, value in frame.info.items())).encode())
    return total.hexdigest()


def same(one: Atoms, other: Atoms) -> bool:
    """Whether two frames are one configuration, up to the rounding of files and of processors."""
    first, second = unlabeled(one), unlabeled(other)
    if set(first.arrays) != set(second.arrays) or len(first) != len(second):
        return False
    arrays = [(first.arrays[name], second.arrays[name]) for name in first.arrays]
    arrays += [(lattice(first), lattice(second)), (first.pbc, second.pbc)]
    notes = [{k: str(v) for k, v in frame.info.items()} for frame in (first, second)]
    return notes[0] == notes[1] and all(
        a.shape == b.shape and np.allclose(a, b, rtol=0, atol=ROUNDING) for a, b in arrays
    )


def states(atoms: Atoms) -> list[str]:
    """Words for the states that some atom has, e.g. ``magnetic moments``."""
    return [word for name, word in STATES.items() if name in unlabeled(atoms).arrays]


def no_elements(atoms: Atoms) -> str:
    """Name atoms that are none of an element, as the end of a sentence; empty if there are none."""
    strange = sorted({int(z) for z in atoms.numbers if not 0 < z < len(chemical_symbols)})
    if not strange:
        return ""
    name = "the dummy atom X" if strange[0] == 0 else f"atomic number {strange[0]}"
    return f"holds {name}, which is no element: remove these atoms"


def odd_arrays(atoms: Atoms) -> str:
    """Name an array that cannot be what its name says, as the end of a sentence; empty if none.

    These are the states of atoms, and the occupancies of their sites.
    """
    for name, word in {**STATES, **dict.fromkeys(OCCUPANCIES, "the occupancies of sites")}.items():
        values = atoms.arrays.get(name, np.zeros(0))
        shapes = ((), (3,)) if name == "initial_magmoms" else ((),)  # a moment may be a vector
        numbers = values.dtype.kind in "biuf" and values.shape[1:] in shapes
        if not (numbers and np.isfinite(values).all()):
            return (
                f"its {name!r} are not finite numbers, one for each atom, but this package takes "
                f"them for {word}; rename them"
            )
    return ""


#: Files round positions (Angstrom) and states of atoms to less than this.
ROUNDING = 1e-6
#: A site occupied to this share is whole: refined occupancies stay a little below one.
WHOLE = 0.99
#: Arrays in which files have the occupancies of sites.
OCCUPANCIES = ("occupancy", "occupancies")


def partly_occupied(atoms: Atoms) -> str:
    """Name the first site that is not wholly one atom's, as the end of a sentence; empty if none.

    ASE's readers put an atom of the most frequent element there and note the occupancies: those of
    CIF by the kind of site in ``info["occupancy"]``, the others by atom in an array.
    """
    for where, shares in _shared_sites(atoms):
        if max(shares.values()) < WHOLE:
            said = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            return (
                f"the site of {where} is partly occupied ({said}), and a configuration has whole "
                "atoms: write a cell with one atom or none on each site"
            )
    return ""


def _shared_sites(atoms: Atoms) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield a description of each site with known occupancies, and the share of each element."""
    by_kind = atoms.info.get("occupancy")
    if isinstance(by_kind, dict):
        kinds = atoms.arrays.get("spacegroup_kinds", ())
        for kind, shares in by_kind.items():
            first = next((i for i, k in enumerate(kinds) if str(k) == str(kind)), None)
            where = f"kind {kind}" if first is None else _place(atoms, first)
            shares = shares if isinstance(shares, dict) else {"unknown": shares}
            known = {name: float(x) for name, x in shares.items() if isinstance(x, Real)}
            yield where, known or {"unknown": 1.0}
    for name in OCCUPANCIES:
        shares = atoms.arrays.get(name, np.zeros(0))
        if shares.any():  # all zero: a writer that had none to say
            for i, share in enumerate(shares):
                yield _place(atoms, i), {atoms.symbols[i]: float(share)}


def _place(atoms: Atoms, i: int) -> str:
    return f"atom {i} ({atoms.symbols[i]})"


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


def mass_density(atoms: Atoms) -> float:
    """Mass of the atoms over the volume of the cell, g/cm^3."""
    return float(atoms.get_masses().sum() * GRAM_PER_CM3 / atoms.get_volume())


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
    """Supercell with about this many atoms, as nearly cubic as its multiples allow.

    It keeps the states of atoms.
    """
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
    return unlabeled(make_supercell(atoms, best))


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
    return repeated(bare(atoms), min(repeats, key=elongation))


def repeated(atoms: Atoms, n_cells: int | tuple[int, int, int]) -> Atoms:
    """Repeat a cell along its vectors, as ASE's ``repeat``, which takes minutes for 10^8 atoms."""
    repeats = np.broadcast_to(n_cells, 3)
    found = atoms[np.tile(np.arange(len(atoms)), repeats.prod())]
    origins = np.indices(repeats).reshape(3, -1).T @ atoms.cell.array
    found.positions += np.repeat(origins, len(atoms), axis=0)
    found.set_cell(atoms.cell.array * repeats[:, None])
    return found


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
    """Copy in which pairs of atoms of different species have exchanged places, with their states.

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
        for name in ("numbers", *(set(STATES) & set(copy.arrays))):
            copy.arrays[name][[i, j]] = copy.arrays[name][[j, i]]
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
