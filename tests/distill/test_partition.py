"""What a teacher's atomic energies bring, on the same frames."""

import numpy as np
import pytest

from kdlib.distill import partition
from kdlib.distill.labeled import Pool

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tiny, finished, tmp_path_factory):
    """Comparison at two seeds, with frames."""
    folder, outcome = finished
    pool = Pool(folder / "labels")
    learnt, fresh = pool.before(outcome.final), pool.of(outcome.final)
    learnt, fresh = pool.frames(learnt), pool.frames(fresh)
    kept = tmp_path_factory.mktemp("partition")
    again = lambda: partition.compare(tiny, outcome, learnt, fresh, kept, 2, 20)  # noqa: E731
    return again(), again, learnt, outcome


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
    """The second call trains nothing and says the same."""
    ds, again = compared[:2]

    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("kdlib.training.loop.Loop.run_epoch", never)
    np.testing.assert_array_equal(again().label_force_rmse, ds.label_force_rmse)


def test_the_gauge_changes_partitions_not_energies(compared, tiny):
    """Frames with a fitted gauge have their energies, forces and stresses untouched."""
    _, _, learnt, outcome = compared
    reduced = outcome.references.subtract(learnt)
    rng = np.random.default_rng(0)
    natural = [a.calc.results["energies"] + rng.normal(size=len(a)) for a in reduced]
    gauge = partition.Gauge.fit(reduced, natural, tiny.cutoff)
    for old, new in zip(learnt, partition._changed(learnt, reduced, gauge), strict=True):
        assert new.calc.results["energy"] == old.calc.results["energy"]
        np.testing.assert_array_equal(new.calc.results["forces"], old.calc.results["forces"])
        moved = new.calc.results["energies"] - old.calc.results["energies"]
        assert abs(moved.sum()) < 1e-8
        assert abs(moved).max() > 0
