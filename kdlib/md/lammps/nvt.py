"""NVT by LAMMPS: the run of :func:`kdlib.md.dynamics.nvt` with LAMMPS's integrator and thermostat."""

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.md.dynamics import MAX_TEMPERATURE
from kdlib.md.lammps import Driver
from kdlib.md.liquid import stop_drift
from kdlib.md.liquid import thermalize
from kdlib.progress import Reporter
from kdlib.md.trajectory import with_positions


def nvt(
    atoms: Atoms,
    temperature: float,
    n_steps: int,
    timestep: float = 2.0,
    seed: int = 0,
    sample_every: int = 20,
    relaxation: float = 100.0,
    max_temperature: float = MAX_TEMPERATURE,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Run at constant temperature and volume in LAMMPS (``fix nvt``), with samples of positions.

    Parameters
    ----------
    atoms
        Periodic configuration with a calculator; advanced in place. Atoms at rest get velocities.
    temperature
        In K.
    n_steps
        Number of steps.
    timestep
        In fs.
    seed
        Of the velocities.
    sample_every
        Steps between samples.
    relaxation
        Time of the thermostat, fs.
    max_temperature
        A hotter sample (K) has exploded and ends with :class:`~kdlib.md.dynamics.DynamicsError`.
    reporter
        Shows a bar over the steps.

    Returns
    -------
    xarray.Dataset
        As from :func:`kdlib.md.dynamics.nvt`, without the times of the steps, and from the first
        sample on.
    """
    if not atoms.get_momenta().any():
        thermalize(atoms, temperature, np.random.default_rng(seed))
    stop_drift(atoms)
    positions = []
    with Driver(atoms.calc, atoms, virial=False, max_temperature=max_temperature) as driver:
        driver.command(f"timestep {timestep / 1000!r}")
        target = f"{float(temperature)!r}"
        driver.command(f"fix 1 all nvt temp {target} {target} {relaxation / 1000!r}")
        for _ in driver.samples(n_steps, sample_every, reporter):
            positions.append(driver.atoms().positions)
        end = driver.atoms()
    atoms.positions = end.positions
    atoms.set_momenta(end.get_momenta())
    return with_positions(driver.thermo(), atoms, positions)
