"""Energy conservation of a student: NVE of crystal and melt."""

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from kdlib.md import dynamics
from kdlib.md import exploration
from kdlib.md import liquid
from kdlib.geometry import cells
from kdlib.distill.measures import Measures
from kdlib.md.dynamics import DynamicsError
from kdlib.md.exploration import Excursion


def conservation(
    student: BaseCalculator, given: Atoms, hot: float, expansion: float, m: Measures
) -> xr.Dataset:
    """NVE of crystal and melt: change of the total energy, and how long it lasted.

    Returns
    -------
    xarray.Dataset
        ``energy_change(state, time)`` eV/atom, ``energy_drift(state)`` eV/atom/ps,
        ``stable(state)`` ps.
    """
    found = []
    for state, temperature in (("solid", m.cold), ("molten", hot)):
        atoms = _prepared(student, given, state == "molten", temperature, expansion, m)
        found.append(_nve(atoms, state, m) if atoms else _no_run(state))
    return xr.concat(found, "state", join="outer", coords="minimal", compat="override")


def _prepared(
    student: BaseCalculator, given: Atoms, melt: bool, temperature: float, expansion: float,
    m: Measures,
) -> Atoms | None:  # fmt: skip
    """Cell after some thermostatted MD, molten first where asked for; None if it flew apart."""
    rng = np.random.default_rng(0)
    atoms = cells.supercell(given, m.n_atoms)
    atoms = cells.deformed(atoms, expansion if melt else 1.0, 0.0, 0.02, rng)
    excursion = Excursion(
        temperature, m.rest_steps, m.rest_steps, m.timestep,
        hot=m.melting * temperature if melt else 0.0, melt_steps=m.rest_steps if melt else 0,
    )  # fmt: skip
    path = exploration.follow(atoms, student, excursion)
    if not path.frames:
        return None
    atoms = path.frames[-1]
    liquid.thermalize(atoms, temperature, rng)
    atoms.calc = student
    return atoms


def _nve(atoms: Atoms, state: str, m: Measures) -> xr.Dataset:
    n_steps = max(10, round(1000 * m.nve_ps / m.timestep))
    chunk = max(1, n_steps // 200)
    energies, times = [], []
    for k in range(n_steps // chunk):
        try:
            ds = dynamics.nve(atoms, chunk, m.timestep, sample_every=chunk)
        except DynamicsError:
            break
        energies.append(float(ds.total_energy[-1]))
        times.append((k + 1) * chunk * m.timestep / 1000)
    if not times:
        return _no_run(state)
    change = np.array(energies) - energies[0]
    drift = np.polyfit(times, energies, 1)[0] if len(times) > 1 else np.nan
    return _kept(state, np.array(times), change, float(drift), times[-1])


def _no_run(state: str) -> xr.Dataset:
    return _kept(state, np.array([0.0]), np.array([np.nan]), np.nan, 0.0)


def _kept(
    state: str, times: np.ndarray, change: np.ndarray, drift: float, stable: float
) -> xr.Dataset:
    about = {"units": "eV/atom", "long_name": "change of the total energy"}
    return xr.Dataset(
        {
            "energy_change": (("state", "time"), change[None], about),
            "energy_drift": (
                "state", [drift], {"units": "eV/atom/ps", "long_name": "drift of the total energy"}
            ),
            "stable": ("state", [stable], {"units": "ps", "long_name": "NVE without an accident"}),
        },
        coords={
            "state": ("state", [state], {"long_name": "state"}),
            "time": ("time", times, {"units": "ps", "long_name": "time"}),
        },
    )  # fmt: skip
