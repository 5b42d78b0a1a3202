"""Ratios of the side-by-side benchmark, their units, and the benchmark as text."""

import numpy as np
import xarray as xr

#: Variable -> unit and meaning.
MEANING = {
    "architecture": ("", "features-sensitivities-atom layers"),
    "contestant": ("", "what ran the molecular dynamics"),
    "n_atoms": ("1", "atoms in the MD cell"),
    "component": ("", "part of an MD step"),
    "repeat": ("1", "block of steps"),
    "backend": ("", "implementation of the network"),
    "batch_size": ("1", "frames per optimizer step"),
    "epoch": ("1", "timed epoch"),
    "step_time": ("us/atom/step", "time per MD step per atom"),
    "n_builds": ("1", "builds of the neighbor list in 100 steps"),
    "skin": ("Angstrom", "skin of the neighbor list as the contestant counts it"),
    "memory_per_atom": ("kB/atom", "peak memory per atom"),
    "first_call_n_atoms": ("1", "atoms of the single call beyond the largest run"),
    "first_call_time": ("us/atom", "time of a single force call, neighbor list not counted"),
    "epoch_time": ("s", "time of a training epoch"),
    "time": ("fs", "simulated time"),
    "total_energy": ("eV/atom", "change of the total energy"),
    "energy_drift": ("eV/atom/ps", "drift of the total energy"),
    "status": ("", "whether a time was measured"),
    "speedup": ("1", "how many times faster than stock hippynn with its default skin"),
    "speedup_best": ("1", "how many times faster than stock hippynn with its best skin"),
    "memory_ratio": ("1", "how many times less memory per atom than stock hippynn"),
    "training_speedup": ("1", "how many times faster an epoch is than with stock layers"),
}
NAMES = {
    "stock": "stock hippynn",
    "stock_best": "stock hippynn, best skin",
    "hippynn": "ours, hippynn's layers",
    "fused": "ours, fused kernels",
    "lammps": "LAMMPS eam/alloy",
    "lammps_ranks": "LAMMPS eam/alloy, MPI",
    "pair_style_1": "LAMMPS hipnn, one rank",
    "pair_style": "LAMMPS hipnn, MPI",
}


def with_ratios(ds: xr.Dataset) -> xr.Dataset:
    """Add the ratios of medians to stock hippynn, units and long names to a benchmark."""
    times = ds.step_time.sel(component="total", drop=True).median("repeat")
    epochs = ds.epoch_time.median("epoch")
    ratios = {
        "speedup": times.sel(contestant="stock", drop=True) / times,
        "speedup_best": times.sel(contestant="stock_best", drop=True) / times,
        "memory_ratio": ds.memory_per_atom.sel(contestant="stock", drop=True) / ds.memory_per_atom,
        "training_speedup": epochs.sel(backend="hippynn", drop=True)
        / epochs.sel(backend="fused", drop=True),
    }
    ds = ds.assign({name: ratio.transpose(*_order(ds, ratio)) for name, ratio in ratios.items()})
    for name, (unit, meaning) in MEANING.items():
        if name not in ds.variables:
            continue
        ds[name].attrs = {**({"units": unit} if unit else {}), "long_name": meaning}
    return ds


def _order(ds: xr.Dataset, ratio: xr.DataArray) -> list[str]:
    return [name for name in map(str, ds.dims) if name in ratio.dims]


def table(ds: xr.Dataset) -> str:
    """Format :func:`with_ratios` as text: medians with quartiles, and ratios to stock hippynn."""
    lines = [_about(ds)]
    ran = ds.step_time.notnull().any([dim for dim in ds.step_time.dims if dim != "architecture"])
    for label in ds.architecture.values[ran.values].tolist():
        lines += ["", *_dynamics(ds.sel(architecture=label), label)]
    if ds.epoch_time.notnull().any():
        lines += ["", *_training(ds)]
    if "energy_drift" in ds:
        lines += ["", *_conservation(ds)]
    return "\n".join(lines) + "\n"


