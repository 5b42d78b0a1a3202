"""Evidence for the claims: from result Datasets to a number, its interval and its grounds.

A measure takes the results by kind and returns a `Finding`, or raises `Missing` where data are
absent. ``cost`` is "time" or "memory".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from kdlib.claims.statistics import (
    LEVEL,
    MISSING,
    Interval,
    by_row,
    crossed_interval,
    dominance,
    frame_bootstrap,
    log_binned,
    rank_correlation,
    ratio,
    slope,
    step_time,
    t_interval,
)
from kdlib.results.schema import ROLE_NAMES

Results = Mapping[str, xr.Dataset]


class Missing(LookupError):
    """Data that a claim needs and no result file holds."""


@dataclass(frozen=True)
class Finding:
    """Evidence for one claim."""

    interval: Interval
    """Estimate and its interval, in the claim's unit."""
    grounds: str
    """What the number was computed from, in words."""
    noise: tuple[float, float] = (np.nan, np.nan)
    """Interval from resampling the test frames; NaN where it does not apply."""
    worst_share: float = np.nan
    """Share of one test frame in the squared errors compared; NaN where it does not apply."""
    floor_gains: Mapping[str, np.ndarray] = field(default_factory=dict)
    """For each role whose trainings are compared, what doubling the epochs gains at each
    architecture compared, relative; NaN where it was not checked.
    """
    alone: Mapping[str, Interval] = field(default_factory=dict)
    """Estimate at each architecture alone, if there are several; the intervals are corrected for
    their number.
    """


Measure = Callable[[Results], Finding]


def find(measure: Measure, results: Results) -> Finding:
    """Apply a measure; where data are missing, the grounds of the empty finding say why."""
    try:
        return measure(results)
    except Missing as gap:
        return Finding(MISSING, str(gap))


def error_ratio(variable: str, role: str, other: str, kind: str = "accuracy") -> Measure:
    """Error of ``role`` over that of ``other``, paired by architecture and seed.

    ``variable`` is ``force_rmse``, ``energy_rmse`` (test part) or an RDF error, of a ``kind`` of
    results.
    """

    def measure(results: Results) -> Finding:
        a, b = (errors(results, variable, name, kind) for name in (role, other))
        interval = ratio(a, b)
        if not interval.n:
            raise Missing(
                f"no {ROLE_NAMES[role]} and {ROLE_NAMES[other]} share an architecture and a seed"
            )
        paired = (a / b).notnull()
        grounds = (
            f"{ROLE_NAMES[role]}/{ROLE_NAMES[other]}, {_count(paired, 'architecture')}, "
            f"{_count(paired, 'seed')}"
        )
        share = worst_share(results, variable, (role, other)) if kind == "accuracy" else np.nan
        gains = floor_gains(results, (role, other), _architectures(paired))
        noise = _test_noise(results, variable, role, other)
        return Finding(interval, grounds, noise, share, gains, _alone(np.log(a) - np.log(b)))

    return measure


def front_ratio(cost: str, role: str, other: str, backend: str = "stock") -> Measure:
    """Best force error affordable at a cost, ``role`` over ``other``, at the worst cost level."""

    def measure(results: Results) -> Finding:
        paid = costs(results, cost, backend)
        a, b = (errors(results, "force_rmse", name) for name in (role, other))
        a, b, paid = xr.align(a, b, paid, join="inner")
        interval, level, n_levels = dominance(paid.values, a.values, b.values)
        if not interval.n:
            raise Missing(
                f"{cost} was measured for no architecture that has both a {ROLE_NAMES[role]} "
                f"and a {ROLE_NAMES[other]}"
            )
        grounds = (
            f"largest of {n_levels} ratios at equal {cost} on {backend}, "
            f"at the {cost} of {a.architecture.values[level]}"
        )
        share = worst_share(results, "force_rmse", (role, other))
        gains = floor_gains(results, (role, other), _architectures((a / b).notnull()))
        return Finding(interval, grounds, worst_share=share, floor_gains=gains)

    return measure


def best_smaller_student(results: Results) -> Finding:
    """Force error of the best student smaller than its teacher, over the teacher's."""
    students = errors(results, "force_rmse", "student")
    teachers = errors(results, "force_rmse", "teacher")
    teacher_size, teacher = _largest(teachers)
    small = students.where(students.n_parameters < teacher_size).dropna("architecture", how="all")
    if not small.architecture.size:
        raise Missing("no student is smaller than the teacher")
    # The best of several is picked, so its interval needs Bonferroni's correction.
    level = 1 - (1 - LEVEL) / small.architecture.size
    found = {
        name: ratio(small.sel(architecture=name), teacher, level)
        for name in small.architecture.values.tolist()
    }
    best = min(found, key=lambda name: np.nan_to_num(found[name].high, nan=np.inf))
    if not found[best].high < 1:
        best = min(found, key=lambda name: np.nan_to_num(found[name].low, nan=found[name].value))
    size = int(small.n_parameters.sel(architecture=best))
    grounds = f"{best} ({size / teacher_size:.1%} of the teacher's parameters)"
    if len(found) > 1:
        grounds += f", the best of {len(found)} smaller students, corrected for that choice"
    share = worst_share(results, "force_rmse", ("student", "teacher"))
    gains = floor_gains(results, ("student",), [best])
    gains |= floor_gains(results, ("teacher",), [teacher.architecture.item()])
    return Finding(found[best], grounds, worst_share=share, floor_gains=gains)


