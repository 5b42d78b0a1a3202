"""95 % intervals over training runs, for figures and claims.

The unit of every interval is a training run. Errors are positive and their spread grows with their
size, so they are averaged and compared as logarithms.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

#: Probability that an interval covers the true value.
LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    """NaN, like ``high``, where a single run gives no interval."""
    high: float
    n: int
    """Number of independent runs, or pairs of runs."""

    def map(self, function: Callable[[float], float]) -> "Interval":
        """Interval of an increasing function of the estimate."""
        return Interval(*(float(function(x)) for x in self[:3]), self.n)

    def text(self, unit: str = "1") -> str:
        """Estimate, and its ends if it has any; unit 1 is left out."""
        if not np.isfinite(self.value):
            return "–"
        value, low, high = written(*self[:3])
        ends = f" [{low}, {high}]" if np.isfinite(self.low) and np.isfinite(self.high) else ""
        return value + ends + ("" if unit == "1" else f" {unit}")


def written(*numbers: float) -> list[str]:
    """Numbers with the decimals that give the first four digits, at most three.

    Ratios near 1 are told apart from 1, and ends keep the precision of their estimate. What is
    beyond ten thousand is its order of magnitude: two seeds may leave an end undetermined.
    """
    decimals = int(np.clip(3 - np.floor(np.log10(max(abs(numbers[0]), 1e-9))), 0, 3))
    return [
        f"{x:.0e}".replace("e+", "e")
        if abs(x) >= 1e4
        else f"{round(x, decimals) + 0.0:.{decimals}f}"  # no minus before zero
        for x in map(float, numbers)
    ]


MISSING = Interval(np.nan, np.nan, np.nan, 0)


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of independent values, one per run, with its t-interval; NaN are ignored."""
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if not x.size:
        return MISSING
    if x.size == 1:
        return Interval(float(x[0]), np.nan, np.nan, 1)
    half = stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), x.size)


def crossed_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    r"""Mean over a grid of architectures and seeds, both random, with its interval.

    All students of one seed learn from the same teacher, and an architecture may suit one method
    better than another, so the cells of the grid are not independent. In the crossed model

    .. math:: x_{as} = \mu + \alpha_a + \sigma_s + \varepsilon_{as}

    the variance of the grand mean is estimated by :math:`(M_a + M_s - M_e) / (n_a n_s)` from the
    mean squares, at least :math:`\max(M_a, M_s, M_e) / (n_a n_s)`, with the degrees of freedom of
    the terms that enter (Satterthwaite, Biometrics Bull. 2, 110 (1946)).

    Parameters
    ----------
    values
        (n_architectures, n_seeds); rows, then columns, with a missing cell are omitted.
    """
    x = np.asarray(values, dtype=float)
    # The mean squares need a full grid.
    x = x[np.isfinite(x).any(axis=1)][:, np.isfinite(x).any(axis=0)]
    x = x[np.isfinite(x).all(axis=1)] if np.isfinite(x).all(axis=1).any() else x
    x = x[:, np.isfinite(x).all(axis=0)]
    n_a, n_s = x.shape
    if min(n_a, n_s) < 2:
        return t_interval(x, level)
    mean = x.mean()
    rows, columns = x.mean(axis=1) - mean, x.mean(axis=0) - mean
    rest = x - mean - rows[:, None] - columns
    freedom = np.array([n_a - 1, n_s - 1, (n_a - 1) * (n_s - 1)])
    squares = np.array([n_s * rows @ rows, n_a * columns @ columns, (rest**2).sum()]) / freedom
    sign = np.array([1, 1, -1])
    # With few cells the estimate can be too small, even negative, so the largest term bounds it.
    if sign @ squares <= squares.max():
        kept = squares == squares.max()
        variance, df = squares.max(), float(freedom[kept].max())
    else:
        variance = float(sign @ squares)
        df = variance**2 / float((squares**2 / freedom).sum())
    half = stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance / x.size)
    return Interval(float(mean), float(mean - half), float(mean + half), x.size)


def ratio(numerator: ArrayLike, denominator: ArrayLike, level: float = LEVEL) -> Interval:
    """Geometric mean of the ratio of paired positive values over architectures and seeds.

    Both arrays are (n_architectures, n_seeds) or (n_seeds,), in the same unit.
    """
    # The difference is taken pair by pair, so that what a pair shares cancels.
    logs = np.log(np.asarray(numerator, dtype=float)) - np.log(np.asarray(denominator, dtype=float))
    interval = crossed_interval(logs, level) if logs.ndim == 2 else t_interval(logs, level)
    return interval.map(np.exp)


