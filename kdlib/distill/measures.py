"""Measurements of a finished student against its teacher, beyond errors on frames.

They are energy-volume curves, time and memory of MD, g(r), conservation of energy in crystal and
melt, and the density of the crystal at zero pressure.

The student's density comes from NPT. A teacher is too slow for that, but its density follows from a
few configurations of the student's run: to first order in the difference of the potentials, its
volume is larger by the share dp / B, where dp is the mean difference of its pressure from the
student's and B the bulk modulus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.md.nose_hoover_chain import IsotropicMTKNPT

from kdlib import hipnn, processes, teachers, units
from kdlib.benchmarks.memory import peak, reset_peak
from kdlib.benchmarks.speed import timed_blocks
from kdlib.errors import DynamicsError
from kdlib.geometry import cells, rdf
from kdlib.geometry.cells import closest_pair, unlabeled
from kdlib.md import crystals, dynamics, exploration
from kdlib.md.dynamics import thermalize
from kdlib.md.exploration import Excursion


@dataclass(frozen=True)
class Measures:
    """Settings of the measurements."""

    n_atoms: int = 256
    """Approximate number of atoms in the student's MD cells."""
    cold: float = 300.0
    """Temperature of the crystal, K."""
    hot: float = 0.0
    """Temperature of the melt, K; 0 means the highest of the plan."""
    timestep: float = 2.0
    """Time step, fs."""
    nve_ps: float = 100.0
    """Length of NVE of crystal and melt, ps."""
    npt_ps: float = 20.0
    """Length of NPT of the crystal, after a quarter of it for equilibration, ps."""
    rest_steps: int = 1500
    """Steps of the thermostat, and of the melting, before NVE."""
    melting: float = 1.5
    """Temperature for melting, relative to the melt's."""
    thermostat: float = 100.0
    """Relaxation time of the thermostat in NPT, fs."""
    barostat: float = 1000.0
    """Relaxation time of the barostat, fs."""
    npt_frames: int = 16
    """Configurations of the NPT run for the teacher's pressure."""
    volumes: tuple[float, ...] = (0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09, 1.12)
    """Volumes of the energy-volume curve, relative to the given structure's."""
    timed_steps: int = 5
    """Timed steps of the teacher; the student takes a hundred times as many."""
    timed_atoms: int = 500
    """Approximate number of atoms in the timed cell."""
    rdf_ps: float = 0.0
    """Length of the teacher's and the student's runs for g(r), ps; 0 skips them."""
    label_seeds: int = 0
    """Number of trainings with each use of the teacher's atomic energies
    (:data:`kdlib.distill.partition.WAYS`); 0 skips the comparison."""
    label_epochs: int = 150
    """Epochs of these trainings."""


FULL = Measures()


def curves(
    student: BaseCalculator, teacher: BaseCalculator, given: Sequence[Atoms], m: Measures
) -> xr.Dataset:
    """Energy-volume curves of both potentials, from scaled copies of the given cells.

    Returns
    -------
    xr.Dataset
        ``curve(model, structure, ratio)`` eV/atom above each model's own lowest point and
        ``relaxed_volume(model, structure)`` Angstrom^3/atom.
    """
    energies = np.empty((2, len(given), len(m.volumes)))
    relaxed = np.empty((2, len(given)))
    for i, calculator in enumerate((teacher, student)):
        for j, atoms in enumerate(given):
            for k, ratio in enumerate(m.volumes):
                energies[i, j, k] = _scaled_energy(atoms, ratio, calculator)
            volumes = np.array(m.volumes) * atoms.get_volume() / len(atoms)
            relaxed[i, j], *_ = crystals.fit(volumes, energies[i, j])
    names = [atoms.get_chemical_formula() for atoms in given]
    about = {"units": "eV/atom", "long_name": "energy above the lowest point"}
    volume = {"units": "Angstrom^3/atom", "long_name": "volume of the lowest energy"}
    return xr.Dataset(
        {
            "curve": (
                ("model", "structure", "ratio"), energies - energies.min(2, keepdims=True), about,
            ),
            "relaxed_volume": (("model", "structure"), relaxed, volume),
        },
        coords={
            "model": ("model", ["teacher", "student"], {"long_name": "potential"}),
            "structure": ("structure", names, {"long_name": "crystal"}),
            "ratio": (
                "ratio", list(m.volumes), {"units": "1", "long_name": "volume over the given one"},
            ),
        },
    )  # fmt: skip


def _scaled_energy(atoms: Atoms, ratio: float, calculator: BaseCalculator) -> float:
    scaled = cells.scaled(atoms, ratio)
    scaled.calc = calculator
    return scaled.get_potential_energy() / len(scaled)


