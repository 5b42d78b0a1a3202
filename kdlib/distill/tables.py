"""Tables of a report: teacher beside student, solid beside melt."""

import numpy as np
import pandas as pd
import xarray as xr

from kdlib.training.student_errors import PHASES


def potentials(ds: xr.Dataset) -> pd.DataFrame:
    """Crystal, speed and memory of both.

    Parameters
    ----------
    ds
        From :func:`kdlib.distill.report.report`.

    Returns
    -------
    pandas.DataFrame
        Text in columns ``teacher``, ``student`` and ``student / teacher``; a row for each property,
        named with its unit. The length of a crystal is the cube root of its volume per atom: its
        ratio is that of the lattice constants.
    """
    rows = {}
    for name in ds.structure.values.tolist():
        volume = ds.relaxed_volume.sel(structure=name)
        rows[f"{name}, relaxed: volume (A^3/atom)"] = volume
        rows[f"{name}, relaxed: length (A)"] = np.cbrt(volume)
    rows[f"{ds.density.attrs['long_name']} (g/cm^3)"] = ds.density
    rows["time per MD step (us/atom)"] = 1000 * ds.step_time
    rows["memory of MD (MB)"] = ds.md_memory
    found = {}
    for name, values in rows.items():
        teacher, student = (float(values.sel(model=model)) for model in ("teacher", "student"))
        found[name] = [_said(teacher), _said(student), _said(student / teacher, 5)]
    columns = ["teacher", "student", "student / teacher"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)


def states(ds: xr.Dataset) -> pd.DataFrame:
    """Errors and stability of the student, for solid and melt.

    Parameters
    ----------
    ds
        From :func:`kdlib.distill.report.report`.

    Returns
    -------
    pandas.DataFrame
        Text in columns ``solid`` and ``molten``; a row for each property, named with its unit.
        ``stable`` is the range of temperatures up to the first run of MD that left physics.
    """
    final = ds.isel(round=-1)
    rows = {
        "force RMSE (eV/A)": final.round_force_rmse,
        "energy RMSE (meV/atom)": 1000 * final.round_energy_rmse,
        "stress RMSE (meV/A^3)": 1000 * final.round_stress_rmse,
        "drift of NVE (eV/atom/ps)": ds.energy_drift,
        "NVE without an accident (ps)": ds.stable,
    }
    found = {
        name: [_said(float(values.sel(state=state)), 3) for state in PHASES]
        for name, values in rows.items()
    }
    found["runs of MD"] = [str(int((ds.trajectory_molten == melt).sum())) for melt in (0, 1)]
    found["stable (K)"] = [stable_range(ds, state) for state in PHASES]
    return pd.DataFrame.from_dict(found, orient="index", columns=list(PHASES))


def stable_range(ds: xr.Dataset, state: str) -> str:
    """Temperatures (K) up to the first run of MD that left physics, as text.

    Parameters
    ----------
    ds
        With ``survived``, ``md_temperature`` (K) and ``trajectory_molten`` over ``trajectory``.
    state
        ``"solid"`` or ``"molten"``.
    """
    chosen = (ds.trajectory_molten == (state == "molten")).values
    temperature, survived = ds.md_temperature.values[chosen], ds.survived.values[chosen]
    if not len(temperature):
        return "no run"
    failed = temperature[survived < 1]
    good = temperature[temperature < failed.min()] if len(failed) else temperature
    if not len(good):
        return "none"
    said = f"{good.min():.0f} to {good.max():.0f}"
    return said + (f", not at {failed.min():.0f}" if len(failed) else "")


def _said(value: float, digits: int = 4) -> str:
    """Number without an exponent where it is large; a dash where nothing was measured."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
