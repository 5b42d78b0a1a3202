"""The gauge of atomic energies: what a partition may change, and what it must leave alone."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib.distill.partition import Gauge, columns
from kdlib.errors import InputError

CUTOFF = 5.0


def _labelled(seed, symbols=("Cu",)):
    atoms = bulk("Cu", cubic=True).repeat(2)
    rng = np.random.default_rng(seed)
    atoms.symbols = rng.choice(symbols, len(atoms))
    atoms.rattle(0.2, seed=seed)
    atoms.calc = EMT()
    energies = atoms.get_potential_energies()
    atoms.calc = SinglePointCalculator(atoms, energy=energies.sum(), energies=energies)
    return atoms


def test_a_gauge_leaves_every_energy_alone():
    """Each column adds up to zero over the cell, and does change atoms."""
    atoms = _labelled(0, ("Cu", "Au"))
    found = columns(atoms, CUTOFF, (29, 79))
    np.testing.assert_allclose(found.sum(0), 0, atol=1e-9)
    assert (np.abs(found).max(0) > 1e-3).all()


def test_a_gauge_follows_rotations_and_the_order_of_atoms():
    """Changes belong to atoms: no axis and no numbering enters."""
    atoms = _labelled(1)
    before = columns(atoms, CUTOFF, (29,))
    turned = atoms.copy()
    turned.rotate(37.0, (1, 2, 3), rotate_cell=True)
    order = np.random.default_rng(0).permutation(len(atoms))
    turned = turned[order]
    energies = atoms.calc.results["energies"][order]
    turned.calc = SinglePointCalculator(turned, energies=energies)
    np.testing.assert_allclose(columns(turned, CUTOFF, (29,)), before[order], atol=1e-9)


def test_another_partition_is_found_again():
    """A partition moved by a known gauge and constants of the species is fitted exactly."""
    frames = [_labelled(seed, ("Cu", "Au")) for seed in range(6)]
    n_columns = columns(frames[0], CUTOFF, (29, 79)).shape[1]
    moves = np.random.default_rng(1).normal(size=n_columns) * 0.01
    natural = []
    for atoms in frames:
        constants = np.where(atoms.numbers == 29, 0.7, -0.2)
        change = columns(atoms, CUTOFF, (29, 79)) @ moves
        natural.append(atoms.calc.results["energies"] + change + constants)
    gauge = Gauge.fit(frames, natural, CUTOFF)
    assert gauge.before > 0.01
    assert gauge.after < 1e-3 * gauge.before
    fresh = _labelled(99, ("Cu", "Au"))
    wanted = columns(fresh, CUTOFF, (29, 79)) @ moves
    np.testing.assert_allclose(gauge.change(fresh), wanted, atol=0.02 * np.abs(wanted).max())


def test_its_own_partition_needs_no_gauge():
    """A partition fitted to itself stays what it is."""
    frames = [_labelled(seed) for seed in range(3)]
    gauge = Gauge.fit(frames, [a.calc.results["energies"] for a in frames], CUTOFF)
    np.testing.assert_allclose(gauge.coefficients, 0, atol=1e-9)


def test_arrays_must_fit_the_frames():
    """One array too few is an error, not a shifted fit."""
    with pytest.raises(InputError, match="one array"):
        Gauge.fit([_labelled(0), _labelled(1)], [np.zeros(32)], CUTOFF)
