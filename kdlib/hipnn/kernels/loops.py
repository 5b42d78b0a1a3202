"""The kernels run over all atoms of a batch, in parallel.

Threads own contiguous blocks of atoms and write only to the rows of their own atoms and pairs;
sums over all pairs (gradients of the sensitivity parameters) are kept per block and added in the
order of the blocks. The number of blocks does not depend on the number of threads, so neither does
any bit of a result.

Arguments shared by all loops: ``vectors`` (n_pairs, 3), Angstrom; ``row`` (n_atoms + 1) starts of
each atom's pairs; ``second`` (n_pairs) neighbors; ``species`` (n_atoms) channel of each atom;
``cutoff`` Angstrom; ``m`` = 1/mu, 1/Angstrom, and ``sigma``, Angstrom, (n_sensitivities); the
environment and its gradient are (n_atoms, 4, n_species, n_sensitivities).
"""

import numpy as np
from numba import prange

from kdlib._numba import compiled, inlined
from kdlib.hipnn.kernels.elementary import FASTMATH
from kdlib.hipnn.kernels.pairs import FREE, N_ROWS, gather, padded, resolve
from kdlib.hipnn.kernels.sums import (
    SCALE,
    add_parameter_gradient,
    add_slope_gradient,
    pair_curvatures,
    pair_slopes,
    project,
    sum_environment,
)

#: Blocks of atoms that the threads share out.
N_BLOCKS = 32

#: Arrays in which forces on both atoms of a pair add up, each over a fixed share of the atoms.
_N_SHARES = 4


@compiled()
def rows_of(first, n_atoms):
    """Start of each atom's pairs, (n_atoms + 1,); empty when ``first`` is not sorted."""
    row = np.zeros(n_atoms + 1, np.int64)
    previous = 0
    for p in range(first.size):
        i = first[p]
        if i < previous:
            return np.zeros(0, np.int64)
        previous = i
        row[i + 1] += 1
    for i in range(n_atoms):
        row[i + 1] += row[i]
    return row


@compiled()
def channels_of(one_hot):
    """Which channel of each row (n_atoms, n_species) is 1; empty if a row is not one-hot."""
    out = np.empty(one_hot.shape[0], np.int64)
    for i in range(one_hot.shape[0]):
        ones = 0
        for s in range(one_hot.shape[1]):
            if one_hot[i, s] == 1:
                out[i] = s
                ones += 1
            elif one_hot[i, s] != 0:
                ones = -one_hot.shape[1]
        if ones != 1:
            return np.empty(0, np.int64)
    return out


@inlined()
def _workspace(row, like):
    """Table and index that hold the pairs of any atom."""
    longest = 1
    for i in range(row.size - 1):
        longest = max(longest, row[i + 1] - row[i])
    return np.empty((N_ROWS, padded(longest)), like.dtype), np.empty(longest, np.int64)


@inlined()
def _stage(vectors, row, second, species, n_species, s, i, cutoff, table, index):
    """Stage the pairs of atom i whose neighbors are of species s; return their number."""
    channel = s if n_species > 1 else -1
    n = gather(vectors, second, species, channel, row[i], row[i + 1], table, index)
    resolve(table, n, cutoff)
    return n


