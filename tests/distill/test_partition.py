"""Effect of a teacher's atomic energies, on the same frames."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib.distill import partition
from kdlib.distill.labeled import Pool
from kdlib.distill.partition import Gauge, columns
from kdlib.errors import InputError

#: Rounding of float64: of energies in eV, of forces in eV/Angstrom.
DOUBLE = 1e-9


@pytest.fixture(scope="module")
def compared(tiny, finished, tmp_path_factory):
    """Comparison at two seeds, with frames."""
    folder, outcome = finished
    pool = Pool(folder / "labels")
    learned, fresh = pool.before(outcome.final), pool.of(outcome.final)
    learned, fresh = pool.frames(learned), pool.frames(fresh)
    kept = tmp_path_factory.mktemp("partition")
    again = lambda: partition.compare(tiny, outcome, learned, fresh, kept, 2, 8)  # noqa: E731
    return again(), again, learned, outcome


def test_every_use_of_the_labels_is_another_training(compared):
    """Errors differ between the ways; each has every seed and state."""
    ds = compared[0]
    assert ds.labels.values.tolist() == list(partition.WAYS)
    assert ds.label_force_rmse.dims == ("labels", "seed", "state")
    energies = ds.label_energy_rmse.values
    assert np.isfinite(energies).all()
    assert len(np.unique(energies)) == energies.size


def test_a_fitted_gauge_brings_the_partitions_nearer(compared):
    """Least squares can only lower the difference."""
    _, before, after = compared[0].partition_difference.values
    assert after < before


def test_the_comparison_is_found_again(compared, monkeypatch):
    """The second call trains nothing and gives the same result."""
    ds, again = compared[:2]

    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("kdlib.training.loop.Loop.run_epoch", never)
    np.testing.assert_array_equal(again().label_force_rmse, ds.label_force_rmse)


def test_the_gauge_changes_partitions_not_energies(compared, tiny):
    """Frames with a fitted gauge have their energies, forces and stresses untouched."""
    _, _, learned, outcome = compared
    reduced = outcome.references.subtract(learned)
    rng = np.random.default_rng(0)
    natural = [a.calc.results["energies"] + rng.normal(size=len(a)) for a in reduced]
    gauge = partition.Gauge.fit(reduced, natural, tiny.cutoff)
    for old, new in zip(learned, partition._changed(learned, reduced, gauge), strict=True):
        assert new.calc.results["energy"] == old.calc.results["energy"]
        np.testing.assert_array_equal(new.calc.results["forces"], old.calc.results["forces"])
        moved = new.calc.results["energies"] - old.calc.results["energies"]
        assert abs(moved.sum()) < 1e-8
        assert abs(moved).max() > 0


CUTOFF = 5.0


def _labeled(seed, symbols=("Cu",)):
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
    atoms = _labeled(0, ("Cu", "Au"))
    found = columns(atoms, CUTOFF, (29, 79))
    np.testing.assert_allclose(found.sum(0), 0, atol=DOUBLE)
    assert (np.abs(found).max(0) > 1e-3).all()


def test_a_gauge_follows_rotations_and_the_order_of_atoms():
    """Changes of atomic energies are invariant to rotation and permutation."""
    atoms = _labeled(1)
    before = columns(atoms, CUTOFF, (29,))
    turned = atoms.copy()
    turned.rotate(37.0, (1, 2, 3), rotate_cell=True)
    order = np.random.default_rng(0).permutation(len(atoms))
    turned = turned[order]
    energies = atoms.calc.results["energies"][order]
    turned.calc = SinglePointCalculator(turned, energies=energies)
    np.testing.assert_allclose(columns(turned, CUTOFF, (29,)), before[order], atol=DOUBLE)


def test_another_partition_is_found_again():
    """A partition moved by a known gauge and constants of the species is fitted exactly."""
    frames = [_labeled(seed, ("Cu", "Au")) for seed in range(6)]
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
    fresh = _labeled(99, ("Cu", "Au"))
    wanted = columns(fresh, CUTOFF, (29, 79)) @ moves
    np.testing.assert_allclose(gauge.change(fresh), wanted, atol=0.02 * np.abs(wanted).max())


def test_its_own_partition_needs_no_gauge():
    """A partition fitted to itself stays what it is."""
    frames = [_labeled(seed) for seed in range(3)]
    gauge = Gauge.fit(frames, [a.calc.results["energies"] for a in frames], CUTOFF)
    np.testing.assert_allclose(gauge.coefficients, 0, atol=DOUBLE)


def test_arrays_must_fit_the_frames():
    """One array too few is an error, not a shifted fit."""
    with pytest.raises(InputError, match="one array"):
        Gauge.fit([_labeled(0), _labeled(1)], [np.zeros(32)], CUTOFF)
