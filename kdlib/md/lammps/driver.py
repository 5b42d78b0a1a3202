"""LAMMPS's integrators, thermostats, barostats and analysis with the forces of any ASE calculator.

LAMMPS comes with the extra ``lammps``; its ``fix external`` requests forces in every step, so any
ASE calculator works. For a saved HIP-NN the forces come from ``pair_style hipnn`` instead where
``kdlib lammps build`` has compiled it. Commands are LAMMPS's own, in its units ``metal`` (ps, bar);
results are in the units of this package.

>>> from kdlib.md import lammps
>>> with lammps.Driver(kdlib.load("runs/student").calculator(), atoms) as driver:  # doctest: +SKIP
...     driver.command("fix 1 all npt temp 1200 1200 0.1 iso 0 0 1")
...     series = driver.run(1000)
...     g = lammps.rdf(driver, 5000)

Do not confuse it with the package ``lammps``, which it imports, or with
:mod:`kdlib.benchmarks.side_by_side.lammps`, which times LAMMPS with a classical potential.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols

from kdlib import processes, progress, units
from kdlib.errors import MAX_TEMPERATURE, DynamicsError, InputError
from kdlib.geometry import rdf as radial
from kdlib.geometry.freedom import Freedom
from kdlib.md import dynamics
from kdlib.md.lammps import box, pairstyle, program
from kdlib.md.lammps.box import Box

#: Where forces come from.
EXTERNAL, PAIR_STYLE = "fix external", "pair_style hipnn"
#: Range of the neighbor list of the pair style beyond the cutoff, Angstrom.
SKIN = 1.0
#: Identity of our ``fix external``, and of our ``compute rdf``.
FIX, RDF = "kdlib", "kdlib_rdf"


class Driver:
    """A LAMMPS instance with our forces; close it, or use it in a ``with`` statement.

    Parameters
    ----------
    atoms
        Configuration, periodic in three directions; copied. Its elements become types in the order
        of their atomic numbers; its velocities are the initial ones.
    log
        File for LAMMPS's log; by default none is written.
    virial
        Whether LAMMPS gets the virial, in the steps in which it needs it. Without it the pressure
        is NaN; do not use barostats then.
    max_temperature
        A sample hotter than this (K) raises :class:`~kdlib.errors.DynamicsError`.
    forces_by
        ``"pair_style hipnn"`` or ``"fix external"``; by default the pair style, if the calculator
        is that of a model which it covers, and it has been compiled.

    ``forces_by`` is also an attribute, with what was chosen, as in the attributes of a series;
    ``lammps`` is the instance of the package, for everything that this class does not cover.
    """

    def __init__(
        self,
        calculator: Calculator,
        atoms: Atoms,
        log: str | Path | None = None,
        virial: bool = True,
        max_temperature: float = MAX_TEMPERATURE,
        forces_by: str = "",
    ) -> None:
        box.check(atoms, calculator, virial)
        plugin = _plugin(calculator, forces_by)
        self._atoms = atoms.copy()  # one object for all steps, so that the calculator knows it
        self._atoms.calc = calculator
        self._virial, self._max_temperature = virial, max_temperature
        self._samples: list[dict[str, float]] = []
        self._failure: tuple[int, BaseException] | None = None
        self.lammps = box.start(log, processes.threads() if plugin else 1)
        self._box = Box(self.lammps, self._atoms)
        self.forces_by = PAIR_STYLE if plugin else EXTERNAL
        if plugin:
            self._choose_pair_style(plugin)
        else:
            self._choose_external()
        self.share_heat("thermo_temp")

    def _choose_pair_style(self, plugin: Path) -> None:
        folder, precision = self._atoms.calc.saved_model()
        symbols = [chemical_symbols[z] for z in np.unique(self._atoms.numbers)]
        for line in pairstyle.commands(plugin, precision):
            self.command(line)
        self.command(f"pair_coeff * * {pairstyle.quoted(folder)} {' '.join(symbols)}")
        self.command(f"neighbor {SKIN} bin")

    def _choose_external(self) -> None:
        self.command(f"fix {FIX} all external pf/callback 1 1")
        self.command(f"fix_modify {FIX} energy yes virial {'yes' if self._virial else 'no'}")
        self.lammps.set_fix_external_callback(FIX, self._callback, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release LAMMPS and its memory; the series of :meth:`thermo` stays."""
        self.lammps.close()

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.lammps.extract_global("ntimestep")

    def command(self, line: str) -> None:
        """Execute one line of LAMMPS's input language.

        Raises
        ------
        InputError
            LAMMPS rejects the line.
        DynamicsError
            The calculator failed, or LAMMPS after the first step; the message names the step.
        """
        if self.lammps.lmp is None:
            raise InputError("LAMMPS: this driver is closed")
        before, message = self.step, ""
        try:
            self.lammps.command(line)
        except Exception as error:  # the package knows no narrower class
            message = str(error).splitlines()[0].removeprefix("ERROR: ")
        if self._failure is not None:
            (step, error), self._failure = self._failure, None
            self.lammps.command("timer timeout off")
            if not isinstance(error, Exception):  # the user's Ctrl-C
                raise error
            raise DynamicsError(f"LAMMPS: step {step}: {error}") from error
        if message and self.step > before:
            raise DynamicsError(f"LAMMPS: step {self.step}: {message}")
        if message:
            raise InputError(f"LAMMPS: {line!r}: {message}")

    def share_heat(self, compute: str) -> None:
        """Tell one of LAMMPS's temperatures of all atoms the degrees of freedom that share it."""
        without = 3 * len(self._atoms) - Freedom.of(self._atoms).count
        self.command(f"compute_modify {compute} extra/dof {without}")

    def run(self, n_steps: int, sample_every: int = 10) -> xr.Dataset:
        """Take steps with the fixes that were commanded.

        Parameters
        ----------
        n_steps
            Number of steps; 0 evaluates the forces and samples once.

        Returns
        -------
        xr.Dataset
            The part of :meth:`thermo` that this run adds.
        """
        first = len(self._samples)
        for _ in self.samples(n_steps, sample_every):
            pass
        return self._series(self._samples[first:])

    def thermo(self) -> xr.Dataset:
        """Thermodynamic series of all runs so far, as LAMMPS computes it.

        Dimension ``time`` (fs): ``temperature`` K, ``potential_energy``, ``kinetic_energy`` and
        ``total_energy`` eV/atom, ``pressure`` GPa, ``volume`` Angstrom^3.
        """
        return self._series(self._samples)

    def _series(self, samples: list[dict[str, float]]) -> xr.Dataset:
        return box.series(samples, len(self._atoms)).assign_attrs(forces_by=self.forces_by)

    def atoms(self) -> Atoms:
        """Return the current configuration in the frame of the input, without a calculator.

        Positions are not wrapped. If LAMMPS flips its box, a tilted cell under a barostat comes
        back with other vectors of the same lattice.
        """
        atoms = self._atoms.copy()
        self._box.read(atoms)
        return atoms

    def forces(self) -> np.ndarray:
        """Forces of the last step in the frame of the input, (n_atoms, 3), eV/Angstrom.

        They include those of thermostats that act by forces.
        """
        return self._box.vectors("f")

    def _callback(
        self, caller: None, step: int, n_atoms: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray
    ) -> None:
        """Fill in the forces; no exception may pass through LAMMPS, which is stopped instead."""
        try:
            f[:] = self._evaluate(step, tag - 1, x)
        except BaseException as error:
            f[:] = 0.0
            self._failure = (step, error)
            self.lammps.force_timeout()

    def _evaluate(self, step: int, order: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Tell LAMMPS the energy and the virial, and return the forces in its frame and order."""
        atoms = self._atoms
        cell, positions = self._box.positions(x)
        atoms.set_cell(cell)
        atoms.positions[order] = positions
        # vflag_global is the step for which LAMMPS needs a virial; most steps of NVT need none.
        strained = self._virial and self.lammps.extract_global("vflag_global") == step
        results = self._results(["energy", "forces", *["stress"] * strained])
        self.lammps.fix_external_set_energy_global(FIX, results["energy"])
        if strained:
            virial = self._box.virial(results["stress"], atoms.get_volume())
            self.lammps.fix_external_set_virial_global(FIX, virial)
        return results["forces"][order] @ self._box.rotation

    def _results(self, properties: list[str]) -> dict:
        """Results of the calculator from at most one calculation, not one per property."""
        calculator = self._atoms.calc
        changes = calculator.check_state(self._atoms)
        if changes:  # as ASE's get_property does; a mean of calculators has no reset()
            calculator.atoms, calculator.results = None, {}
        if changes or not set(properties) <= set(calculator.results):
            calculator.calculate(self._atoms, properties, changes)
        return calculator.results

    def samples(self, n_steps: int, sample_every: int = 10) -> Iterator[None]:
        """Run as :meth:`run` does, and yield after every sample."""
        if n_steps < 0 or sample_every < 1:
            raise InputError(f"LAMMPS: {n_steps} steps sampled every {sample_every} are not a run")
        start, end = self.step, self.step + n_steps
        with progress.bar(total=n_steps, desc="LAMMPS", unit="step") as bar:
            for done in range(0, max(n_steps, 1), sample_every):
                n = min(sample_every, n_steps - done)
                setup = "no" if done else "yes"
                self.command(f"run {n} pre {setup} post no start {start} stop {end}")
                bar.update(n)
                if n == sample_every or n_steps == 0:
                    self._sample()
                    yield

    def _sample(self) -> None:
        sample = self._box.state()
        if not sample["temperature"] <= self._max_temperature:  # also true of NaN
            raise DynamicsError(
                f"LAMMPS: step {self.step}: the temperature is {sample['temperature']:.4g} K, "
                f"above the limit of {self._max_temperature:g} K"
            )
        if not self._virial:
            sample["pressure"] = np.nan
        self._samples.append(sample)


def _plugin(calculator: Calculator, forces_by: str) -> Path | None:
    """Compiled pair style that takes the calculator's place, or None for ``fix external``."""
    if forces_by not in ("", EXTERNAL, PAIR_STYLE):
        known = f"{PAIR_STYLE!r} or {EXTERNAL!r}"
        raise InputError(f"LAMMPS: forces_by is {forces_by!r}, must be {known}")
    if forces_by == EXTERNAL:
        return None
    covered = getattr(calculator, "saved_model", lambda: None)()
    plugin = None
    if covered:
        with suppress(InputError):  # another installation of LAMMPS, without the program
            plugin = pairstyle.built(program.of_package())
    if plugin is None and forces_by == PAIR_STYLE:
        raise InputError(
            "LAMMPS: pair_style hipnn has not been compiled; run kdlib lammps build"
            if covered
            else f"LAMMPS: pair_style hipnn does not cover this {type(calculator).__name__}, which "
            "is not that of a saved model on the CPU with one interaction layer and l_max 0 or 1"
        )
    return plugin


def rdf(
    driver: Driver,
    n_steps: int,
    sample_every: int = 20,
    r_max: float = 8.0,
    n_bins: int = 160,
    skin: float = 2.0,
) -> xr.DataArray:
    """Radial distribution function of a run, by LAMMPS's own ``compute rdf``.

    ``r_max``, ``n_bins`` and the result are those of :func:`kdlib.geometry.rdf.rdf`.

    Parameters
    ----------
    driver
        Continues its run with its fixes; its series is extended.
    n_steps
        Sampled steps; 0 uses the current configuration alone.
    skin
        Range of LAMMPS's neighbor list beyond ``r_max``, Angstrom.
    """
    driver.command(f"neighbor {skin} bin")
    driver.command(f"comm_modify cutoff {r_max + skin}")
    driver.command(f"compute {RDF} all rdf {n_bins} cutoff {r_max}")
    samples, densities, n_atoms = [], [], len(driver._atoms)
    try:
        for _ in driver.samples(n_steps, sample_every):
            _, g, _ = driver.lammps.numpy.extract_compute(RDF, 0, 2).T
            samples.append(g.copy())
            densities.append(n_atoms / driver.lammps.get_thermo("vol"))
    finally:
        driver.command(f"uncompute {RDF}")
        driver.command("comm_modify cutoff 0.0")
    if not samples:
        raise InputError(f"g(r) of {n_steps} steps sampled every {sample_every} has no sample")
    attrs = {
        "long_name": "radial distribution function",
        "units": "1",
        "n_atoms": n_atoms,
        "n_samples": len(samples),
        "density": float(np.mean(densities)),
        "bin_width": r_max / n_bins,
    }
    # LAMMPS divides by the N - 1 other atoms, we divide by N.
    g = np.mean(samples, axis=0) * (n_atoms - 1) / n_atoms
    return xr.DataArray(g, coords={"r": radial.centers(r_max, n_bins)}, name="g", attrs=attrs)


def nvt(
    atoms: Atoms,
    temperature: float,
    n_steps: int,
    timestep: float = 2.0,
    seed: int = 0,
    sample_every: int = 20,
    relaxation: float = 100.0,
    max_temperature: float = MAX_TEMPERATURE,
) -> xr.Dataset:
    """:func:`kdlib.md.dynamics.nvt` by LAMMPS's ``fix nvt``, a chain of Nose and Hoover.

    Arguments and result are the same, but steps are not timed, the series begins with the first
    sample, and the temperature is checked only in samples.
    """
    dynamics.check_steps(n_steps, sample_every, "LAMMPS")
    dynamics.check_thermostat(temperature)
    if not atoms.get_momenta().any():
        dynamics.thermalize(atoms, temperature, np.random.default_rng(seed))
    dynamics.stop_drift(atoms)
    positions = []
    with Driver(atoms.calc, atoms, virial=False, max_temperature=max_temperature) as driver:
        driver.command(f"timestep {timestep / units.PS!r}")
        target = f"{float(temperature)!r}"
        driver.command(f"fix 1 all nvt temp {target} {target} {relaxation / units.PS!r}")
        driver.share_heat("1_temp")  # the fix has a temperature of its own
        for _ in driver.samples(n_steps, sample_every):
            positions.append(driver.atoms().positions)
        end = driver.atoms()
    atoms.positions = end.positions
    atoms.set_momenta(end.get_momenta())
    return dynamics.with_positions(driver.thermo(), atoms, positions)
