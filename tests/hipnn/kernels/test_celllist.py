import itertools

import numpy as np
import pytest
import torch

from kdlib.errors import InputError
from kdlib.hipnn.kernels import celllist


def _reference(positions, cell, pbc, cutoff):
    """Every pair by brute force over images, as sorted rows (i, j, shift)."""
    reach = 1 + int(np.ceil((cutoff + np.ptp(positions)) * np.linalg.norm(np.linalg.pinv(cell), 2)))
    axes = [range(-reach, reach + 1) if periodic else (0,) for periodic in pbc]
    found = []
    for shift in itertools.product(*axes):
        vectors = positions[None] - positions[:, None] + np.array(shift) @ cell
        near = (vectors**2).sum(-1) < cutoff**2
        if not any(shift):
            np.fill_diagonal(near, False)
        found += [(i, j, *shift) for i, j in np.argwhere(near)]
    return np.array(sorted(found)).reshape(-1, 5)


def _found(table):
    first, second, shifts = table.pairs()
    rows = np.column_stack([first, second, shifts])
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("seed", range(12))
def test_finds_exactly_the_pairs_of_a_brute_force_search(seed):
    """Skewed cells, atoms outside the cell, any mix of periodic and open axes."""
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) + np.eye(3) * rng.uniform(3, 8)
    positions = rng.normal(size=(rng.integers(1, 15), 3)) * 5
    pbc = rng.random(3) < (1, 0.5)[seed % 2]
    cutoff = rng.uniform(2, 6)
    table = celllist.build(positions, cell, pbc, cutoff)
    np.testing.assert_array_equal(_found(table), _reference(positions, cell, pbc, cutoff))


def test_an_atom_sees_its_own_images():
    """One fcc atom inside 4 Angstrom: 12 nearest and 6 next neighbors, all of them itself."""
    cell = np.array([[0, 2, 2], [2, 0, 2], [2, 2, 0]]) * 0.975
    first, second, shifts = celllist.build(np.zeros((1, 3)), cell, True, 4.0).pairs()
    assert len(first) == 18
    assert not first.any()
    assert not second.any()
    assert shifts.any(axis=1).all()


def test_open_boundaries_need_no_cell():
    """A molecule without cell vectors has the pairs that its distances say."""
    positions = np.array([[0.0, 0, 0], [1, 0, 0], [0, 3, 0], [50, 0, 0]])
    first, second, _ = celllist.build(positions, np.zeros((3, 3)), False, 3.1).pairs()
    assert sorted(zip(first, second, strict=True)) == [(0, 1), (0, 2), (1, 0), (2, 0)]


@pytest.mark.parametrize("nonsense", [0.0, np.nan, np.inf, 1e-9])
def test_cell_vectors_of_open_axes_are_not_looked_at(nonsense):
    """A slab has the neighbors, and places of ghosts, of the same slab with a tall cell."""
    rng = np.random.default_rng(2)
    positions, pbc = rng.uniform(-9, 9, size=(12, 3)), np.array([True, False, True])
    cell = np.array([[5.0, 0.3, 0], [0, 40, 0], [1, 0, 6]])
    expected = celllist.build(positions, cell, pbc, 4.0)
    cell[1] = nonsense
    table = celllist.build(positions, cell, pbc, 4.0)
    np.testing.assert_array_equal(_found(table), _found(expected))
    assert np.isfinite(table.place(positions, cell)).all()
    assert len(table)


def test_ghosts_follow_their_owners():
    """After atoms moved, places of ghosts still give the pair vectors of the lattice."""
    rng = np.random.default_rng(0)
    cell, positions = np.diag([5.0, 6.0, 7.0]), rng.uniform(-9, 9, size=(9, 3))
    table = celllist.build(positions, cell, True, 4.0)
    moved = positions + rng.normal(size=positions.shape) * 0.1
    placed = table.place(moved, cell)
    first, second, shifts = table.pairs()
    vectors = moved[second] - moved[first] + shifts @ cell
    np.testing.assert_allclose(placed[table.index] - placed[first], vectors, atol=1e-12)


def test_order_does_not_depend_on_the_number_of_threads():
    """One and two threads find the same neighbors in the same order."""
    positions = np.random.default_rng(1).uniform(0, 20, size=(500, 3))
    tables = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        tables.append(celllist.build(positions, np.eye(3) * 20, True, 5.0))
    np.testing.assert_array_equal(tables[0].index, tables[1].index)
    np.testing.assert_array_equal(tables[0].row, tables[1].row)


def test_no_atoms():
    """An empty configuration has an empty table."""
    assert len(celllist.build(np.zeros((0, 3)), np.eye(3) * 5, True, 3.0)) == 0


def test_flat_periodic_cells_and_bad_positions_are_refused():
    """Periodic axes without volume, and positions that are not finite, are errors of the input."""
    flat = np.array([[4.0, 0, 0], [0, 4, 0], [4, 4, 0]])
    for cell in (flat, np.full((3, 3), np.nan)):
        with pytest.raises(InputError, match="no volume"):
            celllist.build(np.zeros((1, 3)), cell, True, 3.0)
    with pytest.raises(InputError, match="not finite"):
        celllist.build(np.full((1, 3), np.nan), np.eye(3), True, 3.0)
