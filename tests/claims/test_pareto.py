"""Pareto fronts, and when one set of models dominates another."""

import numpy as np
import pytest
import xarray as xr

from kdlib.claims.statistics import dominance, front, step_time


def test_front_keeps_only_unbeaten_points():
    """A dearer point stays only if it is more accurate than all cheaper ones."""
    cost = np.array([4.0, 1.0, 2.0, 3.0, np.nan])
    error = np.array([0.1, 0.5, 0.6, 0.3, 0.0])
    x, y = front(cost, error)
    assert x.tolist() == [1, 3, 4]
    assert y.tolist() == [0.5, 0.3, 0.1]


def test_of_equally_dear_points_the_best_counts():
    """Two points at one cost: only the more accurate one is on the front."""
    x, y = front(np.array([1.0, 1.0]), np.array([0.4, 0.2]))
    assert (x.tolist(), y.tolist()) == ([1], [0.2])


def _errors(ratios, noise=0.01, seeds=4):
    rng = np.random.default_rng(0)
    control = np.array([0.2, 0.15, 0.1])[:, None] * np.exp(noise * rng.standard_normal((3, seeds)))
    student = control * np.array(ratios)[:, None] * np.exp(noise * rng.standard_normal((3, seeds)))
    return np.array([1.0, 2.0, 4.0]), student, control


def test_better_everywhere_is_dominance():
    """With every ratio at 0.8, the deciding level's whole interval lies below one."""
    found, _, levels = dominance(*_errors([0.8, 0.8, 0.8]))
    assert levels == 3
    assert found.high < 1
    assert found.value == pytest.approx(0.8, rel=0.03)


def test_better_on_average_is_not_dominance():
    """One cost level without a gain is enough to leave dominance undecided, and it is named."""
    found, level, _ = dominance(*_errors([1.0, 0.5, 0.5]))
    assert level == 0
    assert found.low < 1 < found.high


def test_worse_at_one_cost_disproves_dominance():
    """A level where the set is clearly worse decides against it."""
    found, level, _ = dominance(*_errors([1.3, 0.8, 0.8]))
    assert level == 0
    assert found.low > 1


def test_a_cheaper_model_may_be_used_at_a_higher_cost():
    """A bad large student does no harm where a smaller, cheaper student is better."""
    cost, student, control = _errors([0.3, 3.0, 3.0])
    found, _, _ = dominance(cost, student, control)
    assert found.high < 1


def test_step_time_takes_the_largest_cell_that_all_models_ran():
    """One stock model lacks the large cell, so all stock models are compared in the small one."""
    times = np.ones((2, 2, 2, 1, 3))
    times[:, :, 1] = 2.0
    times[1, 0, 1] = np.nan
    ds = xr.Dataset(
        {"step_time": (("architecture", "backend", "n_atoms", "component", "repeat"), times)},
        {
            "architecture": ["16-8-1", "128-40-4"],
            "backend": ["hippynn", "fused"],
            "n_atoms": [500, 4000],
            "component": ["total"],
        },
    )
    table, atoms = step_time(ds)
    assert atoms == {"hippynn": 500, "fused": 4000}
    assert table.sel(backend="hippynn").values.tolist() == [1, 1]
    assert table.sel(backend="fused").values.tolist() == [2, 2]