def cost_slope(cost: str, backend: str) -> Measure:
    """Exponent of the power law between cost and number of parameters."""

    def measure(results: Results) -> Finding:
        paid = costs(results, cost, backend)
        interval = slope(np.log(paid.n_parameters), np.log(paid))
        if not interval.n:
            raise Missing(f"{cost} on {backend} was measured for fewer than two sizes")
        return Finding(interval, f"{cost} on {backend}, {interval.n} architectures")

    return measure


def cost_ratio(cost: str, backend: str) -> Measure:
    """Cost of the models smaller than the teacher over the teacher's, mean over architectures."""

    def measure(results: Results) -> Finding:
        paid = costs(results, cost, backend)
        largest = paid.isel(architecture=int(paid.n_parameters.values.argmax()))
        small = paid.where(paid.n_parameters < largest.n_parameters, drop=True)
        if not small.size:
            raise Missing(f"{cost} on {backend} was measured for one size only")
        interval = t_interval(np.log(small / largest)).map(np.exp)
        low, high = float((small / largest).min()), float((small / largest).max())
        grounds = f"{small.size} smaller models on {backend}, from {low:.2g} to {high:.2g}"
        return Finding(interval, grounds)

    return measure


def rdf_correlation(results: Results) -> Finding:
    """Rank correlation of force RMSE and g(r) error over trained students and controls."""
    roles = ("student", "control", "matched_control")
    pairs = []
    for role in roles:
        try:
            force = errors(results, "force_rmse", role)
            pairs.append(xr.align(force, errors(results, "rdf_error", role, "rdf"), join="inner"))
        except Missing:
            continue
    if not pairs:
        raise Missing("no model has both a force error and a g(r) error")
    x, y = (np.concatenate([pair[k].values.ravel() for pair in pairs]) for k in (0, 1))
    interval = rank_correlation(x, y)
    if not interval.n:
        raise Missing("too few models have both a force error and a g(r) error")
    return Finding(interval, f"Spearman's correlation over {interval.n} trained models")


def learning_ratio(role: str, other: str) -> Measure:
    """Validation force error of one role over another's at equal epoch, mean over log(epoch)."""

    def measure(results: Results) -> Finding:
        curves = _learning(results, role, other)
        logs = xr.concat([curve.mean("epoch") for curve in curves], "architecture")
        grounds = f"validation force RMSE, {ROLE_NAMES[role]}/{ROLE_NAMES[other]} at equal epoch"
        return _learned(results, (role, other), logs, grounds)

    return measure


def learning_drift(role: str, other: str) -> Measure:
    """Change of that ratio from the first to the second half of the training, in log(epoch)."""

    def measure(results: Results) -> Finding:
        changes = []
        for curve in _learning(results, role, other):
            half = curve.sizes["epoch"] // 2
            if not half:
                raise Missing("the histories are too short to compare their halves")
            early, late = curve.isel(epoch=slice(0, half)), curve.isel(epoch=slice(half, None))
            changes.append(late.mean("epoch") - early.mean("epoch"))
        grounds = f"{ROLE_NAMES[role]}/{ROLE_NAMES[other]}, late over early epochs"
        return _learned(results, (role, other), xr.concat(changes, "architecture"), grounds)

    return measure


def _learned(results: Results, roles: tuple[str, str], logs: xr.DataArray, grounds: str) -> Finding:
    """Finding on log-ratios of learning curves, (architecture, seed)."""
    gains = floor_gains(results, roles, logs.architecture.values)
    interval = crossed_interval(logs).map(np.exp)
    return Finding(interval, grounds, floor_gains=gains, alone=_alone(logs))


def errors(results: Results, variable: str, role: str, kind: str = "accuracy") -> xr.DataArray:
    """Errors of a role, (architecture, seed); of the test part where there are parts."""
    ds = results.get(kind)
    if ds is None or variable not in ds:
        raise Missing(f"no {kind} result holds {variable}")
    array = ds[variable]
    if "split" in array.dims:
        if "test" not in array.split.values:
            raise Missing(f"{variable} was not measured on the test part")
        array = array.sel(split="test", drop=True)
    if role not in array.role.values or not array.sel(role=role).notnull().any():
        raise Missing(f"no {ROLE_NAMES[role]} has {variable}")
    return array.sel(role=role, drop=True).transpose("architecture", "seed", ...)


