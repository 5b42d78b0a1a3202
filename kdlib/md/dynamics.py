"""Molecular dynamics with ASE's integrators.

Every run advances the given atoms in place, as ASE does, and returns an xarray Dataset: the
thermodynamic series, and the seconds spent in the neighbor list, the model and the integrator.
Positions are never wrapped, so that displacements can be read off them. ASE's constraints hold
atoms, and temperatures are those of the motion that they leave; constraints for which that is not
known are refused (:mod:`kdlib.geometry.freedom`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import xarray as xr
from ase import Atoms
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import NoseHooverChainThermostat
from ase.md.verlet import VelocityVerlet

from kdlib import progress, units
from kdlib.errors import MAX_TEMPERATURE, DynamicsError, InputError
from kdlib.geometry.freedom import Freedom, check_constraints, names
from kdlib.results.schema import COMPONENTS


class Recorder:
    """Collects samples of atoms during a run (timestep in fs) and makes a Dataset of them."""

    def __init__(self, atoms: Atoms, timestep: float, keep_positions: bool) -> None:
        self._atoms, self._timestep, self._keep = atoms, timestep, keep_positions
        self._freedom = Freedom.of(atoms)
        self._samples: list[tuple[float, ...]] = []
        self._positions: list[np.ndarray] = []

    def temperature(self) -> float:
        """Present temperature, K."""
        return kinetic_temperature(self._atoms, self._freedom)

    def record(self, step: int) -> None:
        """Sample the current state of the atoms, that after ``step`` steps."""
        atoms = self._atoms
        potential, kinetic = atoms.get_potential_energy(), kinetic_energy(atoms)
        self._samples.append((step, self.temperature(), potential, kinetic))
        if self._keep:
            self._positions.append(atoms.positions.copy())

    def dataset(self, n_steps: int, seconds: Mapping[str, float]) -> xr.Dataset:
        """Return the samples, with the seconds spent in each component of the step."""
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
    """Add unwrapped positions of each sample, (n_atoms, 3), Angstrom, cell and masses to a run."""
    found = np.reshape(positions, (-1, len(atoms), 3))
    length = _described("Angstrom", "positions, not wrapped")
    return ds.assign(
        positions=(("time", "atom", "xyz"), found, length),
        cell=(("vector", "xyz"), atoms.cell.array, _described("Angstrom", "cell")),
        mass=("atom", atoms.get_masses(), _described("u", "mass")),
    )


def _described(units: str, long_name: str) -> dict[str, str]:
    return {"units": units, "long_name": long_name}


def slope(x: xr.DataArray | np.ndarray, y: xr.DataArray | np.ndarray) -> float:
    """Slope of the straight line of least squares; NaN for fewer than two points."""
    return float(np.polyfit(x, y, 1)[0]) if x.size > 1 else np.nan


@dataclass(frozen=True)
class MeltProtocol:
    """Stages from a crystal to an equilibrated liquid: melt, quench, equilibrate (Langevin)."""

    melt_temperature: float = 2500.0
    """In K; so far above melting (933 K) that the crystal is gone within a picosecond."""
    temperature: float = 1200.0
    """Temperature of the liquid, K."""
    melt_steps: int = 1500
    """Steps at the melt temperature."""
    quench_steps: int = 1000
    """Steps of the linear ramp from the melt temperature to that of the liquid."""
    equilibration_steps: int = 1500
    """Steps at the temperature of the liquid."""
    timestep: float = 2.0
    """Time step, fs; a fiftieth of aluminum's shortest phonon period (about 100 fs)."""
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
) -> xr.Dataset:
    """Velocity Verlet at constant energy.

    Parameters
    ----------
    atoms
        Configuration with velocities and a calculator; advanced in place.
    timestep
        In fs.
    max_temperature
        A hotter run (K) has exploded and ends with :class:`DynamicsError`.

    Returns
    -------
    xr.Dataset
        ``temperature(time)`` K, ``potential_energy(time)``, ``kinetic_energy(time)`` and
        ``total_energy(time)`` in eV/atom, ``seconds(component)`` summed over the steps, and
        ``energy_drift`` in eV/atom/ps (slope of a straight line through the total energy).
        Components that the calculator does not time are NaN.
    """
    integrator = VelocityVerlet(atoms, timestep * units.FS)
    ds = _advance(integrator, n_steps, sample_every, max_temperature, "NVE")
    ds["energy_drift"] = xr.Variable((), slope(ds.time / 1000, ds.total_energy))
    ds.energy_drift.attrs = {"units": "eV/atom/ps", "long_name": "drift of the total energy"}
    return ds


