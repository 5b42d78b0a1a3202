r"""Neighbour lists by binning, for any cell: triclinic, smaller than the cutoff, partly periodic.

Periodic images become *ghost atoms*, copies of real atoms displaced by whole cell vectors, so that
the search itself knows no periodicity and a neighbour is one int32: atoms are numbered 0 to
n_atoms - 1, ghosts from n_atoms on. The steps:

1. wrap every atom into the cell (the translation is remembered, positions given by the user are
   never changed);
2. make a ghost for every translation that brings an atom within the cutoff of the cell;
3. sort atoms and ghosts into bins, laid out so that bins along the last axis are contiguous;
4. for every atom, compare distances with all atoms of the surrounding bins, first to count, then,
   the rows' starts being known, to fill.

Bins and counts are in fractional coordinates: a sphere of radius R spans :math:`R / h_d` of axis d,
with :math:`h_d` the distance between the cell's faces. The result, order included, does not depend
on the number of threads.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from kdlib.errors import InputError
from kdlib.fused.threads import torch_threads

#: Bins per search radius: smaller bins fit the sphere better, but cost more loops.
_BINS_PER_RADIUS = 2

#: Threads share out blocks of this many atoms.
_BLOCK = 64


@dataclass(frozen=True)
class NeighborTable:
    """Every neighbour of every atom, ghosts included.

    Attributes
    ----------
    row
        Neighbours of atom i are ``index[row[i]:row[i + 1]]``, (n_atoms + 1,) int64.
    index
        Atoms (below n_atoms) and ghosts (from n_atoms on), int32.
    owner
        Atom that a ghost is an image of, (n_ghosts,) int32.
    shift
        Cell vectors between a ghost and its wrapped owner, (n_ghosts, 3) int32.
    wrap
        Cell vectors to be *subtracted* from an atom's position to wrap it, (n_atoms, 3) int32.
    """

    row: np.ndarray
    index: np.ndarray
    owner: np.ndarray
    shift: np.ndarray
    wrap: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n_atoms(self) -> int:
        """Number of real atoms."""
        return len(self.wrap)

    @property
    def longest(self) -> int:
        """Most neighbours that any atom has."""
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
        positions, cell = np.ascontiguousarray(positions, float), np.ascontiguousarray(cell, float)
        with torch_threads():
            return _place(positions, cell, self.owner, self.shift, self.wrap)

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


def build(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray | bool, cutoff: float
) -> NeighborTable:
    """Find all neighbours closer than ``cutoff``.

    Parameters
    ----------
    positions
        (n_atoms, 3), Angstrom; atoms may lie outside the cell.
    cell
        Cell vectors as rows, (3, 3), Angstrom; rows of axes that are not periodic may be zero.
    pbc
        Periodicity along each cell vector.
    cutoff
        In Angstrom.
    """
    positions = np.ascontiguousarray(positions, dtype=float)
    pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), 3).copy()
    if not np.isfinite(positions).all():
        raise InputError("neighbour list: a position is not finite")
    frame = _complete(np.asarray(cell, dtype=float), pbc)
    inverse = np.linalg.inv(frame)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    reach = cutoff / heights
    with torch_threads():
        fractional, wrap = _wrapped(positions, inverse, pbc)
        owner, shift = _ghosts(fractional, pbc, reach)
        placed = _place(positions, frame, owner, shift, wrap)
        low, bins, scale = _grid(fractional, pbc, reach, len(owner))
        order, starts = _binned(fractional, owner, shift, low, bins, scale)
        where = (fractional, placed, placed[order], order, starts, low, bins, scale, reach)
        row = _fill(*where, cutoff, np.zeros(0, np.int64), np.zeros(0, np.int32))
        index = np.empty(row[-1], np.int32)
        _fill(*where, cutoff, row, index)
    return NeighborTable(row, index, owner, shift, wrap)


def _complete(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace cell vectors of open axes by unit vectors orthogonal to the others."""
    frame = cell.copy()
    if pbc.all() or abs(np.linalg.det(frame)) > 0:
        missing = np.zeros(3, dtype=bool)
    else:
        missing = ~pbc
    frame[missing] = 0
    for axis in np.flatnonzero(missing):
        # The right singular vectors beyond the rank span what the known vectors do not.
        _, values, vectors = np.linalg.svd(frame)
        frame[axis] = vectors[int((values > 1e-12 * max(values.max(), 1)).sum())]
    if abs(np.linalg.det(frame)) < 1e-12:
        raise InputError("neighbour list: the cell vectors of periodic axes span no volume")
    return frame