def costs(results: Results, cost: str, backend: str) -> xr.DataArray:
    """Cost of each architecture on a backend: us/atom/step or kB/atom."""
    ds = results.get("speed")
    if ds is None or (cost == "memory" and "memory_per_atom" not in ds):
        raise Missing(f"no speed result holds the {cost}")
    table = step_time(ds)[0] if cost == "time" else ds.memory_per_atom
    if backend not in table.backend.values:
        raise Missing(f"{cost} was not measured on backend {backend}")
    paid = table.sel(backend=backend, drop=True).dropna("architecture")
    if not paid.size:
        raise Missing(f"{cost} was not measured on backend {backend}")
    return paid


def _learning(results: Results, role: str, other: str) -> list[xr.DataArray]:
    """Log-ratio of validation errors of each architecture, (architecture: 1, seed, epoch bin).

    The epochs are those that all its trainings reached, which differ between architectures.
    """
    ds = results.get("history")
    if ds is None or "valid" not in ds.split.values:
        raise Missing("no history holds validation errors")
    for name in (role, other):
        if name not in ds.role.values:
            raise Missing(f"no {ROLE_NAMES[name]} has a history")
    curves = np.log(ds.force_rmse.sel(split="valid"))
    logs = curves.sel(role=role, drop=True) - curves.sel(role=other, drop=True)
    logs = logs.dropna("architecture", how="all").dropna("seed", how="all")
    if not logs.size:
        raise Missing(
            f"no {ROLE_NAMES[role]} and {ROLE_NAMES[other]} share an architecture and a seed"
        )
    reached = logs.notnull().sum("epoch").where(lambda n: n > 0).min("seed").astype(int)
    return [
        log_binned(logs.isel(architecture=[k], epoch=slice(0, n))).transpose(..., "seed", "epoch")
        for k, n in enumerate(reached.values)
    ]


#: Variables with the squared errors of each test frame, by the error that they add up to.
_FRAME_ERRORS = {"force_rmse": "frame_force_mse", "energy_rmse": "frame_energy_error"}


def worst_share(results: Results, variable: str, roles: Sequence[str]) -> float:
    """Largest share of one test frame in the squared errors, a mean over the runs of the roles."""
    ds, name = results.get("accuracy"), _FRAME_ERRORS.get(variable)
    if ds is None or name not in ds or not set(roles) <= set(ds.role.values.tolist()):
        return np.nan
    errors = ds[name].sel(role=list(roles))
    sizes = ds.get("frame_n_atoms", 1)
    squares = errors * sizes if variable == "force_rmse" else errors**2
    shares = (squares / squares.sum("frame")).mean(["role", "architecture", "seed"])
    return float(shares.max())


def floor_gains(
    results: Results, roles: Sequence[str], architectures: Sequence[str]
) -> dict[str, np.ndarray]:
    """Gain of doubling the epochs by role, (n_architectures,): the largest over seeds."""
    ds = results.get("accuracy")
    if ds is None or "floor_gain" not in ds:
        return {role: np.full(len(architectures), np.nan) for role in roles}
    gains = ds.floor_gain.max("seed")
    gains = gains.reindex(role=list(roles), architecture=list(architectures))
    return {role: gains.sel(role=role).values for role in roles}


def _test_noise(results: Results, variable: str, role: str, other: str) -> tuple[float, float]:
    ds, name = results.get("accuracy"), _FRAME_ERRORS.get(variable)
    if ds is None or name not in ds or not {role, other} <= set(ds.role.values.tolist()):
        return np.nan, np.nan
    squares = ds[name] if variable == "force_rmse" else ds[name] ** 2
    atoms = ds.frame_n_atoms.values if "frame_n_atoms" in ds and variable == "force_rmse" else None
    pair = (squares.sel(role=r).transpose(..., "frame").values for r in (role, other))
    return frame_bootstrap(*pair, atoms)


def _alone(logs: xr.DataArray) -> dict[str, Interval]:
    """Ratio at each architecture, from log-ratios (architecture, seed); empty for only one."""
    logs = logs.dropna("architecture", how="all").transpose("architecture", "seed")
    if logs.sizes["architecture"] < 2:
        return {}
    return dict(zip(logs.architecture.values.tolist(), by_row(logs.values), strict=True))


def _largest(array: xr.DataArray) -> tuple[int, xr.DataArray]:
    """Size and values over seeds of the largest architecture that has any."""
    kept = array.dropna("architecture", how="all")
    top = kept.isel(architecture=int(kept.n_parameters.values.argmax()))
    return int(top.n_parameters), top


def _architectures(paired: xr.DataArray) -> list[str]:
    """Architectures with a pair, (architecture, seed)."""
    return paired.architecture.values[paired.any("seed").values].tolist()


def _count(paired: xr.DataArray, dim: str) -> str:
    n = int(paired.any([d for d in paired.dims if d != dim]).sum())
    return f"{n} {dim}{'s' if n != 1 else ''}"
