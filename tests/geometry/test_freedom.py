"""Degrees of freedom under ASE's constraints."""

import numpy as np
import pytest
from ase import Atoms, constraints
from ase.build import bulk, molecule
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixScaled,
    FixSubsetCom,
    Hookean,
)

from kdlib import units
from kdlib.errors import InputError
from kdlib.geometry.freedom import Freedom


def crystal(*held: object) -> Atoms:
    """Cube of 32 copper atoms."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.set_constraint(list(held))
    return atoms


ALL = range(32)
COUNTED = {
    "free": ([], 93, 3),
    "fixed atoms": ([FixAtoms([0, 5])], 90, 0),
    "all fixed": ([FixAtoms(ALL)], 0, 0),
    "fixed twice": ([FixAtoms([0, 1]), FixAtoms([1, 2])], 87, 0),
    "two dimensions": ([FixCartesian(ALL, (False, False, True))], 62, 2),
    "one atom in a plane": ([FixedPlane([3], (1, 1, 0))], 93, 2),
    "two atoms on lines": ([FixedLine([3, 4], (1, 2, 0))], 91, 1),
    "planes and fixed": ([FixedPlane([3, 4], (1, 0, 2)), FixAtoms([5])], 91, 0),
    "scaled": ([FixScaled([2], (True, True, False))], 93, 1),
    "center of mass": ([FixCom()], 93, 0),
    "bonds": ([FixBondLengths([(0, 1), (4, 9)])], 91, 3),
    "a bond given twice": ([FixBondLengths([(0, 1), (1, 0)])], 92, 3),
    "bonds counted from the last atom": ([FixBondLengths([(0, -31), (4, -23)])], 91, 3),
    "bonds beside fixed atoms": ([FixBondLengths([(0, 1)]), FixAtoms([7])], 92, 0),
    "bonds and center of mass": ([FixBondLengths([(0, 1)]), FixCom()], 92, 0),
    "spring between atoms": ([Hookean(0, 1, 5.0, rt=2.0)], 93, 3),
    "spring to a point": ([Hookean(0, (0.0, 0.0, 0.0), 5.0, rt=2.0)], 96, 0),
}


@pytest.mark.parametrize("name", COUNTED)
def test_degrees_of_freedom(name):
    """The count, and the number of directions in which all atoms may drift, follow by hand."""
    held, count, n_drifts = COUNTED[name]
    found = Freedom.of(crystal(*held))
    assert (found.count, len(found.drifts)) == (count, n_drifts)
    np.testing.assert_allclose(found.drifts @ found.drifts.T, np.eye(n_drifts), atol=1e-12)


def test_a_rigid_molecule_has_six_degrees_of_freedom():
    """Five atoms with all ten distances fixed turn and drift; one of the distances is redundant."""
    atoms = molecule("CH4")
    pairs = [(i, j) for i in range(5) for j in range(i)]
    atoms.set_constraint(FixBondLengths(pairs))
    assert Freedom.of(atoms).count == 6 - 3


def test_a_single_atom_has_its_own_motion():
    """Its center of mass is all that can move, unless that is fixed."""
    atoms = Atoms("Cu")
    assert Freedom.of(atoms).count == 3
    atoms.set_constraint(FixedPlane([0], (0, 0, 1)))
    assert Freedom.of(atoms).count == 2
    atoms.set_constraint(FixCom())
    assert Freedom.of(atoms).count == 0


def test_temperature_is_that_of_the_motion_beyond_drift():
    """A drift along the directions that are free changes nothing, one across them does."""
    atoms = crystal(FixCartesian(ALL, (False, False, True)))
    momenta = np.random.default_rng(0).normal(size=(32, 3)) * [1, 1, 0]
    mass = atoms.get_masses()
    momenta -= momenta.mean(axis=0)

    def temperature(velocity: list[float]) -> float:
        p = momenta + mass[:, None] * velocity
        kinetic = (p**2 / mass[:, None]).sum() / 2
        return Freedom.of(atoms).temperature(kinetic, p.sum(axis=0), mass.sum())

    expected = (momenta**2 / mass[:, None]).sum() / (62 * units.KB)
    assert temperature([0.0, 0.0, 0.0]) == pytest.approx(expected, rel=1e-12)
    assert temperature([0.3, -0.2, 0.0]) == pytest.approx(expected, rel=1e-9)
    assert temperature([0.0, 0.0, 0.3]) > 1.1 * expected


UNKNOWN = {
    "FixSubsetCom": [FixSubsetCom([0, 1])],
    "FixInternals": [constraints.FixInternals(bonds=[[2.5, [0, 1]]])],
    "FixLinearTriatomic": [constraints.FixLinearTriatomic([(0, 1, 2)])],
    "ExternalForce": [constraints.ExternalForce(0, 1, 0.5)],
    "FixedMode": [constraints.FixedMode(np.ones((32, 3)))],
    "MirrorForce": [constraints.MirrorForce(0, 1)],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_constraints_are_named(name):
    """A constraint that ASE's MD or its count of degrees of freedom gets wrong is refused."""
    with pytest.raises(InputError, match=rf"^MD: how {name} changes the temperature is not known"):
        Freedom.of(crystal(*UNKNOWN[name]))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([FixAtoms([0]), FixCom()], "FixCom moves atoms that are held by FixAtoms"),
        ([FixAtoms([0]), FixBondLengths([(0, 1)])], "held by FixBondLengths and again by"),
        ([FixAtoms([-1]), FixBondLengths([(0, 31)])], "held by FixBondLengths and again by"),
        ([FixAtoms([7, 32])], "^MD: FixAtoms holds atom 32, but there are 32$"),
        ([FixBondLengths([(0, -33)])], "^MD: FixBondLengths holds atom -33, but there are 32$"),
        ([FixBondLengths([(0, 1)]), FixBondLengths([(1, 2)])], "and again by one of FixBondLen"),
        ([FixedPlane([7], (1, 1, 0)), FixedPlane([7], (1, 0, 0))], "left to atom 7 by FixedPlane"),
    ],
)
def test_constraints_that_contradict_each_other_are_named(held, message):
    """Constraints that ASE applies one after the other must not undo each other."""
    with pytest.raises(InputError, match=message):
        Freedom.of(crystal(*held))


def test_scaled_directions_of_an_oblique_cell_are_refused():
    """ASE holds momenta along the wrong directions there."""
    atoms = bulk("Cu")
    atoms.set_constraint(FixScaled([0], (False, False, True)))
    with pytest.raises(InputError, match="left to atom 0 by FixScaled are not clear"):
        Freedom.of(atoms)
