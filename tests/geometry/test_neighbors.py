"""Neighbor lists against brute force and ASE."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from kdlib.errors import InputError
from kdlib.geometry.cells import closest_pair
from kdlib.geometry.neighbors import NeighborList, neighbor_pairs


def cells() -> dict[str, Atoms]:
    triclinic = bulk("Al", cubic=True) * (2, 1, 1)
    triclinic.set_cell(triclinic.cell.array @ [[1, 0.2, 0], [0, 1, 0.3], [0.1, 0, 1]], True)
    outside = bulk("Al", cubic=True) * (2, 2, 2)
    outside.positions += 30.0
    left_handed = bulk("Al", cubic=True) * (2, 2, 2)
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    molecule = Atoms("Al3", [[0, 0, 0], [2.5, 0, 0], [0, 20, 0]])
    return {
        "fcc": bulk("Al", cubic=True) * (3, 3, 3),
        "one atom with its own images": bulk("Al"),
        "triclinic": triclinic,
        "atoms outside the cell": outside,
        "left-handed": left_handed,
        "molecule": molecule,
        "lonely atom": Atoms("Al", [[0, 0, 0]]),
    }


@pytest.mark.parametrize("name", cells())
def test_pairs_are_those_of_ase(name):
    """Every pair inside the cutoff is found once, with its vector, as ASE finds it."""
    atoms = cells()[name]
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 6.0)
    first, vectors = neighbor_list("iD", atoms, 6.0)
    ours = np.c_[pairs.first, pairs.vectors(atoms.positions, atoms.cell.array).round(6)]
    theirs = np.c_[first, vectors.round(6)]
    order = lambda rows: rows[np.lexsort(rows.T[::-1])] + 0.0  # noqa: E731
    np.testing.assert_allclose(order(ours), order(theirs), atol=2e-6)


def test_rows_hold_the_neighbors_of_their_atom():
    """The CSR rows and the sorted list of first atoms say the same."""
    atoms = cells()["triclinic"]
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 6.0)
    for atom in range(len(atoms)):
        assert (pairs.first[pairs.row[atom] : pairs.row[atom + 1]] == atom).all()
    assert pairs.row[-1] == len(pairs)


def test_list_is_kept_until_half_the_skin_is_used_up():
    """Rebuilt when an atom has moved more than half the skin, not before."""
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    neighbors = NeighborList(cutoff=5.0, skin=1.0)
    assert neighbors.update(atoms)
    atoms.positions[3, 0] += 0.49
    assert not neighbors.update(atoms)
    atoms.positions[3, 0] += 0.02
    assert neighbors.update(atoms)
    assert neighbors.n_builds == 2


@pytest.mark.parametrize("change", ["cell", "numbers", "pbc", "length"])
def test_list_is_rebuilt_when_the_system_changes(change):
    """A new cell, species, periodicity or number of atoms invalidates the list."""
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    neighbors = NeighborList(cutoff=5.0, skin=1.0)
    neighbors.update(atoms)
    if change == "cell":
        atoms.set_cell(atoms.cell.array * 1.0001)
    elif change == "numbers":
        atoms.numbers[0] = 3
    elif change == "pbc":
        atoms.pbc = False
    else:
        del atoms[0]
    assert neighbors.update(atoms)


def test_no_pair_is_missed_while_the_list_is_kept():
    """With atoms moved by less than half the skin, the old list still holds all pairs in range."""
    atoms = bulk("Al", cubic=True) * (3, 3, 3)
    neighbors = NeighborList(cutoff=4.0, skin=1.0)
    neighbors.update(atoms)
    rng = np.random.default_rng(0)
    moves = rng.normal(size=(len(atoms), 3))
    atoms.positions += 0.499 * moves / np.linalg.norm(moves, axis=1)[:, None]
    assert not neighbors.update(atoms)
    kept = neighbors.pairs.vectors(atoms.positions, atoms.cell.array)
    in_range = (np.linalg.norm(kept, axis=1) < 4.0).sum()
    assert in_range == len(neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 4.0))


def test_list_names_the_closest_pair_and_the_nearest_neighbors():
    """Of an atom pushed towards another; an atom without neighbors has none."""
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    atoms.positions[5] = atoms.positions[20] + [0.0, 0.7, 0.0]
    neighbors = NeighborList(cutoff=4.0, skin=1.0)
    neighbors.update(atoms)
    atom, distance = neighbors.closest(atoms)
    assert atom in (5, 20)
    assert distance == pytest.approx(0.7)
    nearest = neighbors.pairs.nearest(atoms.positions, atoms.cell.array)
    apart = atoms.get_all_distances(mic=True) + 99 * np.eye(len(atoms))
    np.testing.assert_allclose(nearest, apart.min(axis=1))
    lonely = Atoms("Al", [[0, 0, 0]])
    neighbors.update(lonely)
    assert neighbors.closest(lonely) == (-1, np.inf)
    assert neighbors.pairs.nearest(lonely.positions, lonely.cell.array) == np.inf


#: Cells without meaning: an almost flat one is the plane of two vectors, turned.
MEANINGLESS = {
    "zeros": np.zeros((3, 3)),
    "flat": np.array([[3.0, 0, 0.1], [1, 4, 0.2], [4, 4, 0.1 + 0.2 + 1e-15]]),
    "left-handed": np.diag([-0.4, 5, 6]),
    "not a number": np.full((3, 3), np.nan),
    "infinite": np.diag([np.inf, 1, 1]),
}


@pytest.mark.parametrize("name", MEANINGLESS)
def test_the_cell_along_open_axes_is_not_looked_at(name):
    """Pairs, vectors and closest pair of a molecule, and of a wire along x, do not know it."""
    atoms = Atoms("Al4", np.random.default_rng(0).uniform(-4, 4, (4, 3)))
    for periodic in ([False, False, False], [True, False, False]):
        atoms.set_cell(np.diag([5.0, 1.0, 1.0]))
        atoms.pbc = periodic
        expected = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 6.0)
        vectors = expected.vectors(atoms.positions, atoms.cell.array)
        open_axes = ~atoms.pbc
        atoms.cell.array[open_axes] = MEANINGLESS[name][open_axes]
        found = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 6.0)
        np.testing.assert_array_equal(found.second, expected.second)
        np.testing.assert_array_equal(found.vectors(atoms.positions, atoms.cell.array), vectors)
        distance = np.linalg.norm(vectors, axis=1).min()
        assert closest_pair(atoms).distance == pytest.approx(distance)


@pytest.mark.parametrize("name", ["zeros", "flat", "not a number", "infinite"])
def test_a_periodic_cell_spans_a_volume(name):
    """Where all axes are periodic the same cells are refused, before the search crashes on them."""
    with pytest.raises(InputError, match="span no volume"):
        neighbor_pairs(np.zeros((1, 3)), MEANINGLESS[name], True, 3.0)
