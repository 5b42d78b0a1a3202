"""Loops of the MD path: environments and forces of a chunk of atoms, from a neighbor table.

No array here has a row per pair. Distances are found anew in both passes (cheaper than memory),
from float64 positions; what is inside the cutoff is cast to the model's precision and staged as in
:mod:`kdlib.hipnn.kernels.pairs`. The force pass adds to both atoms of a pair, in float64, so that
the sum of all forces vanishes to rounding; callers in several threads pass an array each.

Arguments shared by the loops: ``placed`` (n_atoms + n_ghosts, 3) float64 positions, Angstrom;
``row`` and ``index`` of the :class:`~kdlib.hipnn.kernels.neighbortable.NeighborTable`; ``longest``,
its longest row; ``species`` (n_atoms + n_ghosts) channels; atoms ``start`` to ``stop`` are the
chunk.
"""

import numpy as np

from kdlib._numba import compiled, inlined
from kdlib.hipnn.kernels.elementary import FASTMATH
from kdlib.hipnn.kernels.pairs import FREE, N_ROWS, UX, UY, UZ, X, padded, resolve
from kdlib.hipnn.kernels.sums import SCALE, pair_slopes, sum_environment


@inlined(fastmath=FASTMATH, error_model="numpy")
def _select(placed, i, row, index, species, channel, cutoff, table, near):
    """Stage the neighbors of atom i inside the cutoff (of one species, if ``channel`` >= 0).

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


@compiled(fastmath=FASTMATH, error_model="numpy", nogil=True)
def chunk_environment(placed, row, index, longest, species, start, stop, cutoff, m, sigma, out):
    """Fill ``out`` (stop - start, 4, n_species, n_sensitivities) with environments."""
    n_species = out.shape[2]
    h = sigma * m.dtype.type(SCALE)
    table = np.empty((N_ROWS, padded(longest + 1)), m.dtype)
    near = np.empty(longest + 1, np.int32)
    for a in range(stop - start):
        for s in range(n_species):
            channel = s if n_species > 1 else -1
            n = _select(placed, start + a, row, index, species, channel, cutoff, table, near)
            resolve(table, n, cutoff)
            sum_environment(table, n, m, h, out[a, :, s])


@inlined(fastmath=FASTMATH, error_model="numpy")
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


@compiled(fastmath=FASTMATH, error_model="numpy", nogil=True)
def chunk_forces(
    placed, row, index, longest, species, start, stop, cutoff, m, sigma, g, forces, virial, strained
):
    """Add the chunk's share to ``forces`` (n_atoms + n_ghosts, 3), eV/Angstrom.

    ``g`` is dE/d(environment). With ``strained``, dE/dstrain is added to ``virial`` (3, 3), eV.
    """
    n_species = g.shape[2]
    h = sigma * m.dtype.type(SCALE)
    table = np.empty((N_ROWS, padded(longest + 1)), m.dtype)
    near = np.empty(longest + 1, np.int32)
    for a in range(stop - start):
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
                forces[j, 0] -= sx
                forces[j, 1] -= sy
                forces[j, 2] -= sz
                fx += sx
                fy += sy
                fz += sz
            if strained:
                _add_virial(table, n, virial)
        forces[i, 0] += fx
        forces[i, 1] += fy
        forces[i, 2] += fz


@compiled()
def total_forces(forces, owner):
    """Sum (n_shares, n_atoms + n_ghosts, 3) over shares, and ghosts to owners; (n_atoms, 3)."""
    n_atoms = forces.shape[1] - owner.size
    total = forces[0, :n_atoms].copy()
    for share in range(forces.shape[0]):
        for a in range(n_atoms if share > 0 else 0):
            for c in range(3):
                total[a, c] += forces[share, a, c]
        for g in range(owner.size):
            for c in range(3):
                total[owner[g], c] += forces[share, n_atoms + g, c]
    return total