def _grid(
    fractional: np.ndarray, pbc: np.ndarray, reach: np.ndarray, n_ghosts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower corner, number of bins and bins per unit of fractional coordinate, for each axis."""
    if not len(fractional):
        return np.zeros(3), np.ones(3, dtype=np.int64), np.ones(3)
    low = np.where(pbc, -reach, fractional.min(axis=0))
    high = np.where(pbc, 1 + reach, fractional.max(axis=0))
    bins = np.maximum(((high - low) * _BINS_PER_RADIUS / reach).astype(np.int64), 1)
    # A few far atoms in a large box must not ask for more bins than there are atoms.
    most = 4.0 * (len(fractional) + n_ghosts) + 64
    shrink = min(1.0, (most / bins.astype(float).prod()) ** (1 / 3))
    bins = np.maximum((bins * shrink).astype(np.int64), 1)
    return low, bins, bins / np.maximum(high - low, 1e-300)


@njit(parallel=True, cache=True)
def _wrapped(positions, inverse, pbc):
    n = positions.shape[0]
    fractional, wrap = np.empty((n, 3)), np.zeros((n, 3), np.int32)
    for i in prange(n):
        for d in range(3):
            f = 0.0
            for c in range(3):
                f += positions[i, c] * inverse[c, d]
            if pbc[d]:
                whole = np.floor(f)
                f -= whole
                wrap[i, d] = np.int32(whole)
            fractional[i, d] = f
    return fractional, wrap


@njit(parallel=True, cache=True)
def _place(positions, cell, owner, shift, wrap):
    n = positions.shape[0]
    placed = np.empty((n + owner.size, 3))
    for i in prange(n):
        for c in range(3):
            moved = positions[i, c]
            for d in range(3):
                moved -= wrap[i, d] * cell[d, c]
            placed[i, c] = moved
    for g in prange(owner.size):
        for c in range(3):
            moved = placed[owner[g], c]
            for d in range(3):
                moved += shift[g, d] * cell[d, c]
            placed[n + g, c] = moved
    return placed


@njit(cache=True)
def _images(f, periodic, reach):
    """First and last translation that bring coordinate f within ``reach`` of [0, 1]."""
    if not periodic:
        return 0, 0
    return int(np.ceil(-reach - f)), int(np.floor(1.0 + reach - f))


@njit(cache=True)
def _ghosts(fractional, pbc, reach):
    n, total = fractional.shape[0], 0
    for i in range(n):
        images = 1
        for d in range(3):
            first, last = _images(fractional[i, d], pbc[d], reach[d])
            images *= last - first + 1
        total += images - 1
    owner, shift = np.empty(total, np.int32), np.empty((total, 3), np.int32)
    g = 0
    for i in range(n):
        ax, bx = _images(fractional[i, 0], pbc[0], reach[0])
        ay, by = _images(fractional[i, 1], pbc[1], reach[1])
        az, bz = _images(fractional[i, 2], pbc[2], reach[2])
        for tx in range(ax, bx + 1):
            for ty in range(ay, by + 1):
                for tz in range(az, bz + 1):
                    if tx != 0 or ty != 0 or tz != 0:
                        owner[g] = i
                        shift[g, 0], shift[g, 1], shift[g, 2] = tx, ty, tz
                        g += 1
    return owner, shift


@njit(cache=True)
def _bin(f, low, scale, n):
    return min(max(int((f - low) * scale), 0), n - 1)


@njit(cache=True)
def _binned(fractional, owner, shift, low, bins, scale):
    """Counting sort: atoms and ghosts in the order of their bins, and where each bin starts."""
    n = fractional.shape[0]
    home = np.empty(n + owner.size, np.int64)
    starts = np.zeros(bins[0] * bins[1] * bins[2] + 1, np.int64)
    for a in range(home.size):
        b = 0
        for d in range(3):
            f = fractional[a, d] if a < n else fractional[owner[a - n], d] + shift[a - n, d]
            b = b * bins[d] + _bin(f, low[d], scale[d], bins[d])
        home[a] = b
        starts[b + 1] += 1
    for b in range(starts.size - 1):
        starts[b + 1] += starts[b]
    order, fill = np.empty(home.size, np.int32), starts[:-1].copy()
    for a in range(home.size):
        order[fill[home[a]]] = a
        fill[home[a]] += 1
    return order, starts


@njit(parallel=True, cache=True)
def _fill(
    fractional, placed, sorted_positions, order, starts, low, bins, scale, reach, cutoff, row, index
):
    """Count the neighbours (``row`` empty: returns the rows) or fill them into ``index``."""
    n = fractional.shape[0]
    counting = row.size == 0
    counts = np.zeros(n + 1, np.int64)
    square = cutoff * cutoff
    # The tiny margin covers the rounding of bin borders.
    margin = reach * (1 + 1e-9) + 1e-12
    for block in prange((n + _BLOCK - 1) // _BLOCK):
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            x, y, z = placed[i, 0], placed[i, 1], placed[i, 2]
            ax = _bin(fractional[i, 0] - margin[0], low[0], scale[0], bins[0])
            bx = _bin(fractional[i, 0] + margin[0], low[0], scale[0], bins[0])
            ay = _bin(fractional[i, 1] - margin[1], low[1], scale[1], bins[1])
            by = _bin(fractional[i, 1] + margin[1], low[1], scale[1], bins[1])
            az = _bin(fractional[i, 2] - margin[2], low[2], scale[2], bins[2])
            bz = _bin(fractional[i, 2] + margin[2], low[2], scale[2], bins[2])
            found = 0 if counting else row[i]
            for cx in range(ax, bx + 1):
                for cy in range(ay, by + 1):
                    line = (cx * bins[1] + cy) * bins[2]
                    for q in range(starts[line + az], starts[line + bz + 1]):
                        dx = sorted_positions[q, 0] - x
                        dy = sorted_positions[q, 1] - y
                        dz = sorted_positions[q, 2] - z
                        if dx * dx + dy * dy + dz * dz < square and order[q] != i:
                            if not counting:
                                index[found] = order[q]
                            found += 1
            counts[i + 1] = found
    if counting:
        for i in range(n):
            counts[i + 1] += counts[i]
    return counts
