"""Intervals have their nominal coverage and reduce to textbook cases."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from kdlib.claims.statistics import (
    Interval,
    by_row,
    crossed_interval,
    dominance,
    frame_bootstrap,
    front,
    log_binned,
    over_seeds,
    rank_correlation,
    ratio,
    slope,
    step_time,
    t_interval,
)


def test_t_interval_is_scipys():
    """Mean and ends agree with scipy's paired t-test; NaN are left out."""
    values = [0.3, 0.1, np.nan, 0.25, 0.4]
    found = t_interval(values)
    low, high = stats.ttest_1samp([0.3, 0.1, 0.25, 0.4], 0).confidence_interval(0.95)
    assert found == pytest.approx((0.2625, low, high, 4), rel=1e-12)


def test_one_run_gives_no_interval():
    """A single number has a mean and no interval; none at all has neither."""
    assert t_interval([0.5])[0] == 0.5
    assert np.isnan(t_interval([0.5]).low)
    assert t_interval([np.nan]).n == 0


def test_crossed_interval_with_one_architecture_is_the_t_interval():
    """One row or one column leaves nothing to cross."""
    values = np.random.default_rng(0).normal(size=(1, 5))
    assert crossed_interval(values) == t_interval(values)
    assert crossed_interval(values.T) == t_interval(values)


@pytest.mark.parametrize("shape", [(5, 4), (12, 12)])
@pytest.mark.parametrize("spread", [(0, 0), (0.2, 0), (0, 0.2), (0.2, 0.2)])
def test_crossed_interval_covers_the_mean(spread, shape):
    """At least 94 % of intervals hold the true mean, whatever architectures and seeds share."""
    rng, hits, n = np.random.default_rng(3), 0, 1500
    for _ in range(n):
        rows, columns = (s * rng.standard_normal(k) for s, k in zip(spread, shape, strict=True))
        x = 0.7 + rows[:, None] + columns + 0.1 * rng.standard_normal(shape)
        found = crossed_interval(x)
        hits += found.low <= 0.7 <= found.high
    assert hits / n > 0.94


def test_pooled_t_interval_would_not():
    """The reason for the crossed interval: pooling all cells misses the mean far too often."""
    rng, hits, n = np.random.default_rng(3), 0, 500
    for _ in range(n):
        x = 0.2 * rng.standard_normal(4) + 0.1 * rng.standard_normal((5, 4))
        found = t_interval(x)
        hits += found.low <= 0 <= found.high
    assert hits / n < 0.75


def test_crossed_interval_leaves_out_unpaired_architectures():
    """A row with a missing run does not enter the mean."""
    values = np.arange(12.0).reshape(3, 4)
    values[1, 2] = np.nan
    assert crossed_interval(values).value == pytest.approx(values[[0, 2]].mean())
    assert crossed_interval(values).n == 8


def test_ratio_of_constant_factor_is_exact():
    """If one error is 0.7 of the other everywhere, the ratio is 0.7 and has no width."""
    errors = np.random.default_rng(1).uniform(0.1, 0.2, (3, 4))
    found = ratio(0.7 * errors, errors)
    assert found[:3] == pytest.approx((0.7, 0.7, 0.7), rel=1e-12)
    swapped = ratio(errors, 0.7 * errors)
    assert swapped.value == pytest.approx(1 / 0.7, rel=1e-12)


def test_all_rows_are_covered_together():
    """Of equal networks, a row that seems different is found as rarely as the level says."""
    rng = np.random.default_rng(0)
    found = [by_row(rng.normal(scale=0.1, size=(5, 6))) for _ in range(2000)]
    missed = np.mean([any(one.low > 1 or one.high < 1 for one in rows) for rows in found])
    assert missed == pytest.approx(0.05, abs=0.012)