def costs(teacher_name: str, run_dir: Path, given: Atoms, m: Measures) -> xr.Dataset:
    """Time and memory of MD with both potentials, one after the other, each in its own process.

    Returns
    -------
    xr.Dataset
        ``step_time(model)`` ms/atom/step and ``md_memory(model)`` MB above what the model's
        process holds before its run.
    """
    atoms = cells.supercell(given, m.timed_atoms)
    threads = processes.cores()
    teacher = processes.call(_timed_teacher, teacher_name, atoms, m, threads=threads)
    student = processes.call(_timed_student, run_dir, atoms, m, threads=threads)
    time_, memory = np.transpose([teacher, student])
    return xr.Dataset(
        {
            "step_time": (
                "model", time_, {"units": "ms/atom/step", "long_name": "time per MD step and atom"}
            ),
            "md_memory": (
                "model", memory, {"units": "MB", "long_name": "memory of the run beyond the model"}
            ),
        },
        coords={"model": ("model", ["teacher", "student"], {"long_name": "potential"})},
        attrs={"timed_atoms": len(atoms), "timed_threads": threads},
    )  # fmt: skip


def _timed_teacher(name: str, atoms: Atoms, m: Measures) -> tuple[float, float]:
    return _timed(atoms, teachers.load(name).calculator(), m.timed_steps, m)


def _timed_student(run_dir: Path, atoms: Atoms, m: Measures) -> tuple[float, float]:
    return _timed(atoms, hipnn.load(run_dir).calculator(), 100 * m.timed_steps, m)


def _timed(
    atoms: Atoms, calculator: BaseCalculator, n_steps: int, m: Measures
) -> tuple[float, float]:
    import torch

    moving = atoms.copy()
    thermalize(moving, m.cold, np.random.default_rng(0))
    moving.calc = calculator
    device = torch.device("cpu")
    try:
        dynamics.nve(moving, 1, m.timestep)  # compiles, and builds the neighbor list
        reset_peak(device)
        before = peak(device)
        seconds = timed_blocks(moving, n_steps, m.timestep, repeats=1)[0, 0]
    except DynamicsError:  # the run became unphysical
        return np.nan, np.nan
    return 1e3 * seconds / n_steps / len(moving), (peak(device) - before) / 1e6