def conservation(
    atoms: Atoms, n_steps: int, timestep: float = 1.0, n_samples: int = 200
) -> xr.Dataset:
    """Change of the total energy along NVE, as far as the run stays physical.

    Parameters
    ----------
    atoms
        Configuration with velocities and a calculator; advanced in place.
    timestep
        In fs.
    n_samples
        Number of samples, equally spaced.

    Returns
    -------
    xr.Dataset
        ``temperature(time)`` K, ``potential_energy(time)`` eV/atom, and ``energy_change(time)``
        eV/atom, that of the total energy since the first sample; ``energy_drift`` eV/atom/ps (slope
        of a straight line) and ``stable`` ps, the time until the run became unphysical. Without a
        single sample the series are NaN, at time 0.
    """
    every = max(1, n_steps // n_samples)
    times, samples = [], []
    for k in range(n_steps // every):
        try:  # one run per sample, so that a failure does not lose the samples before it
            run = nve(atoms, every, timestep, sample_every=every)
        except DynamicsError:
            break
        times.append((k + 1) * every * timestep)
        names = ("temperature", "potential_energy", "total_energy")
        samples.append([float(run[name][-1]) for name in names])
    time = np.array(times or [0.0])
    temperature, potential, energy = np.reshape(samples or [np.nan] * 3, (-1, 3)).T
    drift, stable, about = slope(time / 1000, energy), time[-1] / 1000, _described
    return xr.Dataset(
        {
            "temperature": ("time", temperature, about("K", "temperature")),
            "potential_energy": ("time", potential, about("eV/atom", "potential energy per atom")),
            "energy_change": (
                "time",
                energy - energy[0],
                about("eV/atom", "change of the total energy"),
            ),
            "energy_drift": ((), drift, about("eV/atom/ps", "drift of the total energy")),
            "stable": ((), stable, about("ps", "time of stable NVE")),
        },
        {"time": ("time", time, about("fs", "time"))},
    )


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
) -> xr.Dataset:
    """Run at constant temperature and volume, with samples of the positions.

    Parameters
    ----------
    atoms
        Configuration with a calculator; advanced in place. Atoms at rest get velocities.
    temperature
        In K; with Langevin dynamics, it may be 0.
    timestep
        In fs.
    seed
        Seed for the velocities and the Langevin forces.
    thermostat
        ``"nose-hoover"`` (a chain of three; does not affect the diffusion) or ``"langevin"`` (slows
        it down, but reaches equilibrium from any state).
    relaxation
        Time of the thermostat, fs: period of the chain, or inverse Langevin friction.
    max_temperature
        A hotter run (K) has exploded and ends with :class:`DynamicsError`.

    Returns
    -------
    xr.Dataset
        As from :func:`nve`, and ``positions(time, atom, xyz)``, Angstrom, not wrapped;
        ``mass(atom)`` in u; ``cell(vector, xyz)``.
    """
    rng = np.random.default_rng(seed)
    check_thermostat(temperature, thermostat)
    if not atoms.get_momenta().any():
        thermalize(atoms, temperature, rng)
    integrator = _thermostat(atoms, temperature, timestep, thermostat, relaxation, rng)
    return _advance(
        integrator, n_steps, sample_every, max_temperature, f"NVT {temperature:g} K", True
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
    return NoseHoover(atoms, timestep * units.FS, temperature, relaxation * units.FS)


def check_steps(n_steps: int, sample_every: int, desc: str) -> None:
    """Raise InputError for numbers of steps that are not a run."""
    if n_steps < 1 or sample_every < 1:
        raise InputError(f"{desc}: {n_steps} steps sampled every {sample_every} are not a run")


def check_thermostat(temperature: float, thermostat: str = "nose-hoover") -> None:
    """Raise InputError for a temperature (K) that a thermostat cannot hold."""
    _check_temperature(temperature)
    if temperature == 0 and thermostat == "nose-hoover":
        raise InputError("NVT: a chain of Nose and Hoover needs a temperature above 0 K")


class NoseHoover(VelocityVerlet):
    """Constant temperature by a chain of three, around a step of velocity Verlet.

    ASE's own chain moves atoms that constraints hold and counts three degrees of freedom for every
    atom, that of the resting center of mass included.

    Parameters
    ----------
    timestep, relaxation
        In ASE's units.
    temperature
        In K.
    """

    def __init__(
        self, atoms: Atoms, timestep: float, temperature: float, relaxation: float
    ) -> None:
        super().__init__(atoms, timestep)
        third = Freedom.of(atoms).count / 3  # ASE takes a number of atoms
        self._chain = NoseHooverChainThermostat(third, self.masses, temperature, relaxation)

    def step(self, forces: np.ndarray | None = None) -> np.ndarray:
        """Advance by one step; returns the forces at its end."""
        self._exchange_heat()
        forces = super().step(forces)
        self._exchange_heat()
        return forces

    def _exchange_heat(self) -> None:
        momenta = self._chain.integrate_nhc(self.atoms.get_momenta(), self.dt / 2)
        self.atoms.set_momenta(momenta, apply_constraint=False)  # they are scaled alike


def melt(
    atoms: Atoms,
    protocol: MeltProtocol = MeltProtocol(),
    seed: int = 0,
    sample_every: int = 20,
    max_temperature: float = MAX_TEMPERATURE,
) -> xr.Dataset:
    """Melt a crystal in place, quench and equilibrate it, with Langevin dynamics.

    The center of mass rests afterwards. Returns the series of :func:`nve` over all three stages.
    """
    rng = np.random.default_rng(seed)
    hot, cold, ramp = protocol.melt_temperature, protocol.temperature, protocol.quench_steps
    thermalize(atoms, hot, rng)
    integrator = _thermostat(atoms, hot, protocol.timestep, "langevin", 1 / protocol.friction, rng)

    def set_temperature(step: int) -> None:
        done = np.clip((step - protocol.melt_steps) / ramp, 0.0, 1.0)
        if done > 0:
            integrator.set_temperature(temperature_K=hot + done * (cold - hot))

    n_steps = protocol.melt_steps + ramp + protocol.equilibration_steps
    ds = _advance(
        integrator,
        n_steps,
        sample_every,
        max_temperature,
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
    desc: str,
    keep_positions: bool = False,
    before_step: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Take the steps, timing each, and sample between them, outside the timing."""
    check_steps(n_steps, sample_every, desc)
    atoms = integrator.atoms
    if Freedom.of(atoms).count == 0:
        raise InputError(f"{desc}: no atom can move under {names(atoms)}")
    atoms.set_momenta(atoms.get_momenta())  # those of atoms that have been held since go
    atoms.get_forces()  # the first step would otherwise pay for two force calls
    recorder = Recorder(atoms, integrator.dt / units.FS, keep_positions)
    before = _calculator_seconds(atoms)
    total = 0.0
    with progress.bar(total=n_steps, desc=desc, unit="step") as bar:
        for step in range(1, n_steps + 1):
            if before_step is not None:
                before_step(step)
            total += _timed_step(integrator, step, desc)
            _check_heat(recorder.temperature(), max_temperature, step, desc)
            if step % sample_every == 0:
                recorder.record(step)
            bar.update()
    inside = _calculator_seconds(atoms) - before
    seconds = [total, *inside, total - inside.sum()]
    return recorder.dataset(n_steps, dict(zip(COMPONENTS, seconds, strict=True)))


def _timed_step(integrator: MolecularDynamics, step: int, desc: str) -> float:
    """Seconds of one step; DynamicsError with its number if the calculator refuses it."""
    start = perf_counter()
    try:
        integrator.step()
    except InputError as error:
        raise DynamicsError(f"{desc}: step {step}: {error}") from error
    return perf_counter() - start


def _check_heat(temperature: float, limit: float, step: int, desc: str) -> None:
    if not temperature <= limit:  # also true of NaN
        raise DynamicsError(
            f"{desc}: step {step}: the temperature is {temperature:.4g} K, above the limit of "
            f"{limit:g} K"
        )


def _calculator_seconds(atoms: Atoms) -> np.ndarray:
    """Accumulated seconds in neighbor list and model; NaN for a calculator without a clock."""
    timings = getattr(atoms.calc, "timings", {})
    return np.array([timings.get("neighbor_list", np.nan), timings.get("model", np.nan)])


def thermalize(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Draw Maxwell-Boltzmann velocities, scaled to exactly ``temperature`` (K), without drift.

    Constraints hold the velocities, too. A single atom moves, since it has no other motion.
    """
    _check_temperature(temperature)
    check_constraints(atoms)  # before ASE applies constraints, which may fail without a word
    mass = atoms.get_masses()[:, None]
    atoms.set_momenta(np.sqrt(mass * units.KB * temperature) * rng.normal(size=(len(atoms), 3)))
    stop_drift(atoms)
    now = kinetic_temperature(atoms)
    if now > 0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / now))


def _check_temperature(temperature: float) -> None:
    if not temperature >= 0:  # also true of NaN
        raise InputError(f"MD: {temperature:g} K is not a temperature")


def stop_drift(atoms: Atoms) -> None:
    """Remove the motion of the center of mass from the velocities, where nothing holds it."""
    momenta, mass = atoms.get_momenta(), atoms.get_masses()
    drift = Freedom.of(atoms).drift(momenta.sum(axis=0))
    atoms.set_momenta(momenta - mass[:, None] * drift / mass.sum())


def kinetic_temperature(atoms: Atoms, freedom: Freedom | None = None) -> float:
    """Temperature of the velocities, K; ``freedom`` saves counting the degrees of freedom."""
    freedom = freedom or Freedom.of(atoms)
    momentum, mass = atoms.get_momenta().sum(axis=0), atoms.get_masses().sum()
    return freedom.temperature(kinetic_energy(atoms), momentum, mass)


def for_barostat(atoms: Atoms, temperature: float) -> float:
    """Temperature (K) to ask of ASE's barostats, which share it among 3 N degrees of freedom."""
    return temperature * Freedom.of(atoms).count / (3 * len(atoms))


def kinetic_energy(atoms: Atoms) -> float:
    """Kinetic energy, eV."""
    # Not by ASE's vdot: it calls BLAS, whose threads then spin for some 30 ms on the cores that the
    # next force call needs.
    momenta, mass = atoms.get_momenta(), atoms.get_masses()
    return float(np.sum(momenta * momenta / mass[:, None]) / 2)
