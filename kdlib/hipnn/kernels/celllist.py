r"""Neighbor lists by binning, for any cell: triclinic, smaller than the cutoff, partly periodic.

Periodic images become *ghost atoms*, copies of real atoms displaced by whole cell vectors, so that
the search itself knows no periodicity and a neighbor is one int32: atoms are numbered 0 to
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

import numpy as np
from numba import prange

from kdlib._numba import compiled
from kdlib.errors import InputError
from kdlib.geometry.neighbors import spans
from kdlib.hipnn.kernels.neighbortable import NeighborTable, place
from kdlib.hipnn.kernels.threads import torch_threads

#: Bins per search radius: smaller bins fit the sphere better, but cost more loops.
_BINS_PER_RADIUS = 2

#: Threads share out blocks of this many atoms.
_BLOCK = 64


def build(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray | bool, cutoff: float
) -> NeighborTable:
    """Find all neighbors closer than ``cutoff``.

    Parameters
    ----------
    positions
        (n_atoms, 3), Angstrom; atoms may lie outside the cell.
    cell
        Cell vectors as rows, (3, 3), Angstrom; rows of open axes are not looked at.
    pbc
        Periodicity along each cell vector.
    cutoff
        In Angstrom.
    """
    positions = np.ascontiguousarray(positions, dtype=float)
    pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), 3).copy()
    if not np.isfinite(positions).all():
        raise InputError("neighbor list: a position is not finite")
    frame = _complete(np.asarray(cell, dtype=float), pbc)
    inverse = np.linalg.inv(frame)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    reach = cutoff / heights
    with torch_threads():
        fractional, wrap = _wrapped(positions, inverse, pbc)
        owner, shift = _ghosts(fractional, pbc, reach)
        placed = place(positions, frame, owner, shift, wrap)
        low, bins, scale = _grid(fractional, pbc, reach, len(owner))
        order, home, starts = _binned(fractional, owner, shift, low, bins, scale)
        x, y, z = np.ascontiguousarray(placed[order].T)
        # The tiny margin covers the rounding of bin borders.
        margin = reach * (1 + 1e-9) + 1e-12
        where = (fractional, x, y, z, home, starts, low, bins, scale, margin, cutoff**2)
        row = _count(*where)
        index = _fill(*where, order, row, int(np.diff(row).max(initial=0)))
    return NeighborTable(row, index, owner, shift, wrap)


def _complete(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replace cell vectors of open axes by unit vectors orthogonal to the others."""
    if not spans(cell, pbc):
        raise InputError("neighbor list: the cell vectors of periodic axes span no volume")
    frame = np.where(pbc[:, None], cell, 0.0)
    for axis in np.flatnonzero(~pbc):
        # The right singular vectors beyond the rank span what the known vectors do not.
        _, values, vectors = np.linalg.svd(frame)
        frame[axis] = vectors[int((values > 1e-12 * max(values.max(), 1)).sum())]
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


@compiled(parallel=True)
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


@compiled()
def _images(f, periodic, reach):
    """First and last translation that bring coordinate f within ``reach`` of [0, 1]."""
    if not periodic:
        return 0, 0
    return int(np.ceil(-reach - f)), int(np.floor(1.0 + reach - f))


@compiled()
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


@compiled()
def _bin(f, low, scale, n):
    return min(max(int((f - low) * scale), 0), n - 1)


@compiled()
def _binned(fractional, owner, shift, low, bins, scale):
    """Counting sort: atoms and ghosts in the order of their bins, its inverse, bins' starts."""
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
    order, free = np.empty(home.size, np.int32), starts[:-1].copy()
    for a in range(home.size):
        b = home[a]
        home[a] = free[b]
        order[free[b]] = a
        free[b] += 1
    return order, home, starts


@compiled()
def _window(fractional, i, low, bins, scale, margin):
    """Bins that the sphere around atom i touches: first and last along each axis, (2, 3)."""
    window = np.empty((2, 3), np.int64)
    for d in range(3):
        f = fractional[i, d]
        window[0, d] = _bin(f - margin[d], low[d], scale[d], bins[d])
        window[1, d] = _bin(f + margin[d], low[d], scale[d], bins[d])
    return window


@compiled(parallel=True)
def _count(fractional, x, y, z, home, starts, low, bins, scale, margin, square):
    """Where each atom's row starts, (n_atoms + 1,), from the number of its neighbors."""
    n = fractional.shape[0]
    row = np.zeros(n + 1, np.int64)
    for block in prange((n + _BLOCK - 1) // _BLOCK):
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            window = _window(fractional, i, low, bins, scale, margin)
            x0, y0, z0 = x[home[i]], y[home[i]], z[home[i]]
            found = -1  # the atom itself
            for cx in range(window[0, 0], window[1, 0] + 1):
                for cy in range(window[0, 1], window[1, 1] + 1):
                    line = (cx * bins[1] + cy) * bins[2]
                    for q in range(starts[line + window[0, 2]], starts[line + window[1, 2] + 1]):
                        dx, dy, dz = x[q] - x0, y[q] - y0, z[q] - z0
                        found += dx * dx + dy * dy + dz * dz < square
            row[i + 1] = found
    for i in range(n):
        row[i + 1] += row[i]
    return row


@compiled(parallel=True)
def _fill(fractional, x, y, z, home, starts, low, bins, scale, margin, square, order, row, longest):
    """Neighbors of every atom, in the order of the bins.

    Candidates are written before they are judged and overwritten if they are too far: no branch,
    but one more element than the row holds, hence the scratch array.
    """
    n = fractional.shape[0]
    index = np.empty(row[n], np.int32)
    for block in prange((n + _BLOCK - 1) // _BLOCK):
        scratch = np.empty(longest + 1, np.int32)
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            window = _window(fractional, i, low, bins, scale, margin)
            h = home[i]
            x0, y0, z0 = x[h], y[h], z[h]
            found = 0
            for cx in range(window[0, 0], window[1, 0] + 1):
                for cy in range(window[0, 1], window[1, 1] + 1):
                    line = (cx * bins[1] + cy) * bins[2]
                    for q in range(starts[line + window[0, 2]], starts[line + window[1, 2] + 1]):
                        dx, dy, dz = x[q] - x0, y[q] - y0, z[q] - z0
                        scratch[found] = order[q]
                        found += (dx * dx + dy * dy + dz * dz < square) & (q != h)
            index[row[i] : row[i + 1]] = scratch[:found]
    return index
