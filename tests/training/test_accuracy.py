"""Pooled errors, by hand and against plain numpy."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, hipnn, teachers
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.training import accuracy
from kdlib.training.accuracy import against_teacher, student_parity

#: Rounding of float64: of energies in eV, of forces in eV/Angstrom.
DOUBLE = 1e-9


def test_error_sum_pools_batches_of_different_sizes():
    """The RMSE of all errors, not the mean of the batches' RMSEs."""
    sums = accuracy.PooledErrors()
    sums.add(np.array([3.0]))
    sums.add(np.array([[0.0, 0.0], [0.0, -4.0]]))
    assert sums.rmse == pytest.approx(5**0.5)
    assert sums.mae == pytest.approx(7 / 5)


def test_trimmed_rmse_leaves_out_the_largest_errors():
    """One outlier among a thousand drives the RMSE and not the trimmed one."""
    errors = np.ones(2000)
    errors[7] = 1e3
    assert accuracy.rmse(errors) > 20
    assert accuracy.trimmed_rmse(errors) == pytest.approx(1.0)


def test_evaluation_by_hand(emt_frames, small_config):
    """Every number of the test part against plain numpy."""
    split = datasets.split(emt_frames)
    potential = hipnn.Potential(hipnn.build(small_config, seed=1))
    other = hipnn.Potential(hipnn.build(small_config, seed=2))
    ds = accuracy.evaluate(potential, other.augment(emt_frames), split).sel(split="test")
    test = [emt_frames[k] for k in split.test]
    energy = [potential.predict([a]).energy.item() - a.get_potential_energy() for a in test]
    assert ds.cell_energy_rmse.item() == pytest.approx(np.sqrt(np.mean(np.square(energy))))
    assert ds.energy_mae.item() == pytest.approx(np.mean(np.abs(energy)) / 4)
    atomic = potential.predict(test).atomic_energies - other.predict(test).atomic_energies
    assert ds.atomic_energy_mae.item() == pytest.approx(abs(atomic).mean().item())
    np.testing.assert_allclose(ds.frame_energy_error, np.divide(energy, 4))
    assert list(ds.frame.values) == [int(a.info["frame"]) for a in test]
    squares = [((potential.predict([a]).forces.values - a.get_forces()) ** 2).sum() for a in test]
    per_frame = np.sqrt(np.divide(squares, 3 * ds.frame_n_atoms.values))
    assert ds.force_rmse_median.item() == pytest.approx(float(np.median(per_frame)))
    assert ds.force_worst_share.item() == pytest.approx(max(squares) / sum(squares))
    shares = np.square(energy) / np.square(energy).sum()
    assert ds.energy_worst_share.item() == pytest.approx(shares.max())


def test_errors_of_each_phase_add_up(emt_frames, small_config):
    """Weighted by their atoms, the squared errors of the phases are those of the test part."""
    split = datasets.split(emt_frames)
    frames = [atoms.copy() for atoms in emt_frames]
    for k, (old, new) in enumerate(zip(emt_frames, frames, strict=True)):
        new.calc, new.info["phase"] = old.calc, ("fcc", "liquid")[k % 2]
    potential = hipnn.Potential(hipnn.build(small_config, seed=1))
    ds = accuracy.evaluate(potential, frames, split).sel(split="test")
    assert ds.phase.values.tolist() == ["fcc", "liquid"]
    share = np.array([np.mean(split.test % 2 == k) for k in (0, 1)])
    pooled = np.sqrt((share * ds.phase_force_rmse.values**2).sum())
    assert ds.force_rmse.item() == pytest.approx(pooled)


def test_model_judged_by_its_own_predictions_has_no_error(emt_frames, small_config):
    """A reference that is the model itself: zero errors in every target and part."""
    potential = hipnn.Potential(hipnn.build(small_config, seed=1))
    frames = []
    for atoms in emt_frames:
        ds = potential.predict([atoms])
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, energy=ds.energy.item(), forces=ds.forces.values)
        frames.append(copy)
    ds = accuracy.evaluate(potential, frames, datasets.split(frames))
    assert ds.atomic_energy_rmse.isnull().all()  # these frames carry no atomic energies
    for name in ("energy_rmse", "force_rmse", "force_mae", "cell_energy_rmse"):
        np.testing.assert_allclose(ds[name].sel(split=["train", "valid", "test"]), 0, atol=1e-10)


@pytest.fixture(scope="module")
def teacher():
    """An untrained model in double precision, with a stress and atomic energies."""
    config = HipnnConfig(8, 8, 1, species=("Cu",), cutoff=5.0, soft_max=4.5, dtype="float64")
    return Potential(hipnn.build(config, seed=1))


