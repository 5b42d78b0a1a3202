"""Pooled errors, by hand and against plain numpy."""

import numpy as np
import pytest

from kdlib import datasets, hipnn
from kdlib.training import accuracy


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


def test_model_judged_by_its_own_predictions_has_no_error(emt_frames, small_config):
    """A reference that is the model itself: zero errors in every target and part."""
    from ase.calculators.singlepoint import SinglePointCalculator

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
