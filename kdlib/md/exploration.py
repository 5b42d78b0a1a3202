r"""Exploration by molecular dynamics: what configurations models reach, and where they disagree.

The disagreement of a configuration is the largest, over its atoms, standard deviation of the force
between the models of an ensemble,

.. math:: d = \max_i \sqrt{\langle |F_i^m - \langle F_i \rangle|^2 \rangle_m} ,

as in DP-GEN (DOI 10.1016/j.cpc.2020.107206). A run that leaves physics (atoms collide, the
temperature explodes) is no failure of the exploration: what came before it is what the models know
least.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from kdlib import progress
from kdlib.errors import InputError
from kdlib.geometry.cells import closest_pair
from kdlib.md import dynamics
from kdlib.md.dynamics import DynamicsError


@dataclass(frozen=True)
class Excursion:
    """One run of MD that is looked at as it goes: Langevin dynamics, molten first or not."""

    temperature: float
    """Of the thermostat, K."""
    n_steps: int
    """Steps that are watched."""
    sample_every: int
    """Steps between configurations."""
    timestep: float = 2.0
    """In fs."""
    hot: float = 0.0
    """Temperature of a melt that comes first, K; 0 for none."""
    melt_steps: int = 0
    """Steps of the melt, rounded up to whole samples."""
    relaxation: float = 200.0
    """Of the thermostat, fs."""
    closest: float = 0.5
    """The run ends when two atoms come closer, Angstrom."""
    seed: int = 0
    """Of velocities and random forces."""


@dataclass(frozen=True)
class Path:
    """What an excursion has seen.

    Attributes
    ----------
    frames
        Physical configurations in the order of time.
    ending
        Why the run ended before its time; empty if it did not.
    survived
        Share of the run that stayed physical.
    melting
        Physical configurations of the melt that came first.
    """

    frames: list[Atoms]
    ending: str
    survived: float
    melting: list[Atoms] = field(default_factory=list)


def follow(atoms: Atoms, calculator: BaseCalculator, excursion: Excursion) -> Path:
    """Run an excursion.

    Parameters
    ----------
    atoms
        Configuration to start from; not changed.
    calculator
        Forces.
    excursion
        What is run.
    """
    e = excursion
    moving = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    moving.calc = calculator
    n_melting = -(-e.melt_steps // e.sample_every) if e.hot else 0
    melting, ending = _watched(moving, e.hot, n_melting, e, e.seed)
    wanted = e.n_steps // e.sample_every
    if ending:
        return Path([], ending, 0.0, melting)
    frames, ending = _watched(moving, e.temperature, wanted, e, e.seed + n_melting)
    return Path(frames, ending, len(frames) / wanted, melting)


def _watched(
    moving: Atoms, temperature: float, n_samples: int, e: Excursion, seed: int
) -> tuple[list[Atoms], str]:
    """Physical configurations of a run, and why it ended before its time."""
    frames: list[Atoms] = []
    try:
        for sample in progress.bar(range(n_samples), desc="MD", unit="sample"):
            _advance(moving, temperature, e.sample_every, e, seed + sample)
            frame = Atoms(moving.numbers, moving.positions, cell=moving.cell, pbc=moving.pbc)
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


class Predictor(Protocol):
    """A model that evaluates many frames at once, as :class:`kdlib.hipnn.Potential` does."""

    def predict(self, frames: Sequence[Atoms]) -> xr.Dataset:
        """``forces(atom, xyz)``, eV/Angstrom, and ``frame_index(atom)``."""


def disagreement(potentials: Sequence[Predictor], frames: Sequence[Atoms]) -> np.ndarray:
    """Largest standard deviation of an atom's force between models, per frame, eV/Angstrom.

    Parameters
    ----------
    potentials
        Ensemble of at least two.
    frames
        Configurations.
    """
    return judged(potentials, frames)[0]


def judged(
    potentials: Sequence[Predictor], frames: Sequence[Atoms]
) -> tuple[np.ndarray, np.ndarray]:
    """Disagreement of an ensemble, and the largest force that its first member finds.

    Parameters
    ----------
    potentials
        Ensemble of at least two.
    frames
        Configurations.

    Returns
    -------
    tuple of numpy.ndarray
        Both (n_frames,), eV/Angstrom.
    """
    if len(potentials) < 2:
        raise InputError("active learning needs an ensemble of at least two models")
    predictions = [potential.predict(frames) for potential in potentials]
    index = predictions[0].frame_index.values
    forces = np.stack([found.forces.values for found in predictions])
    spread = np.sqrt(((forces - forces.mean(0)) ** 2).sum(2).mean(0))
    disputed, largest = np.zeros(len(frames)), np.zeros(len(frames))
    np.maximum.at(disputed, index, spread)
    np.maximum.at(largest, index, np.linalg.norm(forces[0], axis=1))
    return disputed, largest