def liquids(
    student: BaseCalculator, teacher: BaseCalculator, begun: Atoms, temperature: float, m: Measures
) -> xr.Dataset:
    """g(r) of both potentials in a small cell, and the noise floor of equally long runs.

    Returns
    -------
    xr.Dataset
        ``g(model, r)``, ``rdf_error`` and ``rdf_floor``, Angstrom.
    """
    n_steps = max(40, round(1000 * m.rdf_ps / m.timestep))
    reach = min(8.0, 0.98 * _smallest_height(begun))
    found, parts = [], []
    for calculator in (teacher, student):
        atoms = begun.copy()
        thermalize(atoms, temperature, np.random.default_rng(1))
        atoms.calc = calculator
        dynamics.nvt(atoms, temperature, n_steps // 4, m.timestep, sample_every=n_steps // 4)
        run = dynamics.nvt(atoms, temperature, n_steps, m.timestep, 1, max(1, n_steps // 100))
        positions, cell = run.positions.values, run.cell.values
        found.append(rdf.rdf(positions, cell, reach, 120))
        # The last run, the student's, gives the floor.
        parts = rdf.pieces(positions, cell, 2, reach, 120)
    low = 0.6 * closest_pair(begun).distance  # both g(r) vanish below
    models = xr.Variable("model", ["teacher", "student"], {"long_name": "potential"})
    about = {"units": "Angstrom"}
    return xr.Dataset(
        {
            "g": xr.concat(found, models, combine_attrs="drop_conflicts"),
            "rdf_error": (
                (), rdf.rdf_error(found[1], found[0], low, reach),
                about | {"long_name": "g(r) of the student against the teacher"},
            ),
            "rdf_floor": (
                (), rdf.noise_floor(parts, 2, low, reach),
                about | {"long_name": "error of two runs of one model"},
            ),
        }
    )  # fmt: skip


def _smallest_height(atoms: Atoms) -> float:
    """Smallest height of a cell, Angstrom: beyond it, an atom's own images dominate g(r)."""
    return float(1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0).max())


def conservation(
    student: BaseCalculator, given: Atoms, hot: float, expansion: float, m: Measures
) -> xr.Dataset:
    """NVE of crystal and melt: change of the total energy, and how long it lasted.

    Returns
    -------
    xr.Dataset
        ``energy_change(state, time)`` eV/atom, ``energy_drift(state)`` eV/atom/ps,
        ``stable(state)`` ps.
    """
    found = []
    for state, temperature in (("solid", m.cold), ("molten", hot)):
        atoms = _prepared(student, given, state == "molten", temperature, expansion, m)
        found.append(_followed(atoms, m).expand_dims(state=[state]))
    whole = xr.concat(found, "state", join="outer", coords="minimal", compat="override")
    return whole.assign_coords(state=("state", whole.state.values, {"long_name": "state"}))


def _prepared(
    student: BaseCalculator, given: Atoms, melt: bool, temperature: float, expansion: float,
    m: Measures,
) -> Atoms | None:  # fmt: skip
    """Cell after some thermostatted MD, melted first if asked for; None if it became unphysical."""
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
    thermalize(atoms, temperature, rng)
    atoms.calc = student
    return atoms


def _followed(atoms: Atoms | None, m: Measures) -> xr.Dataset:
    """Conservation along NVE, over times in ps; empty without atoms."""
    n_steps = max(10, round(1000 * m.nve_ps / m.timestep)) if atoms else 0
    found = dynamics.conservation(atoms, n_steps, m.timestep)
    about = {"units": "ps", "long_name": "time"}
    found = found.assign_coords(time=("time", found.time.values / 1000, about))
    return found.drop_vars(["temperature", "potential_energy"])


#: Steps between averaged volumes.
EVERY = 4
#: Relative change of volume for the bulk modulus.
STRETCH = 0.01


@dataclass(frozen=True)
class Run:
    """NPT of the student."""

    volume: float
    """Mean volume, Angstrom^3."""
    frames: list[Atoms]
    """Equally spaced configurations."""


def densities(
    student: BaseCalculator, teacher: BaseCalculator, given: Atoms, m: Measures
) -> xr.Dataset:
    """Mean densities of the crystal in NPT at zero pressure.

    Returns
    -------
    xr.Dataset
        ``density(model)``, g/cm3: NaN for both if the student's run ends early, and for a teacher
        without stress.
    """
    atoms = cells.supercell(given, m.n_atoms)
    run = _npt(student, atoms, m)
    found = [np.nan, np.nan]
    if run is not None:
        own = atoms.get_masses().sum() * units.GRAM_PER_CM3 / run.volume
        found = [own * np.exp(-_expansion(student, teacher, run.frames)), own]
    about = {"units": "g/cm3", "long_name": f"density at {m.cold:g} K and no pressure"}
    names = ("model", ["teacher", "student"], {"long_name": "potential"})
    return xr.Dataset({"density": ("model", found, about)}, coords={"model": names})


def _npt(student: BaseCalculator, atoms: Atoms, m: Measures) -> Run | None:
    """Run NPT, after a quarter of its length for equilibration; None if it ends early."""
    thermalize(atoms, 2 * m.cold, np.random.default_rng(0))
    atoms.calc = student
    npt = IsotropicMTKNPT(
        atoms, m.timestep * units.FS, pressure_au=0.0,
        temperature_K=dynamics.for_barostat(atoms, m.cold),
        tdamp=m.thermostat * units.FS, pdamp=m.barostat * units.FS,
    )  # fmt: skip
    n_volumes = max(2, round(1000 * m.npt_ps / m.timestep / EVERY))
    every = max(1, n_volumes // m.npt_frames)
    volumes, frames = [], []
    try:
        npt.run(n_volumes * EVERY // 4)
        for k in range(n_volumes):
            npt.run(EVERY)
            volumes.append(atoms.get_volume())
            if (k + 1) % every == 0:
                frames.append(unlabeled(atoms))
    except Exception:  # calculators and ASE raise anything when a cell flies apart
        return None
    return Run(float(np.mean(volumes)), frames)


def _expansion(student: BaseCalculator, teacher: BaseCalculator, frames: Sequence[Atoms]) -> float:
    """Relative excess of the teacher's volume over the student's; NaN without its stress."""
    try:
        theirs = np.mean([_pressure(teacher, atoms) for atoms in frames])
    except NotImplementedError:
        return np.nan
    ours = np.mean([_pressure(student, atoms) for atoms in frames])
    ends = [
        np.mean([_pressure(student, atoms, 1 + side * STRETCH / 2) for atoms in frames])
        for side in (-1, 1)
    ]
    modulus = (ends[0] - ends[1]) / STRETCH
    return float((theirs - ours) / modulus)


def _pressure(calculator: BaseCalculator, atoms: Atoms, ratio: float = 1.0) -> float:
    """Static pressure, eV/Angstrom^3, in a cell of ``ratio`` times the volume."""
    scaled = cells.scaled(atoms, ratio)
    scaled.calc = calculator
    return float(-scaled.get_stress()[:3].mean())
