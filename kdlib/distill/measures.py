"""What a finished student is measured by, against its teacher, beyond errors on frames."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from kdlib.md import crystals
from kdlib.md import dynamics
from kdlib import hipnn
from kdlib.md import liquid
from kdlib.geometry import rdf
from kdlib import teachers
from kdlib.geometry.pairs import closest_pair
from kdlib.geometry import cells
from kdlib.md.dynamics import DynamicsError
from kdlib.isolation import call
from kdlib.isolation import cores
from kdlib.benchmarks.memory import peak
from kdlib.benchmarks.memory import reset_peak


@dataclass(frozen=True)
class Measures:
    """How much is measured."""

    n_atoms: int = 256
    """Wanted atoms of the student's MD cells."""
    cold: float = 300.0
    """Temperature of the crystal, K."""
    hot: float = 0.0
    """Temperature of the melt, K; 0 takes the highest that the student is made for."""
    timestep: float = 2.0
    """In fs."""
    nve_ps: float = 100.0
    """Length of NVE of crystal and melt, ps."""
    npt_ps: float = 20.0
    """Length of NPT of the crystal, after a quarter of it for equilibration, ps."""
    rest_steps: int = 1500
    """Steps of the thermostat, and of the melting, before NVE."""
    melting: float = 1.5
    """Temperature of the melting in units of the melt's."""
    thermostat: float = 100.0
    """Time of the thermostat in NPT, fs."""
    barostat: float = 1000.0
    """Time of the barostat, fs."""
    npt_frames: int = 16
    """Configurations of it on which the teacher's pressure is asked for."""
    volumes: tuple[float, ...] = (0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09, 1.12)
    """Of the energy-volume curve, in units of the given structure's."""
    timed_steps: int = 5
    """Steps that the teacher is timed for; the student takes a hundred times as many."""
    timed_atoms: int = 500
    """Wanted atoms of the cell that both are timed on."""
    rdf_ps: float = 0.0
    """Length of the teacher's and the student's runs for g(r), ps; 0 leaves it out."""
    label_seeds: int = 0
    """Trainings with each use of the teacher's atomic energies
    (:data:`kdlib.distill.partition.WAYS`); 0 leaves the comparison out."""
    label_epochs: int = 150
    """Epochs of each."""


FULL = Measures()


def curves(
    student: BaseCalculator, teacher: BaseCalculator, given: Sequence[Atoms], m: Measures
) -> xr.Dataset:
    """Energy-volume curves of both, cells scaled as they are given.

    Returns
    -------
    xarray.Dataset
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
    """Time and memory of MD of both, one after the other, each in a process of its own.

    Returns
    -------
    xarray.Dataset
        ``step_time(model)`` ms/atom/step and ``md_memory(model)`` MB above what the model's
        process holds before its run.
    """
    atoms = cells.supercell(given, m.timed_atoms)
    threads = cores()
    teacher = call(_timed_teacher, teacher_name, atoms, m, threads=threads)
    student = call(_timed_student, run_dir, atoms, m, threads=threads)
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
    liquid.thermalize(moving, m.cold, np.random.default_rng(0))
    moving.calc = calculator
    device = torch.device("cpu")
    try:
        dynamics.nve(moving, 1, m.timestep)
        reset_peak(device)
        before = peak(device)
        started = time.perf_counter()
        dynamics.nve(moving, n_steps, m.timestep)
    except DynamicsError:  # a run that explodes is not timed
        return np.nan, np.nan
    seconds = time.perf_counter() - started
    return 1e3 * seconds / n_steps / len(moving), (peak(device) - before) / 1e6


def liquids(
    student: BaseCalculator, teacher: BaseCalculator, begun: Atoms, temperature: float, m: Measures
) -> xr.Dataset:
    """g(r) of both in a cell that the teacher can afford, and the floor of equally long runs.

    Returns
    -------
    xarray.Dataset
        ``g(model, r)``, ``rdf_error`` and ``rdf_floor``, Angstrom.
    """
    n_steps = max(40, round(1000 * m.rdf_ps / m.timestep))
    reach = min(8.0, 0.98 * _smallest_height(begun))
    found, parts = [], []
    for calculator in (teacher, student):
        atoms = begun.copy()
        liquid.thermalize(atoms, temperature, np.random.default_rng(1))
        atoms.calc = calculator
        dynamics.nvt(atoms, temperature, n_steps // 4, m.timestep, sample_every=n_steps // 4)
        run = dynamics.nvt(atoms, temperature, n_steps, m.timestep, 1, max(1, n_steps // 100))
        positions, cell = run.positions.values, run.cell.values
        found.append(rdf.rdf(positions, cell, reach, 120))
        parts = rdf.pieces(positions, cell, 2, reach, 120)
    low = 0.6 * closest_pair(begun).distance
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
    """Largest distance that g(r) of a cell is wanted for: its smallest height, Angstrom."""
    return float(1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0).max())
