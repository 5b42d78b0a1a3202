"""Trade-off of cost and error: time per MD step of each model, Pareto fronts, their comparison."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from kdlib.claims.statistics import LEVEL
from kdlib.claims.statistics import MISSING
from kdlib.claims.statistics import Interval
from kdlib.claims.statistics import t_interval


def step_time(ds: xr.Dataset) -> tuple[xr.DataArray, dict[str, int]]:
    """Time per MD step of each model and backend, at the largest cell that all its models ran.

    Parameters
    ----------
    ds
        Speed results.

    Returns
    -------
    Median over repeats, (architecture, backend), us/atom/step, and the number of atoms per backend.
    """
    total = ds.step_time.sel(component="total").median("repeat", keep_attrs=True)
    atoms: dict[str, int] = {}
    chosen = []
    for backend in total.backend.values.tolist():
        times = total.sel(backend=backend)
        ran = times.notnull()
        # An architecture that never ran on this backend does not count.
        complete = (ran | ~ran.any("n_atoms")).all("architecture") & ran.any("architecture")
        usable = complete if complete.any() else ran.any("architecture")
        sizes = times.n_atoms.values[usable.values]
        atoms[backend] = int(sizes.max()) if sizes.size else int(times.n_atoms.values[0])
        chosen.append(times.sel(n_atoms=atoms[backend], drop=True))
    return xr.concat(chosen, "backend").transpose("architecture", "backend"), atoms


def front(cost: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points that no other point beats in cost and error at once, in the order of cost.

    Parameters
    ----------
    cost, error
        (n,), any unit; smaller is better. NaN are left out.
    """
    kept = np.isfinite(cost) & np.isfinite(error)
    order = np.lexsort((error[kept], cost[kept]))
    cost, error = cost[kept][order], error[kept][order]
    best = np.minimum.accumulate(np.append(np.inf, error))[:-1]
    return cost[error < best], error[error < best]


def dominance(cost: ArrayLike, error: ArrayLike, other: ArrayLike) -> tuple[Interval, int, int]:
    """Ratio of the best error affordable at a cost, at the cost level least in favour.

    One set dominates another if its ratio is below one at *every* cost level. So the level with the
    highest upper end decides (an intersection-union test, which needs no correction). A level whose
    Bonferroni-corrected interval lies above one disproves dominance and is then returned.

    Parameters
    ----------
    cost
        (n_architectures,), any unit.
    error, other
        (n_architectures, n_seeds) errors of the two sets, paired by column.

    Returns
    -------
    Interval of the ratio error/other at the deciding level, the position of its architecture, and
    the number of levels.
    """
    cost, error, other = (np.asarray(x, dtype=float) for x in (cost, error, other))
    paired = np.isfinite(error) & np.isfinite(other) & np.isfinite(cost)[:, None]
    error, other = np.where(paired, error, np.inf), np.where(paired, other, np.inf)
    levels = np.flatnonzero(paired.any(axis=1))
    if not levels.size:
        return MISSING, -1, 0
    logs = {}
    for level in levels:
        affordable = cost <= cost[level]
        best, other_best = error[affordable].min(axis=0), other[affordable].min(axis=0)
        seeds = np.isfinite(best) & np.isfinite(other_best)
        logs[int(level)] = np.log(best[seeds]) - np.log(other_best[seeds])
    strict = 1 - (1 - LEVEL) / levels.size
    against = {level: t_interval(values, strict) for level, values in logs.items()}
    worst = max(against, key=lambda level: np.nan_to_num(against[level].low, nan=-np.inf))
    if against[worst].low > 0:
        return against[worst].map(np.exp), worst, levels.size
    found = {level: t_interval(values) for level, values in logs.items()}
    worst = max(found, key=lambda level: _upper(found[level]))
    return found[worst].map(np.exp), worst, levels.size


def _upper(interval: Interval) -> float:
    return interval.high if np.isfinite(interval.high) else np.inf
