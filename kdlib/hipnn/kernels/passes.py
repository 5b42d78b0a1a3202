"""Which frames a training step takes, and its passes over their pairs, on the CPU."""

from dataclasses import dataclass

import numpy as np

from kdlib._numba import compiled
from kdlib.hipnn.kernels import trainlayers, trainsums
from kdlib.hipnn.kernels.pairtable import PairTable

#: Centers and widths of the sensitivities, (n_sensitivities,) each: m = 1/mu, 1/Angstrom; sigma,
#: Angstrom.
Radial = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Selection:
    """Frames of a :class:`~kdlib.hipnn.kernels.pairtable.PairTable` laid end to end."""

    chosen: np.ndarray
    """(n_frames,) int64."""
    begin: np.ndarray
    """Atoms of frame k are ``begin[k]:begin[k + 1]``, (n_frames + 1,) int64."""
    column: np.ndarray
    """Columns of frame k start at ``column[k]``, (n_frames + 1,) int64."""
    frame: np.ndarray
    """Place of each atom's frame among the chosen ones, (n_atoms,) int64."""
    atoms: np.ndarray
    """Number of each atom in the table, (n_atoms,) int64."""
    species: np.ndarray
    """Species channel of each atom, (n_atoms,) int64."""

    @classmethod
    def of(cls, table: PairTable, chosen: np.ndarray) -> "Selection":
        """Select frames by number."""
        return cls(chosen, *_laid_out(table.atoms, table.start, table.species, chosen))


@compiled()
def _laid_out(atoms, start, species, chosen):
    n_species = (start.size - 1) // species.size
    begin, column = np.zeros((2, chosen.size + 1), np.int64)
    for k, frame in enumerate(chosen):
        first, last = atoms[frame], atoms[frame + 1]
        begin[k + 1] = begin[k] + last - first
        column[k + 1] = column[k] + start[last * n_species] - start[first * n_species]
    place, number, channel = np.empty((3, begin[-1]), np.int64)
    for k, frame in enumerate(chosen):
        for i in range(begin[k], begin[k + 1]):
            place[i] = k
            number[i] = atoms[frame] + i - begin[k]
            channel[i] = species[number[i]]
    return begin, column, place, number, channel


class Passes:
    """The passes over pairs of a training step: memory for :mod:`kdlib.hipnn.kernels.trainsums`.

    Environments and what belongs to them are (n_atoms, 4, n_species, n_sensitivities).

    Parameters
    ----------
    table
        Pairs of the frames.
    """

    #: What is between the matrix products.
    layers = trainlayers

    def __init__(self, table: PairTable) -> None:
        self._table, self._pairs = table, (table.atoms, table.start, table.count, table.rows)
        self._gauss = np.empty(0, table.rows.dtype)
        self._moments = np.empty((2, 0), table.rows.dtype)

    def select(self, chosen: np.ndarray) -> Selection:
        """Select frames by number."""
        return Selection.of(self._table, chosen)

    def environments(self, where: Selection, radial: Radial, env: np.ndarray) -> None:
        """Fill ``env``; keeps what the other passes need of this one."""
        n_kept = int(where.column[-1]) * len(radial[0])
        if n_kept > len(self._gauss):
            self._gauss = np.empty(n_kept + n_kept // 4, self._gauss.dtype)
        if env.size > self._moments.shape[1]:
            self._moments = np.empty((2, env.size + env.size // 4), env.dtype)
        self._sums_of = self._moments[:, : env.size].reshape(2, *env.shape)
        frames = where.chosen, where.begin, where.column
        trainsums.environments(*self._pairs, *frames, *radial, self._gauss, env, *self._sums_of)

    def forces(
        self, where: Selection, radial: Radial, g: np.ndarray, strained: bool, out: np.ndarray
    ) -> np.ndarray:
        """Forces for g = dE/d(environment) into ``out``; returns the virials, zero or as asked."""
        virial = np.empty((len(where.chosen), 3, 3), out.dtype)
        trainsums.forces(*self._sums(where, radial), g, strained, out, virial)
        return virial

    def tangents(
        self,
        where: Selection,
        radial: Radial,
        g: np.ndarray,
        by_force: np.ndarray,
        strained: bool,
        by_virial: np.ndarray,
        out: np.ndarray,
    ) -> np.ndarray:
        """Change of the environments along the derivatives of the loss, into ``out``.

        Returns what :meth:`parameter_gradient` takes as ``of_changes``.
        """
        changes = g, by_force, strained, by_virial, out
        return trainsums.tangents(*self._sums(where, radial), *changes)

    def parameter_gradient(
        self, where: Selection, radial: Radial, weight: np.ndarray, of_changes: np.ndarray
    ) -> np.ndarray:
        """Gradients by m and sigma of ``weight`` times the environments, and of the changes."""
        trainsums.add_parameter_gradient(weight, *self._sums_of, *radial, of_changes)
        return of_changes

    def _sums(self, where: Selection, radial: Radial) -> tuple:
        frames = where.chosen, where.begin, where.column
        return (*self._pairs, self._table.second, *frames, *radial, self._gauss)