def test_slope_of_a_power_law():
    """The exponent of an exact power law is found with no width."""
    size = np.array([1e3, 1e4, 1e5, 1e6])
    found = slope(np.log(size), np.log(3 * size**0.35))
    assert found[:3] == pytest.approx((0.35, 0.35, 0.35), abs=1e-9)


def test_rank_correlation_ignores_monotonic_changes():
    """Spearman's correlation of x and exp(y) is that of x and y; noise alone is not decided."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    assert rank_correlation(x, np.exp(y)) == rank_correlation(x, y)
    assert rank_correlation(x, y).low > 0
    noise = rank_correlation(x, rng.normal(size=40))
    assert noise.low < 0 < noise.high


def test_perfect_correlation_has_an_interval():
    """Perfectly agreeing ranks are evidence, the stronger the more there are."""
    few, many = (rank_correlation(np.arange(n), np.arange(n) ** 3) for n in (6, 30))
    assert many.value == pytest.approx(1)
    assert 0 < few.low < many.low < 1


def test_bootstrap_has_no_width_when_every_frame_agrees():
    """Frames that all show the same ratio cannot move it, whatever their own errors."""
    squares = np.random.default_rng(0).gamma(2, 1, (2, 3, 50))
    assert frame_bootstrap(0.49 * squares, squares) == pytest.approx((0.7, 0.7), rel=1e-12)


def test_bootstrap_width_falls_with_the_number_of_frames():
    """Four times as many test frames halve the width."""
    rng = np.random.default_rng(0)
    few, many = (
        np.diff(np.log(frame_bootstrap(*rng.gamma(2, 1, (2, 1, n)), seed=1)))[0] for n in (100, 400)
    )
    assert few / many == pytest.approx(2, rel=0.3)


def test_over_seeds_is_a_geometric_mean_with_missing_runs():
    """Means over seeds multiply; a missing seed counts as absent, one seed has no interval."""
    array = xr.DataArray([[1.0, 4.0, np.nan], [3.0, np.nan, np.nan]], dims=("architecture", "seed"))
    found = over_seeds(array)
    assert found["mean"].values.tolist() == pytest.approx([2, 3])
    assert found["n"].values.tolist() == [2, 1]
    expected = t_interval(np.log([1.0, 4.0])).map(np.exp)
    assert float(found["low"][0]) == pytest.approx(expected.low)
    assert np.isnan(found["low"][1])


def test_log_bins_give_each_octave_the_same_weight():
    """A curve linear in log(epoch) has the same step from bin to bin."""
    epochs = np.arange(1, 4097)
    binned = log_binned(xr.DataArray(np.log(epochs), dims="epoch"), n_bins=12)
    assert binned.sizes["epoch"] == 12
    np.testing.assert_allclose(np.diff(binned)[4:], np.log(2), rtol=0.02)
    constant = log_binned(xr.DataArray(np.full(37, 0.7), dims="epoch"))
    np.testing.assert_allclose(constant, 0.7, rtol=1e-15)


def test_front_keeps_only_unbeaten_points():
    """A costlier point stays only if it is more accurate than all cheaper ones."""
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


@pytest.mark.parametrize(
    ("numbers", "unit", "text"),
    [
        ((1.0131, 1.0027, 1.0238), "1", "1.013 [1.003, 1.024]"),  # 1 lies outside, and looks so
        ((0.05535, -0.0001, 0.1666), "1", "0.055 [0.000, 0.167]"),
        ((123.456, 99.0, 150.0), "ps", "123.5 [99.0, 150.0] ps"),
        ((1.03, 1e-9, 9.2e13), "1", "1.030 [0.000, 9e13]"),  # two seeds leave an end undetermined
        ((0.9, np.nan, np.nan), "1", "0.900"),
        ((np.nan, np.nan, np.nan), "ps", "–"),
    ],
)
def test_an_interval_is_written_with_the_precision_of_its_estimate(numbers, unit, text):
    """Four digits, at most three decimals, so that a ratio is told apart from 1."""
    assert Interval(*numbers, 5).text(unit) == text
