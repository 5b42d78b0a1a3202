"""Loops of the MD path: environments and forces of a chunk of atoms, from a neighbour table.

No array here has a row per pair. Distances are found anew in both passes (cheaper than memory),
from float64 positions; what is inside the cutoff is cast to the model's precision and staged as in
:mod:`kdlib.fused.pairs`.

The force pass adds to both atoms of a pair. Each thread does so in an array of its own, over a
fixed share of the atoms, and the arrays are added in the order of the threads: no races, and the
same bits in every call with the same number of threads. Forces add up in float64, so that their sum
over all atoms vanishes to rounding.

Arguments shared by the loops: ``placed`` (n_atoms + n_ghosts, 3) float64 positions, Angstrom;
``row`` and ``index`` of the :class:`~kdlib.fused.neighbortable.NeighborTable`; ``longest``, its
longest row; ``species`` (n_atoms + n_ghosts) channels; atoms ``start`` to ``stop`` are the chunk.
"""

import numpy as np
from numba import njit, prange

from kdlib.fused.elementary import FASTMATH
from kdlib.fused.kernels import SCALE, pair_slopes, sum_environment
from kdlib.fused.loops import N_BLOCKS
from kdlib.fused.pairs import FREE, N_ROWS, UX, UY, UZ, X, padded, resolve


@njit(fastmath=FASTMATH, error_model="numpy")
def _select(placed, i, row, index, species, channel, cutoff, table, near):
    """Stage the neighbours of atom i inside the cutoff (of one species, if ``channel`` >= 0).

    Every candidate is written to the next free column, which advances only if it is inside: no
    branch to mispredict. Returns the number of pairs; ``near`` holds their second atoms.
    """
    real = table.dtype.type
    x, y, z = placed[i, 0], placed[i, 1], placed[i, 2]
    square = np.float64(cutoff) * np.float64(cutoff)
    n = 0
    for p in range(row[i], row[i + 1]):
        j = index[p]
        if channel >= 0 and species[j] != channel:
            continue
        dx, dy, dz = placed[j, 0] - x, placed[j, 1] - y, placed[j, 2] - z
        table[UX, n] = real(dx)
        table[UY, n] = real(dy)
        table[UZ, n] = real(dz)
        near[n] = j
        n += dx * dx + dy * dy + dz * dz < square
    return n


@njit(parallel=True, fastmath=FASTMATH, error_model="numpy", cache=True)
def chunk_environment(placed, row, index, longest, species, start, stop, cutoff, m, sigma, out):
    """Fill ``out`` (stop - start, 4, n_species, n_sensitivities) with environments."""
    n_species, count = out.shape[2], stop - start
    h = sigma * m.dtype.type(SCALE)
    for block in prange(N_BLOCKS):
        table = np.empty((N_ROWS, padded(longest + 1)), m.dtype)
        near = np.empty(longest + 1, np.int32)
        for a in range(block * count // N_BLOCKS, (block + 1) * count // N_BLOCKS):
            for s in range(n_species):
                channel = s if n_species > 1 else -1
                n = _select(placed, start + a, row, index, species, channel, cutoff, table, near)
                resolve(table, n, cutoff)
                sum_environment(table, n, m, h, out[a, :, s])


@njit(fastmath=FASTMATH, error_model="numpy")
def _add_virial(table, n, virial):
    # dE/dstrain = sum_p r_p (x) df/dr_p, with r = u / x
    real = table.dtype.type
    for b in range(3):
        slope = table[FREE + 1 + b]
        for a in range(3):
            total = real(0)
            for p in range(n):
                total += table[UX + a, p] / table[X, p] * slope[p]
            virial[a, b] += total


@njit(parallel=True, fastmath=FASTMATH, error_model="numpy", cache=True)
def chunk_forces(
    placed,
    row,
    index,
    longest,
    species,
    start,
    stop,
    cutoff,
    m,
    sigma,
    g,
    forces,
    virials,
    strained,
):
    """Add the chunk's share to ``forces`` (n_threads, n_atoms + n_ghosts, 3), eV/Angstrom.

    ``g`` is dE/d(environment). With ``strained``, dE/dstrain is added to ``virials``
    (n_threads, 3, 3), eV.
    """
    n_threads, n_species, count = forces.shape[0], g.shape[2], stop - start
    h = sigma * m.dtype.type(SCALE)
    for thread in prange(n_threads):
        table = np.empty((N_ROWS, padded(longest + 1)), m.dtype)
        near = np.empty(longest + 1, np.int32)
        mine, virial = forces[thread], virials[thread]
        for a in range(thread * count // n_threads, (thread + 1) * count // n_threads):
            i = start + a
            fx = fy = fz = 0.0
            for s in range(n_species):
                channel = s if n_species > 1 else -1
                n = _select(placed, i, row, index, species, channel, cutoff, table, near)
                resolve(table, n, cutoff)
                pair_slopes(table, n, m, h, sigma, g[a, :, s])
                for p in range(n):
                    j = near[p]
                    sx = np.float64(table[FREE + 1, p])
                    sy = np.float64(table[FREE + 2, p])
                    sz = np.float64(table[FREE + 3, p])
                    mine[j, 0] -= sx
                    mine[j, 1] -= sy
                    mine[j, 2] -= sz
                    fx += sx
                    fy += sy
                    fz += sz
                if strained:
                    _add_virial(table, n, virial)
            mine[i, 0] += fx
            mine[i, 1] += fy
            mine[i, 2] += fz


@njit(parallel=True, cache=True)
def total_forces(forces, owner):
    """Add up the threads' forces, and those on ghosts to their owners; (n_atoms, 3)."""
    n_threads, n_all = forces.shape[0], forces.shape[1]
    n_atoms = n_all - owner.size
    for a in prange(n_all):
        for thread in range(1, n_threads):
            for c in range(3):
                forces[0, a, c] += forces[thread, a, c]
    total = forces[0, :n_atoms].copy()
    for g in range(owner.size):
        for c in range(3):
            total[owner[g], c] += forces[0, n_atoms + g, c]
    return total
