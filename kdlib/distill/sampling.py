"""Configurations to label: the first ones, and those of the students' MD in each round.

The name of a frame tells its origin: `r00/c007` is the eighth of the first cells, `r00/m01/f004`
the fifth frame of the teacher's second run, `r03/t12/fresh` and `r03/t12/worst` are the fresh and
the most disputed frame of trajectory 12 in round 3, and `test1/t12/fresh` tests a finished student.
Random numbers follow from the plan's seed, the round and the trajectory.
"""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms
from ase.build import bulk

from kdlib import hipnn, progress
from kdlib.datasets import readers
from kdlib.distill import labeled
from kdlib.distill.plan import Plan
from kdlib.errors import InputError
from kdlib.files import made, named, replacing
from kdlib.geometry import cells
from kdlib.geometry.cells import (
    CELL_STATES,
    OVERLAP,
    closest_pair,
    half_open,
    no_elements,
    odd_arrays,
    partly_occupied,
    unlabeled,
)
from kdlib.md import exploration
from kdlib.md.exploration import Excursion
from kdlib.teachers import Teacher

#: How a frame was chosen -> last part of its name; in this order, the fresh one comes first.
LAST = {"fresh": "fresh", "disputed": "worst"}
#: Steps of the teacher's MD between frames.
TEACHER_SAMPLE = 5
#: Every N-th MD frame goes to validation instead of training.
VALID_EVERY = 5
#: Displacements (Angstrom, standard deviation) up to which a rattled cell resembles thermal motion.
THERMAL = 0.12


@dataclass(frozen=True)
class Round:
    """One exploration by the students."""

    number: int
    """From 1, separately for rounds and tests; round 0 is that of the first frames."""
    is_test: bool = False
    """Whether its fresh frames test a finished student; they are not trained on, unless the
    distillation is resumed with a larger budget."""

    @property
    def name(self) -> str:
        """First part of the names of its frames; a test comes after all rounds."""
        return f"test{self.number}" if self.is_test else f"r{self.number:02d}"

    @property
    def stream(self) -> int:
        """Seed that makes its random numbers differ from those of other rounds; tests from 90."""
        if self.is_test:
            return 89 + self.number
        return self.number if self.number < 90 else 10_000 + self.number


FIRST = Round(0)


@dataclass(frozen=True)
class Start:
    """Start of a trajectory."""

    atoms: Atoms
    temperature: float
    """Temperature, K."""
    molten: bool


def first(plan: Plan, given: Sequence[Atoms]) -> dict[str, Atoms]:
    """Rattled and strained cells, those with atoms too close left out.

    Parameters
    ----------
    plan
        How many, how far.
    """
    found, shortest = {}, contact(given)
    bases = [cells.supercell(atoms, plan.n_atoms) for atoms in given]
    low, high = np.log(plan.rattle)
    for k in range(plan.n_start):
        rng = np.random.default_rng([plan.seed, 0, k])
        rattle = float(np.exp(rng.uniform(low, high)))
        volume = rng.uniform(*plan.volumes)
        atoms = _cell(plan, bases[k % len(bases)], volume, rattle, shortest, rng)
        if closest_pair(atoms).distance < plan.closest_pair * shortest:
            continue
        # Validate on cells that resemble MD, not on those with the largest displacements.
        part = "test" if k == 0 else "valid" if k % 4 == 1 and rattle < THERMAL else "train"
        atoms.info.update(sampling="rattled", part=part, round=FIRST.name)
        found[f"{FIRST.name}/c{k:03d}"] = atoms
    return found


