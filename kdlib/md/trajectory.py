r"""The record of an MD run, and what it says about the motion of the atoms.

Displacements are read off positions that were never wrapped,

.. math:: \mathrm{MSD}(t) = \langle |r_i(t_0 + t) - r_i(t_0)|^2 \rangle, \qquad
          D = \tfrac{1}{6} \frac{d}{dt} \mathrm{MSD}(t)

without the motion of the centre of mass, averaged over atoms and time origins t_0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.md.liquid import kinetic_energy
from kdlib.md.liquid import kinetic_temperature


@dataclass(frozen=True)
class LiquidCriterion:
    """When a run counts as liquid: its atoms diffuse, and they have left their places."""

    min_diffusion: float = 1e-4
    """In Angstrom^2/fs; about a tenth of liquid aluminium's near 1000 K (0.7-0.9 A^2/ps)."""
    min_displacement: float = 1.0
    """Root-mean-square displacement over the longest lag, Angstrom. In a crystal about to melt it
    stays below 0.6 (sqrt 2 times an amplitude of 10-15 % of the distance between neighbours)."""


class Recorder:
    """Samples of a run as they come, made a Dataset at its end.

    Parameters
    ----------
    atoms
        The atoms that the run advances.
    timestep
        In fs.
    keep_positions
        Whether the positions are kept beside the thermodynamic series.
    """

    def __init__(self, atoms: Atoms, timestep: float, keep_positions: bool) -> None:
        self._atoms, self._timestep, self._keep = atoms, timestep, keep_positions
        self._samples: list[tuple[float, ...]] = []
        self._positions: list[np.ndarray] = []

    def record(self, step: int) -> None:
        """Sample the present state of the atoms as that after ``step`` steps."""
        atoms = self._atoms
        potential, kinetic = atoms.get_potential_energy(), kinetic_energy(atoms)
        self._samples.append((step, kinetic_temperature(atoms), potential, kinetic))
        if self._keep:
            self._positions.append(atoms.positions.copy())

    def dataset(self, n_steps: int, seconds: Mapping[str, float]) -> xr.Dataset:
        """Return the record, with the seconds spent in each component of the step."""
        n_atoms = len(self._atoms)
        samples = np.array(self._samples, dtype=float).reshape(-1, 4).T
        step, temperature, potential, kinetic = samples
        series = {
            "potential": potential / n_atoms,
            "kinetic": kinetic / n_atoms,
            "total": (potential + kinetic) / n_atoms,
        }
        ds = xr.Dataset(
            coords={
                "time": ("time", step * self._timestep, _described("fs", "time")),
                "component": list(seconds),
            },
            attrs={"n_steps": n_steps, "timestep": self._timestep, "n_atoms": n_atoms},
        )
        ds["temperature"] = "time", temperature, _described("K", "temperature")
        for name, energy in series.items():
            attrs = _described("eV/atom", f"{name} energy per atom")
            ds[f"{name}_energy"] = "time", energy, attrs
        ds["seconds"] = "component", list(seconds.values()), _described("s", "wall time")
        return with_positions(ds, self._atoms, self._positions) if self._keep else ds


def with_positions(ds: xr.Dataset, atoms: Atoms, positions: Sequence[np.ndarray]) -> xr.Dataset:
    """Add sampled positions to the series of a run, with cell and masses.

    Parameters
    ----------
    ds
        Series over ``time``.
    atoms
        The atoms that ran.
    positions
        Unwrapped positions of every sample, (n_atoms, 3), Angstrom.
    """
    found = np.reshape(positions, (-1, len(atoms), 3))
    length = _described("Angstrom", "positions, not wrapped")
    return ds.assign(
        positions=(("time", "atom", "xyz"), found, length),
        cell=(("vector", "xyz"), atoms.cell.array, _described("Angstrom", "cell")),
        mass=("atom", atoms.get_masses(), _described("u", "mass")),
    )


def _described(units: str, long_name: str) -> dict[str, str]:
    return {"units": units, "long_name": long_name}


def slope(x: xr.DataArray, y: xr.DataArray) -> float:
    """Slope of the straight line of least squares; NaN for fewer than two points."""
    return float(np.polyfit(x, y, 1)[0]) if x.size > 1 else np.nan


def mean_squared_displacement(run: xr.Dataset) -> xr.DataArray:
    """Mean squared displacement over lags up to half the run, Angstrom^2.

    Parameters
    ----------
    run
        From :func:`nvt`: unwrapped ``positions(time, atom, xyz)`` and ``mass(atom)``.

    Returns
    -------
    xarray.DataArray
        Dimension ``lag`` (fs), from 0; averaged over atoms and all time origins.
    """
    positions = run.positions.transpose("time", "atom", "xyz").values
    positions = positions - np.average(positions, axis=1, weights=run.mass, keepdims=True)
    n_lags = len(positions) // 2 + 1
    msd = [0.0] + [
        float(((positions[k:] - positions[:-k]) ** 2).sum(-1).mean()) for k in range(1, n_lags)
    ]
    lag = run.time.values[:n_lags] - run.time.values[:1]
    return xr.DataArray(
        msd[: len(lag)],
        coords={"lag": ("lag", lag, {"units": "fs", "long_name": "lag"})},
        name="msd",
        attrs={"units": "Angstrom^2", "long_name": "mean squared displacement"},
    )


def diffusion(msd: xr.DataArray, ballistic: float = 300.0) -> float:
    """Self-diffusion coefficient, Angstrom^2/fs: a sixth of the slope of the MSD.

    Parameters
    ----------
    msd
        From :func:`mean_squared_displacement`.
    ballistic
        Shorter lags (fs) are left out: there, atoms fly or rattle in the cage of neighbours.

    Returns
    -------
    float
        NaN when the run is too short for two lags beyond ``ballistic``.
    """
    late = msd.sel(lag=slice(ballistic, None))
    return slope(late.lag, late) / 6


def is_liquid(msd: xr.DataArray, criterion: LiquidCriterion = LiquidCriterion()) -> bool:
    """Whether the atoms diffuse and have left their places (see :class:`LiquidCriterion`)."""
    displacement = float(np.sqrt(msd[-1])) if msd.size else 0.0
    moves = displacement >= criterion.min_displacement
    return bool(moves and diffusion(msd) >= criterion.min_diffusion)
