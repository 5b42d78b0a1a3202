r"""Degrees of freedom of moving atoms: what a temperature is shared among.

A temperature is twice the kinetic energy over :math:`k_B` and the number of ways in which atoms
can move. Where nothing holds them in place, the motion of all atoms together is left out: its
momentum is conserved, so that it takes no part in the exchange of heat. ASE's constraints take ways
of motion away; those whose number follows for certain are counted, others are refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixConstraint,
    FixedLine,
    FixedPlane,
    FixScaled,
    Hookean,
)
from ase.geometry import find_mic
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kdlib import units
from kdlib.errors import InputError

#: Constraints that hold atoms one by one.
_SINGLE = (FixAtoms, FixCartesian, FixScaled, FixedPlane, FixedLine)
_KNOWN = (*_SINGLE, FixBondLengths, FixCom, Hookean)
#: Rounding in the directions that constraints leave.
_ROUNDING = 1e-8


@dataclass(frozen=True)
class Freedom:
    """Degrees of freedom of a configuration under its constraints."""

    count: int
    """Number of degrees of freedom that a temperature is shared among."""
    drifts: np.ndarray
    """Orthonormal directions in which all atoms may drift together, (n, 3)."""

    @classmethod
    def of(cls, atoms: Atoms) -> "Freedom":
        """Count the degrees of freedom of a configuration.

        A single atom has no motion but that of its center of mass, which then counts.

        Raises
        ------
        InputError
            Names constraints whose effect on the temperature is not known.
        """
        check_constraints(atoms)
        if atoms.constraints:
            left = _left_to_atoms(atoms)
            drifts = _drifts(atoms, left)
            total = round(float(np.trace(left, axis1=1, axis2=2).sum())) - _n_bonds(atoms)
        else:  # counting atom by atom takes seconds for 10^7 atoms
            drifts, total = np.eye(3), 3 * len(atoms)
        if _of_kind(atoms, FixCom):
            return cls(total - 3, drifts[:0])
        if total > len(drifts):
            return cls(total - len(drifts), drifts)
        return cls(total, drifts[:0])

    def temperature(self, kinetic: float, momentum: np.ndarray, mass: float) -> float:
        """Temperature, K; 0 where nothing can move.

        Parameters
        ----------
        kinetic
            Kinetic energy of all atoms, eV.
        momentum
            Their total momentum, (3,), in ASE's units.
        mass
            Their total mass, u.
        """
        along = self.drifts @ momentum
        return 2 * (kinetic - along @ along / (2 * mass)) / (max(self.count, 1) * units.KB)

    def drift(self, momentum: np.ndarray) -> np.ndarray:
        """Part of a total momentum that is drift, (3,)."""
        return self.drifts.T @ (self.drifts @ momentum)


def _of_kind(atoms: Atoms, *kinds: type[FixConstraint]) -> list[FixConstraint]:
    # not by isinstance: a class derived from a known one may hold other atoms
    return [one for one in atoms.constraints if type(one) in kinds]


def names(atoms: Atoms) -> str:
    """Names of the constraints of a configuration."""
    return ", ".join(dict.fromkeys(type(one).__name__ for one in atoms.constraints))


def check_constraints(atoms: Atoms) -> None:
    """Raise InputError for constraints that are unknown or hold the same atoms."""
    for one in atoms.constraints:
        if type(one) not in _KNOWN:
            known = ", ".join(kind.__name__ for kind in _KNOWN)
            raise InputError(
                f"MD: how {type(one).__name__} changes the temperature is not known; constraints "
                f"that may stay are {known}"
            )
    bonds = [np.unique(_pairs(one, atoms)) for one in _of_kind(atoms, FixBondLengths)]
    single = [_counted(one, one.index, atoms) for one in _of_kind(atoms, *_SINGLE)]
    bound = np.concatenate(bonds) if bonds else np.empty(0, int)
    if len(np.unique(bound)) < len(bound) or np.isin(bound, np.concatenate([[], *single])).any():
        raise InputError(
            f"MD: an atom is held by FixBondLengths and again by one of {names(atoms)}"
        )
    if single and _of_kind(atoms, FixCom):
        raise InputError(f"MD: FixCom moves atoms that are held by {names(atoms)}; remove it")


def _counted(one: FixConstraint, indices: np.ndarray, atoms: Atoms) -> np.ndarray:
    """Indices of held atoms from the first one on, where ASE also counts from the last one."""
    strange = np.asarray(indices)[(indices < -len(atoms)) | (indices >= len(atoms))]
    if strange.size:
        raise InputError(
            f"MD: {type(one).__name__} holds atom {strange[0]}, but there are {len(atoms)}"
        )
    return indices % len(atoms)


def _pairs(one: FixBondLengths, atoms: Atoms) -> np.ndarray:
    """Both atoms of each bond that is held, (n_pairs, 2)."""
    return _counted(one, np.reshape(one.pairs, (-1, 2)), atoms)


def _left_to_atoms(atoms: Atoms) -> np.ndarray:
    """Projections on the directions that are left to each atom, (n_atoms, 3, 3)."""
    axes = np.repeat(np.eye(3)[:, None], len(atoms), axis=1)
    for one in _of_kind(atoms, *_SINGLE):
        for field in axes:
            one.adjust_momenta(atoms, field)
    left = axes.transpose(1, 0, 2)
    wrong = np.abs(left @ left.transpose(0, 2, 1) - left).max(axis=(1, 2), initial=0) > _ROUNDING
    if wrong.any():
        raise InputError(
            f"MD: the directions left to atom {wrong.argmax()} by {names(atoms)} are not clear; "
            "use a single FixCartesian, FixedPlane or FixedLine"
        )
    return left


def _drifts(atoms: Atoms, left: np.ndarray) -> np.ndarray:
    """Orthonormal directions in which all atoms may move together, (n, 3)."""
    anchored = [one for one in _of_kind(atoms, Hookean) if np.ndim(one.todict()["kwargs"]["a2"])]
    if anchored:  # to a point or a plane
        return np.empty((0, 3))
    taken, directions = np.linalg.eigh((np.eye(3) - left).sum(axis=0))
    return directions.T[taken < _ROUNDING]


def _n_bonds(atoms: Atoms) -> int:
    """Number of independent bond lengths that are held; closed rings of bonds may repeat some."""
    return sum(
        np.linalg.matrix_rank(_changes(atoms, pairs))
        for one in _of_kind(atoms, FixBondLengths)
        for pairs in _molecules(len(atoms), _pairs(one, atoms))
    )


def _molecules(n_atoms: int, pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of each set of atoms that are connected by pairs."""
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(n_atoms, n_atoms))
    _, label = connected_components(graph, directed=False)
    for which in np.unique(label[pairs[:, 0]]):
        yield pairs[label[pairs[:, 0]] == which]


def _changes(atoms: Atoms, pairs: np.ndarray) -> np.ndarray:
    """Change of each bond length with the positions of its molecule, (n_pairs, 3 n_atoms)."""
    members, ends = np.unique(pairs, return_inverse=True)
    first, second = ends.reshape(-1, 2).T
    vectors = atoms.positions[pairs[:, 1]] - atoms.positions[pairs[:, 0]]
    vectors, lengths = find_mic(vectors, atoms.cell, atoms.pbc)
    rows, changes = np.arange(len(pairs)), np.zeros((len(pairs), len(members), 3))
    changes[rows, second] = vectors / lengths[:, None]
    changes[rows, first] = -changes[rows, second]
    return changes.reshape(len(pairs), -1)