@compiled(parallel=True, fastmath=FASTMATH, error_model="numpy")
def environment(vectors, row, second, species, cutoff, m, sigma, out):
    """Fill ``out`` with the environment of every atom."""
    n_atoms, n_species = out.shape[0], out.shape[2]
    h = sigma * m.dtype.type(SCALE)
    for block in prange(N_BLOCKS):
        table, index = _workspace(row, m)
        for i in range(block * n_atoms // N_BLOCKS, (block + 1) * n_atoms // N_BLOCKS):
            for s in range(n_species):
                n = _stage(vectors, row, second, species, n_species, s, i, cutoff, table, index)
                sum_environment(table, n, m, h, out[i, :, s])


@compiled(parallel=True, fastmath=FASTMATH, error_model="numpy")
def parameter_gradient(vectors, row, second, species, cutoff, m, sigma, weight):
    """Gradients by m and sigma of the sum of ``weight`` times the environment."""
    n_atoms, n_species = weight.shape[0], weight.shape[2]
    h = sigma * m.dtype.type(SCALE)
    partial = np.zeros((N_BLOCKS, 2, m.size), m.dtype)
    for block in prange(N_BLOCKS):
        table, index = _workspace(row, m)
        by_m, by_sigma = partial[block, 0], partial[block, 1]
        for i in range(block * n_atoms // N_BLOCKS, (block + 1) * n_atoms // N_BLOCKS):
            for s in range(n_species):
                n = _stage(vectors, row, second, species, n_species, s, i, cutoff, table, index)
                add_parameter_gradient(table, n, m, h, sigma, weight[i, :, s], by_m, by_sigma)
    return partial.sum(axis=0)


@compiled(parallel=True, fastmath=FASTMATH, error_model="numpy")
def slopes(vectors, row, second, species, cutoff, m, sigma, g, out):
    """Fill ``out`` (n_pairs, 3) with dE/dr of each pair, for g = dE/d(environment)."""
    n_atoms, n_species = g.shape[0], g.shape[2]
    h = sigma * m.dtype.type(SCALE)
    for block in prange(N_BLOCKS):
        table, index = _workspace(row, m)
        for i in range(block * n_atoms // N_BLOCKS, (block + 1) * n_atoms // N_BLOCKS):
            for s in range(n_species):
                n = _stage(vectors, row, second, species, n_species, s, i, cutoff, table, index)
                pair_slopes(table, n, m, h, sigma, g[i, :, s])
                for p in range(n):
                    for c in range(3):
                        out[index[p], c] = table[FREE + 1 + c, p]


@compiled(parallel=True, fastmath=FASTMATH, error_model="numpy")
def slope_gradient(vectors, row, second, species, cutoff, m, sigma, g, direction, out):
    """Gradients of sum_p direction_p . slope_p: by g into ``out``; by m and sigma returned."""
    n_atoms, n_species = g.shape[0], g.shape[2]
    h = sigma * m.dtype.type(SCALE)
    partial = np.zeros((N_BLOCKS, 2, m.size), m.dtype)
    for block in prange(N_BLOCKS):
        table, index = _workspace(row, m)
        by_m, by_sigma = partial[block, 0], partial[block, 1]
        for i in range(block * n_atoms // N_BLOCKS, (block + 1) * n_atoms // N_BLOCKS):
            for s in range(n_species):
                n = _stage(vectors, row, second, species, n_species, s, i, cutoff, table, index)
                project(table, n, index, direction)
                add_slope_gradient(table, n, m, h, sigma, g[i, :, s], out[i, :, s], by_m, by_sigma)
    return partial.sum(axis=0)


@compiled(parallel=True, fastmath=FASTMATH, error_model="numpy")
def curvatures(vectors, row, second, species, cutoff, m, sigma, g, direction, out):
    """Fill ``out`` (n_pairs, 3) with the Hessian of each pair's energy times ``direction``."""
    n_atoms, n_species = g.shape[0], g.shape[2]
    h = sigma * m.dtype.type(SCALE)
    for block in prange(N_BLOCKS):
        table, index = _workspace(row, m)
        for i in range(block * n_atoms // N_BLOCKS, (block + 1) * n_atoms // N_BLOCKS):
            for s in range(n_species):
                n = _stage(vectors, row, second, species, n_species, s, i, cutoff, table, index)
                pair_curvatures(table, n, cutoff, m, h, sigma, g[i, :, s], index, direction, out)


@compiled(parallel=True)
def gather_forces(slopes, row, second):
    """Sum of the slopes of pairs that start at an atom minus those that end there, (n_atoms, 3)."""
    n_atoms = row.size - 1
    partial = np.zeros((_N_SHARES, n_atoms, 3), slopes.dtype)
    for share in prange(_N_SHARES):
        mine = partial[share]
        for i in range(share * n_atoms // _N_SHARES, (share + 1) * n_atoms // _N_SHARES):
            for p in range(row[i], row[i + 1]):
                for c in range(3):
                    mine[i, c] += slopes[p, c]
                    mine[second[p], c] -= slopes[p, c]
    return partial.sum(axis=0)


@compiled(parallel=True)
def spread_forces(forces, row, second):
    """Adjoint of `gather_forces`: force on the first atom of each pair minus that on the second."""
    n_atoms = row.size - 1
    out = np.empty((second.size, 3), forces.dtype)
    for i in prange(n_atoms):
        for p in range(row[i], row[i + 1]):
            for c in range(3):
                out[p, c] = forces[i, c] - forces[second[p], c]
    return out