def by_row(logs: ArrayLike, level: float = LEVEL) -> list[Interval]:
    """Geometric mean of each row of log-ratios, (n_rows, n_seeds), with its interval.

    All of the intervals cover their true values with the probability ``level`` (Bonferroni), so
    that the rows can be searched for one that contradicts a statement on all.
    """
    rows = np.asarray(logs, dtype=float)
    strict = 1 - (1 - level) / max(len(rows), 1)
    return [t_interval(row, strict).map(np.exp) for row in rows]


def slope(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Interval:
    """Least-squares slope of y against x with its t-interval; n - 2 degrees of freedom."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    kept = np.isfinite(x) & np.isfinite(y)
    n = int(kept.sum())
    if n < 2 or np.ptp(x[kept]) == 0:
        return MISSING
    fit = stats.linregress(x[kept], y[kept])
    if n == 2:
        return Interval(float(fit.slope), np.nan, np.nan, n)
    half = stats.t.ppf((1 + level) / 2, n - 2) * fit.stderr
    return Interval(float(fit.slope), float(fit.slope - half), float(fit.slope + half), n)


def rank_correlation(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Interval:
    """Spearman's correlation with Fisher's interval, variance 1.06/(n - 3).

    See Fieller, Hartley & Pearson, Biometrika 44, 470 (1957).
    """
    x, y = np.ravel(np.asarray(x, dtype=float)), np.ravel(np.asarray(y, dtype=float))
    kept = np.isfinite(x) & np.isfinite(y)
    n = int(kept.sum())
    if n < 3 or np.ptp(x[kept]) == 0 or np.ptp(y[kept]) == 0:
        return MISSING
    rho = float(stats.spearmanr(x[kept], y[kept]).statistic)
    if n < 5:
        return Interval(rho, np.nan, np.nan, n)
    # arctanh(1) is infinite: treat perfect agreement as one swapped pair of neighboring ranks.
    bound = 1 - 12 / (n * (n**2 - 1))
    center = np.arctanh(np.clip(rho, -bound, bound))
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(1.06 / (n - 3))
    return Interval(rho, float(np.tanh(center - half)), float(np.tanh(center + half)), n)


def frame_bootstrap(
    numerator: ArrayLike,
    denominator: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile interval of the mean RMSE ratio when the test frames are resampled.

    It shows how far the finite test set alone could move the ratio of these trained models.

    Parameters
    ----------
    numerator, denominator
        Mean-square errors per frame, (..., n_frames); the leading axes are runs.
    weights
        Atoms per frame, (n_frames,); equal if None.
    """
    a, b = (np.asarray(x, dtype=float) for x in (numerator, denominator))
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    runs = np.isfinite(a).any(axis=1) & np.isfinite(b).any(axis=1)
    if not runs.any():
        return np.nan, np.nan
    a, b = a[runs], b[runs]
    frames = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    w = np.ones(a.shape[1]) if weights is None else np.asarray(weights, dtype=float)
    n = int(frames.sum())
    # Both models see the same drawn frames, so the difficulty of a frame cancels in the ratio.
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_resamples) * w[frames]
    logs = 0.5 * (np.log(drawn @ a[:, frames].T) - np.log(drawn @ b[:, frames].T)).mean(axis=1)
    low, high = np.exp(np.quantile(logs, [(1 - level) / 2, (1 + level) / 2]))
    return float(low), float(high)


def over_seeds(array: xr.DataArray, dim: str = "seed") -> xr.Dataset:
    """Geometric mean of a positive array over seeds with its t-interval, element by element.

    Returns
    -------
    xr.Dataset
        ``mean``, ``low``, ``high`` in the array's unit and ``n``; ``low`` and ``high`` are NaN
        where fewer than two seeds are finite.
    """
    logs = np.log(array.where(array > 0))
    n = logs.notnull().sum(dim)
    mean = logs.mean(dim)
    spread = np.sqrt(((logs - mean) ** 2).sum(dim) / (n - 1).where(n > 1))
    half = xr.apply_ufunc(stats.t.ppf, (1 + LEVEL) / 2, (n - 1).where(n > 1)) * spread / np.sqrt(n)
    return xr.Dataset(
        {"mean": np.exp(mean), "low": np.exp(mean - half), "high": np.exp(mean + half), "n": n}
    )


