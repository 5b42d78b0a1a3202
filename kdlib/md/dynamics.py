r"""Molecular dynamics of liquid aluminium with ASE's integrators.

Every run advances the given atoms in place, as ASE does, and returns an xarray Dataset: the
thermodynamic series, and the seconds spent in the neighbour list, the model and the integrator.
Positions are never wrapped, so that displacements can be read off them (:mod:`kdlib.md.trajectory`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import xarray as xr
from ase import Atoms
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from kdlib import units
from kdlib.errors import InputError
from kdlib.md.liquid import kinetic_temperature
from kdlib.md.liquid import stop_drift
from kdlib.md.liquid import thermalize
from kdlib.md.liquid import liquid_aluminium as liquid_aluminium
from kdlib.progress import Reporter
from kdlib.results.schema import COMPONENTS
from kdlib.md.trajectory import Recorder
from kdlib.md.trajectory import slope

#: A run hotter than this (K) has exploded: eight times the temperature of a melt.
MAX_TEMPERATURE = 20000.0


class DynamicsError(RuntimeError):
    """A run that left physics: atoms flew apart, collided, or forces are not finite."""


@dataclass(frozen=True)
class MeltProtocol:
    """How a crystal becomes an equilibrated liquid: melt, quench, equilibrate (Langevin)."""

    melt_temperature: float = 2500.0
    """In K; so far above melting (933 K) that the crystal is gone within a picosecond."""
    temperature: float = 1200.0
    """Temperature of the wanted liquid, K."""
    melt_steps: int = 1500
    """Steps at the melt temperature."""
    quench_steps: int = 1000
    """Steps of the linear ramp from the melt temperature to that of the liquid."""
    equilibration_steps: int = 1500
    """Steps at the temperature of the liquid."""
    timestep: float = 2.0
    """In fs; a fiftieth of aluminium's shortest phonon period (about 100 fs)."""
    friction: float = 0.02
    """Langevin friction, 1/fs: velocities are forgotten in 50 fs."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= self.melt_temperature:
            raise InputError(
                f"MeltProtocol: a melt at {self.melt_temperature:g} K cannot be quenched to "
                f"{self.temperature:g} K"
            )
        if min(self.melt_steps, self.quench_steps, self.equilibration_steps) < 1:
            raise InputError("MeltProtocol: melt, quench and equilibration need a step each")


def nve(
    atoms: Atoms,
    n_steps: int,
    timestep: float = 1.0,
    sample_every: int = 10,
    max_temperature: float = MAX_TEMPERATURE,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Velocity Verlet at constant energy.

    Parameters
    ----------
    atoms
        Configuration with velocities and a calculator; advanced in place.
    n_steps
        Number of steps.
    timestep
        In fs.
    sample_every
        Steps between samples of the series.
    max_temperature
        A hotter run (K) has exploded and ends with :class:`DynamicsError`.
    reporter
        Shows a bar over the steps.

    Returns
    -------
    xarray.Dataset
        ``temperature(time)`` K, ``potential_energy(time)``, ``kinetic_energy(time)`` and
        ``total_energy(time)`` in eV/atom, ``seconds(component)`` summed over the steps, and
        ``energy_drift`` in eV/atom/ps (slope of a straight line through the total energy).
        Components that the calculator does not time are NaN.
    """
    integrator = VelocityVerlet(atoms, timestep * units.FS)
    ds = _advance(integrator, n_steps, sample_every, max_temperature, reporter, "NVE")
    ds["energy_drift"] = xr.Variable((), slope(ds.time / 1000, ds.total_energy))
    ds.energy_drift.attrs = {"units": "eV/atom/ps", "long_name": "drift of the total energy"}
    return ds