@pytest.fixture
def frames(teacher):
    """Four cells labeled by it, two of them marked as melts."""
    teaching, found = teachers.load(teacher.calculator(device="cpu")), []
    for k in range(4):
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        atoms.rattle(0.1, seed=k)
        atoms.info["molten"] = k >= 2
        found.append(teaching.label(atoms))
    return found


def test_a_teacher_has_no_error_against_itself(teacher, frames):
    """Forces, energy and stress of its own labels are met to rounding, in solid and melt."""
    found = against_teacher(teacher, frames)
    assert [found[state]["n_frames"] for state in ("all", "solid", "molten")] == [4, 2, 2]
    for state in found.values():
        assert state["force_rms"] > 1e-3
        for name in ("force_rmse", "energy_rmse", "stress_rmse"):
            assert state[name] < 1e-10


def test_errors_are_pooled_and_by_state(teacher, frames):
    """Forces that are wrong by 0.3 in melts only show there; all pool solid and melt."""
    for atoms in frames[2:]:
        atoms.calc.results["forces"] = atoms.calc.results["forces"] + 0.3
        atoms.calc.results["energy"] += 0.02 * len(atoms)
        atoms.calc.results["stress"] = atoms.calc.results["stress"] + 0.001
    found = against_teacher(teacher, frames)
    assert found["solid"]["force_rmse"] < 1e-10
    assert found["molten"]["force_rmse"] == pytest.approx(0.3)
    assert found["all"]["force_rmse"] == pytest.approx(0.3 / np.sqrt(2))
    assert found["molten"]["energy_rmse"] == pytest.approx(0.02)
    assert found["molten"]["stress_rmse"] == pytest.approx(0.001)


def test_no_frame_no_number(teacher, frames):
    """Without melts their error is not a number."""
    assert np.isnan(against_teacher(teacher, frames[:2])["molten"]["force_rmse"])


def _difference(ds, name):
    return (ds[f"predicted_{name}"] - ds[f"reference_{name}"]).values


def test_a_teacher_is_on_the_diagonal(teacher, frames):
    """Energies, forces and atomic energies of its own labels, and as many points as there are."""
    ds = student_parity(teacher, frames)
    n_atoms = sum(len(atoms) for atoms in frames)
    assert dict(ds.sizes) == {"frame": 4, "sample": 3 * n_atoms, "atom": n_atoms}
    for name in ("energy", "force", "atomic"):
        assert ds[f"reference_{name}"].std() > 1e-5
        np.testing.assert_allclose(_difference(ds, name), 0, atol=DOUBLE)
    assert ds.frame_molten.values.tolist() == [0, 0, 1, 1]
    assert ds.sample_molten.sum() == ds.sizes["sample"] / 2


def test_points_of_a_melt_are_the_melts(teacher, frames):
    """Labels of melts that are wrong leave the diagonal there and nowhere else."""
    for atoms in frames[2:]:
        atoms.calc.results["forces"] = atoms.calc.results["forces"] + 0.3
        atoms.calc.results["energy"] += 0.02 * len(atoms)
    ds = student_parity(teacher, frames)
    np.testing.assert_allclose(_difference(ds, "energy"), -0.02 * ds.frame_molten, atol=DOUBLE)
    np.testing.assert_allclose(_difference(ds, "force"), -0.3 * ds.sample_molten, atol=DOUBLE)


def test_energies_above_the_mean_of_a_species_are_compared(teacher, frames):
    """A constant on every atomic energy is no difference."""
    for atoms in frames:
        atoms.calc.results["energies"] = atoms.calc.results["energies"] + 5.0
    ds = student_parity(teacher, frames)
    np.testing.assert_allclose(_difference(ds, "atomic"), 0, atol=DOUBLE)
    assert float(ds.reference_atomic.mean()) == pytest.approx(0, abs=DOUBLE)


def test_coordination_of_close_packing_is_twelve_in_any_material(emt_frames):
    """The first shell follows from the distances of nearest neighbors; aluminum keeps 3.9."""
    assert accuracy.first_shell_of(emt_frames) == accuracy.FIRST_SHELL
    copper = bulk("Cu", a=3.6, cubic=True)
    for a in (3.7, 3.8, 3.9, 4.0, 4.1):
        alloy = bulk("Cu", a=a, cubic=True)
        alloy.symbols[:2] = "Au"
        radius = accuracy.first_shell_of([alloy, copper, alloy])
        assert set(accuracy._coordination(alloy, radius)) == {12}
