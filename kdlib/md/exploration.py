r"""Exploration by molecular dynamics: what configurations models reach, and where they disagree.

The disagreement of a configuration is the largest, over its atoms, standard deviation of the force
between the models of an ensemble,

.. math:: d = \max_i \sqrt{\langle |F_i^m - \langle F_i \rangle|^2 \rangle_m} ,

as in DP-GEN (DOI 10.1016/j.cpc.2020.107206). A run that becomes unphysical (atoms collide, the
temperature explodes) is no failure of the exploration: the models know least about the
configurations just before.
"""

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from kdlib import progress
from kdlib.errors import DynamicsError, InputError
from kdlib.geometry.cells import OVERLAP, closest_pair, unlabeled
from kdlib.md import dynamics


@dataclass(frozen=True)
class Excursion:
    """One run of Langevin dynamics that is sampled as it goes, with or without a melt first."""

    temperature: float
    """Temperature of the thermostat, K."""
    n_steps: int
    """Steps after the melt."""
    sample_every: int
    """Steps between configurations."""
    timestep: float = 2.0
    """Time step, fs."""
    hot: float = 0.0
    """Temperature of a melt that comes first, K; 0 for none."""
    melt_steps: int = 0
    """Steps of the melt, rounded up to whole samples."""
    relaxation: float = 200.0
    """Relaxation time of the thermostat, fs."""
    closest: float = OVERLAP
    """The run ends when two atoms come closer, Angstrom."""
    seed: int = 0
    """Seed for velocities and random forces."""

    def __post_init__(self) -> None:
        if not 1 <= self.sample_every <= self.n_steps:
            raise InputError(
                f"Excursion: {self.n_steps} steps sampled every {self.sample_every} have no sample"
            )


@dataclass(frozen=True)
class Trajectory:
    """Configurations of an excursion."""

    frames: list[Atoms]
    """Physical configurations in the order of time."""
    ending: str
    """Why the run ended early; empty if it did not."""
    survived: float
    """Share of the run that stayed physical."""
    melting: list[Atoms] = field(default_factory=list)
    """Physical configurations of the preceding melt."""


def follow(atoms: Atoms, calculator: BaseCalculator, excursion: Excursion) -> Trajectory:
    """Run an excursion from a copy of ``atoms``."""
    e = excursion
    moving = unlabeled(atoms)
    moving.calc = calculator
    n_melting = -(-e.melt_steps // e.sample_every) if e.hot else 0
    melting, ending = _watched(moving, e.hot, n_melting, e, e.seed)
    wanted = e.n_steps // e.sample_every
    if ending:
        return Trajectory([], ending, 0.0, melting)
    frames, ending = _watched(moving, e.temperature, wanted, e, e.seed + n_melting)
    return Trajectory(frames, ending, len(frames) / wanted, melting)


def _watched(
    moving: Atoms, temperature: float, n_samples: int, e: Excursion, seed: int
) -> tuple[list[Atoms], str]:
    """Physical configurations of a run, and why it ended early."""
    frames: list[Atoms] = []
    try:
        for sample in progress.bar(range(n_samples), desc="MD", unit="sample"):
            _advance(moving, temperature, e.sample_every, e, seed + sample)
            frame = unlabeled(moving)
            distance = closest_pair(frame).distance
            if distance < e.closest:
                return frames, f"two atoms came as close as {distance:.2f} Angstrom"
            frames.append(frame)
    except DynamicsError as error:
        return frames, str(error)
    return frames, ""


def _advance(atoms: Atoms, temperature: float, n_steps: int, e: Excursion, seed: int) -> None:
    dynamics.nvt(
        atoms, temperature, n_steps, e.timestep, seed, n_steps, thermostat="langevin",
        relaxation=e.relaxation,
    )  # fmt: skip


def disagreement(forces: np.ndarray, frame_index: np.ndarray) -> np.ndarray:
    """Largest standard deviation of an atom's force between models, (n_frames,), eV/Angstrom.

    Parameters
    ----------
    forces
        Forces of at least two models on the same frames, (n_models, n_atoms, 3), eV/Angstrom.
    frame_index
        Frame of each atom, from 0, (n_atoms,).
    """
    if len(forces) < 2:
        raise InputError("active learning needs an ensemble of at least two models")
    # The divisor is the number of models, not one less: this is a ranking, not an error bar.
    spread = np.sqrt(((forces - forces.mean(0)) ** 2).sum(2).mean(0))
    return _largest_by_frame(spread, frame_index)


def largest_force(forces: np.ndarray, frame_index: np.ndarray) -> np.ndarray:
    """Largest force in each frame, (n_frames,), from forces of one model (n_atoms, 3)."""
    return _largest_by_frame(np.linalg.norm(forces, axis=1), frame_index)


def _largest_by_frame(values: np.ndarray, frame_index: np.ndarray) -> np.ndarray:
    largest = np.zeros(frame_index.max(initial=-1) + 1)
    np.maximum.at(largest, frame_index, values)
    return largest