def _cell(
    plan: Plan, base: Atoms, volume: float, rattle: float, shortest: float, rng: np.random.Generator
) -> Atoms:
    """Draw one of the first cells; with several species, some have exchanged atoms."""
    # Like atoms never meet in an ordered crystal but do in its melt: a student that has not seen
    # such pairs has a spurious attractive well where they should repel.
    if len(set(base.numbers)) == 1 or rng.random() >= plan.antisites:
        return cells.deformed(base, volume, plan.strain, rattle, rng)
    n_pairs = int(rng.integers(1, 1 + max(1, len(base) // 8)))
    base = cells.exchanged(base, n_pairs, rng)
    atoms = cells.deformed(base, volume, plan.strain, rattle, rng)
    distances = plan.closest_pair * shortest, plan.pressed * shortest
    return cells.pressed(atoms, n_pairs, distances, rng)


def by_teacher(plan: Plan, given: Sequence[Atoms], teacher: Teacher) -> dict[str, Atoms]:
    """Frames of short MD runs by the teacher, hot enough to leave the crystal.

    A run in which the teacher fails gives none.
    """
    found = {}
    for j in progress.bar(range(plan.n_teacher_runs), desc="the teacher's MD", unit="run"):
        rng = np.random.default_rng([plan.seed, 1, j])
        base = cells.supercell(given[j % len(given)], plan.n_atoms)
        volume = rng.uniform(1.0, plan.volumes[1])
        atoms = cells.deformed(base, volume, plan.strain, plan.rattle[0], rng)
        excursion = Excursion(
            plan.melting * plan.temperatures[1], plan.teacher_steps, TEACHER_SAMPLE, plan.timestep,
            closest=plan.closest_pair * contact(given), relaxation=50.0, seed=plan.seed + j,
        )  # fmt: skip
        try:
            path = exploration.follow(atoms, teacher.calculator(), excursion)
        except Exception as error:  # calculators raise anything
            reason = next(iter(str(error).splitlines()), "")
            progress.line(f"run {j} of the teacher's MD failed: {type(error).__name__}: {reason}")
            continue
        for k, frame in enumerate(path.frames):
            part = "valid" if k % VALID_EVERY == 1 else "train"
            frame.info.update(sampling="teacher's MD", part=part, round=FIRST.name)
            found[f"{FIRST.name}/m{j:02d}/f{k:03d}"] = frame
    return found


def contact(given: Sequence[Atoms]) -> float:
    """Closest pair of the given structures, Angstrom."""
    return min(closest_pair(atoms).distance for atoms in given)


def start(plan: Plan, given: Sequence[Atoms], current: Round, j: int) -> Start:
    """Start of trajectory j of a round; structures alternate, temperatures and volumes vary."""
    rng = np.random.default_rng([plan.seed, 1 + current.stream, j])
    low, high = plan.temperatures
    temperature = rng.uniform(low, high)
    molten = bool(temperature > plan.molten_above * high and j % 2)
    smallest, largest = plan.volumes
    # A crystal expands less than its melt, and a melt is not denser than its crystal.
    middle = 1 + (largest - 1) / 2
    volume = rng.uniform(1.0, largest) if molten else rng.uniform(smallest, middle)
    base = cells.supercell(given[j % len(given)], plan.n_atoms)
    atoms = cells.deformed(base, volume, plan.strain, plan.rattle[0], rng)
    return Start(atoms, temperature, molten)


def explore(
    plan: Plan,
    given: Sequence[Atoms],
    run_dirs: Sequence[Path],
    current: Round,
    folder: Path,
    executor: Executor,
) -> tuple[dict[str, Atoms], xr.Dataset]:
    """Run the trajectories of a round, or read those of an earlier call.

    Parameters
    ----------
    run_dirs
        Models of the ensemble; number j modulo its size drives trajectory j.
    folder
        Where the round is kept.
    executor
        Where trajectories are run.

    Returns
    -------
    dict
        Name -> configuration: of each trajectory a fresh one, drawn at random, and the most
        disputed one; ``info`` says which.
    xr.Dataset
        ``temperature`` K, ``volume`` Angstrom^3/atom, ``molten``, ``disagreement`` and
        ``median_disagreement`` eV/Angstrom, ``survived`` over ``trajectory``.
    """
    frames_file, series_file = folder / "configurations.extxyz", folder / "trajectories.nc"
    if not series_file.exists():
        made(folder)
        found, ds = _explored(plan, given, run_dirs, current, executor)
        readers.write(list(found.values()), frames_file)
        with replacing(series_file) as part:
            part.write_bytes(ds.to_netcdf(engine="h5netcdf"))
    read = readers.frames_of(frames_file)
    return {a.info["frame"]: a for a in read}, xr.load_dataset(series_file, engine="h5netcdf")


def _explored(
    plan: Plan,
    given: Sequence[Atoms],
    run_dirs: Sequence[Path],
    current: Round,
    executor: Executor,
) -> tuple[dict[str, Atoms], xr.Dataset]:
    found: dict[str, Atoms] = {}
    rows: dict[int, dict[str, float]] = {}
    shortest = contact(given)
    jobs = {
        executor.submit(
            _trajectory, plan, start(plan, given, current, j), list(run_dirs), current, j, shortest
        ): j
        for j in range(plan.n_trajectories)
    }
    with progress.bar(total=len(jobs), desc="exploring", unit="trajectory") as bar:
        for job in as_completed(jobs):
            frames, rows[jobs[job]] = job.result()
            found |= frames
            bar.update()
    order = sorted(rows)
    table = {name: ("trajectory", [rows[j][name] for j in order]) for name in rows[order[0]]}
    return {name: found[name] for name in sorted(found, key=labeled.order)}, xr.Dataset(
        table, coords={"trajectory": order}
    )


def _trajectory(
    plan: Plan, begun: Start, run_dirs: list[Path], current: Round, j: int, shortest: float
) -> tuple[dict[str, Atoms], dict[str, float]]:
    potentials = [hipnn.load(run_dir) for run_dir in run_dirs]
    excursion = Excursion(
        begun.temperature, plan.n_steps, plan.sample_every, plan.timestep,
        hot=plan.melting * plan.temperatures[1] if begun.molten else 0.0,
        melt_steps=plan.n_steps // 4 if begun.molten else 0, seed=1000 * current.stream + j,
        closest=plan.collapse * shortest,
    )  # fmt: skip
    driver = potentials[j % len(potentials)].calculator(backend="fused", device="cpu")
    path = exploration.follow(begun.atoms, driver, excursion)
    row = {
        "temperature": begun.temperature, "molten": float(begun.molten),
        "volume": begun.atoms.get_volume() / len(begun.atoms), "survived": path.survived,
        "disagreement": np.nan, "median_disagreement": np.nan,
    }  # fmt: skip
    # A run that fails during melting still gives a frame to learn from, but none to measure on.
    watched = path.frames or path.melting
    if not watched:
        return {}, row
    forces, frame_index = hipnn.ensemble_forces(potentials, watched)
    disputed = exploration.disagreement(forces, frame_index)
    largest = exploration.largest_force(forces[0], frame_index)
    row |= {"disagreement": disputed.max(), "median_disagreement": float(np.median(disputed))}
    distances = np.array([closest_pair(atoms).distance for atoms in watched])
    apart = distances >= plan.closest_pair * shortest
    # Broken configurations are the most disputed ones, but MD never visits them at equilibrium.
    physical = np.flatnonzero((largest < plan.largest_force) & apart)
    if not len(physical):
        return {}, row
    rng = np.random.default_rng([plan.seed, 1 + current.stream, j, 1])
    # The most disputed frame teaches most; only one drawn at random gives an unbiased error.
    chosen = {int(physical[disputed[physical].argmax()]): "disputed"}
    if path.frames:
        chosen[int(rng.choice(physical))] = "fresh"
    found = {}
    for k, what in chosen.items():
        frame = f"{current.name}/t{j:02d}/{LAST[what]}"
        atoms = watched[k].copy()
        valid = what == "fresh" and j % VALID_EVERY == 0
        atoms.info.update(
            frame=frame, sampling=what, part="valid" if valid else "train",
            round=current.name,
            trajectory=j, temperature_K=round(begun.temperature, 1), molten=begun.molten,
            disagreement=round(float(disputed[k]), 4),
        )  # fmt: skip
        found[frame] = atoms
    return found, row


def structures(names: Sequence[str]) -> list[Atoms]:
    """Read periodic structures, without labels, from files or elements whose crystal ASE knows.

    Magnetic moments, charges and tags of atoms stay with them in all cells made from a structure.
    """
    return [_structure(name) for name in names]


def _structure(name: str) -> Atoms:
    path = named(name)
    if not os.path.isfile(path):
        try:
            atoms = bulk(name)
        except (ValueError, KeyError, RuntimeError):
            raise InputError(
                f"{name}: neither a file nor an element whose crystal is known"
            ) from None
    else:
        try:
            atoms = deque(readers.frames_of(path), maxlen=1).pop()
        except Exception as error:  # ASE's readers raise anything
            raise InputError(f"{name}: ASE cannot read it ({error})") from error
    if rule := _no_crystal(atoms):
        raise InputError(f"{name}: {rule}")
    return unlabeled(atoms)


def _no_crystal(atoms: Atoms) -> str:
    """Rule that a structure breaks, as the end of a sentence; empty if there is none."""
    if rule := half_open(atoms):
        return rule
    if not atoms.pbc.all() or atoms.cell.rank != 3:
        return "is not periodic in three directions"
    if rule := odd_arrays(atoms) or no_elements(atoms) or partly_occupied(atoms):
        return rule
    if closest_pair(atoms).distance < OVERLAP:
        return f"two atoms are closer than {OVERLAP} Angstrom"
    for key, usual in CELL_STATES.items():
        value = atoms.info.get(key, 0)
        if not np.isin(value, usual).all():
            return f"has a {key} of {value}, which cells of other sizes, to be sampled, can't have"
    return ""