def log_binned(curves: xr.DataArray, dim: str = "epoch", n_bins: int = 24) -> xr.DataArray:
    """Means over bins of equal width in log(epoch), counted from 1; their coordinate is the mean.

    The mean over these bins gives each factor of two in training length the same weight. There are
    fewer than ``n_bins`` where a bin would hold no epoch.
    """
    position = np.arange(1, curves.sizes[dim] + 1)
    edges = np.unique(np.geomspace(1, position.size + 1, n_bins + 1).round().astype(int))
    parts = []
    for low, high in zip(edges, edges[1:], strict=False):
        part = curves.isel({dim: slice(low - 1, high - 1)}).mean(dim)
        parts.append(part.assign_coords({dim: float(position[low - 1 : high - 1].mean())}))
    return xr.concat(parts, dim)


def step_time(ds: xr.Dataset) -> tuple[xr.DataArray, dict[str, int]]:
    """Time per MD step of each model and backend, at the largest cell that all its models ran.

    Returns the median over repeats, (architecture, backend), us/atom/step, and the number of atoms
    per backend.
    """
    total = ds.step_time.sel(component="total").median("repeat", keep_attrs=True)
    atoms: dict[str, int] = {}
    chosen = []
    for backend in total.backend.values.tolist():
        times = total.sel(backend=backend)
        ran = times.notnull()
        # Ignore architectures that never ran on this backend.
        complete = (ran | ~ran.any("n_atoms")).all("architecture") & ran.any("architecture")
        usable = complete if complete.any() else ran.any("architecture")
        sizes = times.n_atoms.values[usable.values]
        atoms[backend] = int(sizes.max()) if sizes.size else int(times.n_atoms.values[0])
        chosen.append(times.sel(n_atoms=atoms[backend], drop=True))
    return xr.concat(chosen, "backend").transpose("architecture", "backend"), atoms


def front(cost: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pareto front: points that no other point beats in both cost and error, ordered by cost.

    Both arrays are (n,); smaller is better; NaN are ignored.
    """
    kept = np.isfinite(cost) & np.isfinite(error)
    order = np.lexsort((error[kept], cost[kept]))
    cost, error = cost[kept][order], error[kept][order]
    # In the order of cost, a point is on the front if it is better than all cheaper ones.
    best = np.minimum.accumulate(np.append(np.inf, error))[:-1]
    return cost[error < best], error[error < best]


def dominance(cost: ArrayLike, error: ArrayLike, other: ArrayLike) -> tuple[Interval, int, int]:
    """Ratio of the best error affordable at a cost, at the least favorable cost level.

    Parameters
    ----------
    cost
        (n_architectures,), any unit.
    error, other
        (n_architectures, n_seeds) errors of the two sets, paired by column.

    Returns
    -------
    tuple
        Interval of the ratio error/other at the deciding level, the position of its architecture,
        and the number of levels.
    """
    cost, error, other = (np.asarray(x, dtype=float) for x in (cost, error, other))
    # Only runs that both sets have: otherwise the set with more runs has more chances to be best.
    paired = np.isfinite(error) & np.isfinite(other) & np.isfinite(cost)[:, None]
    error, other = np.where(paired, error, np.inf), np.where(paired, other, np.inf)
    levels = np.flatnonzero(paired.any(axis=1))
    if not levels.size:
        return MISSING, -1, 0
    logs = {}
    for level in levels:
        # A user with this budget takes the best model that costs no more, per seed.
        affordable = cost <= cost[level]
        best, other_best = error[affordable].min(axis=0), other[affordable].min(axis=0)
        seeds = np.isfinite(best) & np.isfinite(other_best)
        logs[int(level)] = np.log(best[seeds]) - np.log(other_best[seeds])
    # One level above one disproves dominance. Looking at all levels for it is a search, hence
    # Bonferroni's correction.
    strict = 1 - (1 - LEVEL) / levels.size
    against = {level: t_interval(values, strict) for level, values in logs.items()}
    worst = max(against, key=lambda level: np.nan_to_num(against[level].low, nan=-np.inf))
    if against[worst].low > 0:
        return against[worst].map(np.exp), worst, levels.size
    # Dominance holds only if the ratio is below one at every level, so the highest upper end
    # decides: an intersection-union test, which needs no correction.
    found = {level: t_interval(values) for level, values in logs.items()}
    worst = max(found, key=lambda level: _upper(found[level]))
    return found[worst].map(np.exp), worst, levels.size


def _upper(interval: Interval) -> float:
    return interval.high if np.isfinite(interval.high) else np.inf