def nvt(
    atoms: Atoms,
    temperature: float,
    n_steps: int,
    timestep: float = 2.0,
    seed: int = 0,
    sample_every: int = 20,
    thermostat: str = "nose-hoover",
    relaxation: float = 100.0,
    max_temperature: float = MAX_TEMPERATURE,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Run at constant temperature and volume, with samples of the positions.

    Parameters
    ----------
    atoms
        Configuration with a calculator; advanced in place. Atoms at rest get velocities.
    temperature
        In K.
    n_steps
        Number of steps.
    timestep
        In fs.
    seed
        Of the velocities and of the Langevin forces.
    sample_every
        Steps between samples.
    thermostat
        ``"nose-hoover"`` (a chain of three; leaves the diffusion alone) or ``"langevin"`` (slows
        it down, but reaches equilibrium from anywhere).
    relaxation
        Time of the thermostat, fs: period of the chain, or inverse Langevin friction.
    max_temperature
        A hotter run (K) has exploded and ends with :class:`DynamicsError`.
    reporter
        Shows a bar over the steps.

    Returns
    -------
    xarray.Dataset
        As from :func:`nve`, and ``positions(time, atom, xyz)``, Angstrom, not wrapped;
        ``mass(atom)`` in u; ``cell(vector, xyz)``.
    """
    rng = np.random.default_rng(seed)
    if not atoms.get_momenta().any():
        thermalize(atoms, temperature, rng)
    integrator = _thermostat(atoms, temperature, timestep, thermostat, relaxation, rng)
    return _advance(
        integrator, n_steps, sample_every, max_temperature, reporter, f"NVT {temperature:g} K", True
    )


def _thermostat(
    atoms: Atoms,
    temperature: float,
    timestep: float,
    kind: str,
    relaxation: float,
    rng: np.random.Generator,
) -> MolecularDynamics:
    if kind == "langevin":
        return Langevin(
            atoms,
            timestep * units.FS,
            temperature_K=temperature,
            friction=1 / (relaxation * units.FS),
            fixcm=False,
            rng=rng,
        )
    if kind != "nose-hoover":
        raise InputError(f"unknown thermostat {kind!r}; there are 'nose-hoover' and 'langevin'")
    stop_drift(atoms)
    # ASE's chain counts 3 N degrees of freedom, but the centre of mass rests.
    effective = temperature * (1 - 1 / max(len(atoms), 2))
    return NoseHooverChainNVT(
        atoms, timestep * units.FS, temperature_K=effective, tdamp=relaxation * units.FS
    )


def melt(
    atoms: Atoms,
    protocol: MeltProtocol = MeltProtocol(),
    seed: int = 0,
    sample_every: int = 20,
    max_temperature: float = MAX_TEMPERATURE,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Melt, quench to the wanted temperature and equilibrate, with Langevin dynamics.

    Parameters
    ----------
    atoms
        Crystal with a calculator (:func:`liquid_aluminium`); the liquid afterwards, with the
        centre of mass at rest.
    protocol
        Temperatures and lengths of the three stages.
    seed
        Of velocities and random forces.
    sample_every
        Steps between samples of the series.
    max_temperature
        A hotter run (K) has exploded and ends with :class:`DynamicsError`.
    reporter
        Shows a bar over the steps.

    Returns
    -------
    xarray.Dataset
        The series of :func:`nve` over all three stages.
    """
    rng = np.random.default_rng(seed)
    hot, cold, ramp = protocol.melt_temperature, protocol.temperature, protocol.quench_steps
    thermalize(atoms, hot, rng)
    integrator = _thermostat(atoms, hot, protocol.timestep, "langevin", 1 / protocol.friction, rng)

    def set_temperature(step: int) -> None:
        progress = np.clip((step - protocol.melt_steps) / ramp, 0.0, 1.0)
        if progress > 0:
            integrator.set_temperature(temperature_K=hot + progress * (cold - hot))

    n_steps = protocol.melt_steps + ramp + protocol.equilibration_steps
    ds = _advance(
        integrator,
        n_steps,
        sample_every,
        max_temperature,
        reporter,
        "melt",
        before_step=set_temperature,
    )
    stop_drift(atoms)
    return ds


def _advance(
    integrator: MolecularDynamics,
    n_steps: int,
    sample_every: int,
    max_temperature: float,
    reporter: Reporter | None,
    desc: str,
    keep_positions: bool = False,
    before_step: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Take the steps, timing each, and sample in between, where no clock runs."""
    if n_steps < 1 or sample_every < 1:
        raise InputError(f"{desc}: {n_steps} steps sampled every {sample_every} are not a run")
    atoms = integrator.atoms
    atoms.get_forces()  # the first step would otherwise pay for two force calls
    recorder = Recorder(atoms, integrator.dt / units.FS, keep_positions)
    before = _calculator_seconds(atoms)
    total = 0.0
    with (reporter or Reporter()).bar(n_steps, desc, "step") as bar:
        for step in range(1, n_steps + 1):
            if before_step is not None:
                before_step(step)
            total += _timed_step(integrator, step, max_temperature, desc)
            if step % sample_every == 0:
                recorder.record(step)
            bar.update()
    inside = _calculator_seconds(atoms) - before
    seconds = [total, *inside, total - inside.sum()]
    return recorder.dataset(n_steps, dict(zip(COMPONENTS, seconds, strict=True)))


def _timed_step(
    integrator: MolecularDynamics, step: int, max_temperature: float, desc: str
) -> float:
    """Seconds of one step; DynamicsError with the number of the step if it left physics."""
    start = perf_counter()
    try:
        integrator.step()
    except InputError as error:
        raise DynamicsError(f"{desc}: step {step}: {error}") from error
    seconds = perf_counter() - start
    temperature = kinetic_temperature(integrator.atoms)
    if not temperature <= max_temperature:  # also true of NaN
        raise DynamicsError(
            f"{desc}: step {step}: the temperature is {temperature:.4g} K, above the limit of "
            f"{max_temperature:g} K"
        )
    return seconds


def _calculator_seconds(atoms: Atoms) -> np.ndarray:
    """Accumulated seconds in neighbour list and model; NaN for a calculator without a clock."""
    timings = getattr(atoms.calc, "timings", {})
    return np.array([timings.get("neighbor_list", np.nan), timings.get("model", np.nan)])