def summary(ds: xr.Dataset) -> str:
    """Format :func:`with_ratios` as short text: medians of the measured times, and memory.

    What was not measured, or taken from another size, is a dash.
    """
    times = ds.step_time.sel(component="total").median("repeat").where(ds.status == "measured")
    lines = [f"{_about(ds)}, {ds.attrs['created'][:10]}"]
    ran = times.notnull().any(["contestant", "n_atoms"])
    for label in ds.architecture.values[ran.values].tolist():
        sizes = "".join(f"{n:>9}" for n in ds.n_atoms.values.tolist())
        lines += ["", f"{f'{label}, us/atom/step, atoms':<27}{sizes}{'kB/atom':>9}"]
        for contestant in ds.contestant.values.tolist():
            where = {"architecture": label, "contestant": contestant}
            numbers = [*times.sel(where).values, float(ds.memory_per_atom.sel(where))]
            lines.append(f"{NAMES[contestant]:<27}" + "".join(f"{number(x):>9}" for x in numbers))
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Three digits, never in powers of ten; ``-`` for NaN."""
    if np.isnan(value):
        return "-"
    if value >= 1000:
        return f"{float(f'{value:.3g}'):.0f}"
    return f"{value:#.3g}".rstrip(".")


def _about(ds: xr.Dataset) -> str:
    known = ds.attrs
    parts = [known.get("cpu_model", ""), f"{known.get('n_threads', '?')} threads"]
    parts += [f"LAMMPS {known['lammps_version']}"] if "lammps_version" in known else []
    return ", ".join(filter(None, parts))


def _dynamics(ds: xr.Dataset, label: str) -> list[str]:
    rows = [
        f"{label}: molecular dynamics, NVE of liquid aluminum",
        f"{'':<26}{'atoms':>7}{'us/atom/step':>14}{'quartiles':>17}{'faster':>9}"
        f"{'than best':>11}{'kB/atom':>9}{'less':>8}{'skin':>6}",
    ]
    for contestant in ds.contestant.values.tolist():
        one = ds.sel(contestant=contestant)
        for n in ds.n_atoms.values.tolist():
            rows.append(_row(one.sel(n_atoms=n), contestant, n))
        if np.isfinite(one.first_call_time):
            rows.append(
                f"{'':<26}{int(one.first_call_n_atoms):>7}{float(one.first_call_time):>14.3g}"
                "  one call, without its neighbor list"
            )
    return rows


def _row(ds: xr.Dataset, contestant: str, n: int) -> str:
    status = str(ds.status.values)
    begin = f"{NAMES[contestant]:<26}{n:>7}"
    times = ds.step_time.sel(component="total").dropna("repeat").values
    if not times.size:
        return f"{begin}  {status}"
    low, mid, high = np.quantile(times, (0.25, 0.5, 0.75))
    quartiles = f"{low:.4g} - {high:.4g}"
    note = "" if status == "measured" else f"  {status}"
    return (
        f"{begin}{mid:>14.4g}{quartiles:>17}{float(ds.speedup):>9.3g}"
        f"{float(ds.speedup_best):>11.3g}{float(ds.memory_per_atom):>9.4g}"
        f"{float(ds.memory_ratio):>8.3g}{float(ds.skin):>6.3g}{note}"
    )


def _conservation(ds: xr.Dataset) -> list[str]:
    rows = [f"drift of the energy in {float(ds.time[-1]) / 1000:g} ps of NVE, fused kernels"]
    for label in ds.architecture.values.tolist():
        drift = float(ds.energy_drift.sel(architecture=label))
        if np.isfinite(drift):
            rows.append(f"{label:<26}{drift:>14.2g} eV/atom/ps")
    return rows


def _training(ds: xr.Dataset) -> list[str]:
    rows = [
        "training, seconds per epoch, one thread",
        f"{'':<26}{'batch':>7}{'stock':>14}{'fused':>17}{'faster':>9}",
    ]
    median = ds.epoch_time.median("epoch")
    for label in ds.architecture.values.tolist():
        for size in ds.batch_size.values.tolist():
            one = median.sel(architecture=label, batch_size=size)
            if one.notnull().any():
                stock, fused = (float(one.sel(backend=name)) for name in ("hippynn", "fused"))
                ratio = float(ds.training_speedup.sel(architecture=label, batch_size=size))
                rows.append(f"{label:<26}{size:>7}{stock:>14.4g}{fused:>17.4g}{ratio:>9.3g}")
    return rows
