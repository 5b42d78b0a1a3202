"""Pairs of frames that do not move: distances, directions and cutoff values, found once.

A training passes over the same pairs in every epoch. Here they lie ready for the vector units: the
pairs of an atom with neighbors of one species are a *segment*, with one row for each quantity,
filled up as in :mod:`kdlib.hipnn.kernels.pairs`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdlib._numba import compiled
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.kernels.elementary import FASTMATH
from kdlib.hipnn.kernels.pairs import CX2, gather, padded, resolve

#: Rows of a segment: X to DC of :mod:`kdlib.hipnn.kernels.pairs`.
ROWS = CX2


@dataclass(frozen=True)
class PairTable:
    """Pairs of all frames of a training."""

    atoms: np.ndarray
    """Atoms of frame k are ``atoms[k]:atoms[k + 1]``, (n_frames + 1,) int64."""
    species: np.ndarray
    """Species channel of each atom, (n_atoms,) int64."""
    start: np.ndarray
    """Column where each segment starts, (n_atoms * n_species + 1,) int64."""
    count: np.ndarray
    """Pairs of each segment, (n_atoms * n_species,) int32."""
    second: np.ndarray
    """Neighbor of each pair, as a number within its frame, (n_columns,) int32."""
    rows: np.ndarray
    """Rows of the segments one after another, (ROWS * n_columns,)."""
    n_species: int

    @classmethod
    def of(
        cls, frames: Sequence[Batch], species: np.ndarray, n_species: int, cutoff: float
    ) -> "PairTable":
        """Table of frames.

        Parameters
        ----------
        frames
            One batch for each frame, on the CPU.
        species
            Species channel of each atom of all frames, (n_atoms,).
        n_species
            Number of channels.
        cutoff
            Of the model, Angstrom.
        """
        atoms = np.cumsum([0] + [frame.n_atoms for frame in frames])
        counts = [
            _counts(frame.row.numpy(), frame.second.numpy(), species[a:], n_species)
            for frame, a in zip(frames, atoms, strict=False)
        ]
        count = np.concatenate([np.zeros(0, np.int32), *counts])
        start = np.concatenate([[0], np.cumsum((count + np.int64(15)) & ~np.int64(15))])
        real = frames[0].vectors.numpy().dtype.type
        second, rows = np.zeros(start[-1], np.int32), np.empty(ROWS * start[-1], real)
        for frame, a in zip(frames, atoms, strict=False):
            pairs = frame.vectors.numpy(), frame.row.numpy(), frame.second.numpy(), species[a:]
            _fill(*pairs, n_species, start[a * n_species :], real(cutoff), second, rows)
        return cls(atoms, species, start, count, second, rows, n_species)


@compiled()
def _counts(row, second, species, n_species):
    count = np.zeros((row.size - 1) * n_species, np.int32)
    for i in range(row.size - 1):
        for p in range(row[i], row[i + 1]):
            count[i * n_species + species[second[p]]] += 1
    return count


@compiled(fastmath=FASTMATH, error_model="numpy")
def _fill(vectors, row, second, species, n_species, start, cutoff, seconds, rows):
    for i in range(row.size - 1):
        longest = padded(row[i + 1] - row[i])
        table, index = np.empty((ROWS + 1, longest), rows.dtype), np.empty(longest, np.int64)
        for s in range(n_species):
            channel = s if n_species > 1 else -1
            n = gather(vectors, second, species, channel, row[i], row[i + 1], table, index)
            resolve(table, n, cutoff)
            begin = start[i * n_species + s]
            width = padded(n)
            for r in range(ROWS):
                for p in range(width):
                    rows[ROWS * begin + r * width + p] = table[r, p]
            for p in range(n):
                seconds[begin + p] = second[index[p]]
