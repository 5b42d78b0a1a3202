"""Configurations of aluminum, drawn by classical MD with ASE's EMT.

Configuration k follows from k alone, by ``numpy.random.default_rng(k)``, so that any frame can be
reproduced:

==================  ===============================================================================
k                   configurations
==================  ===============================================================================
0 to 3999           cells of 31-48 atoms: liquid, melting, fcc, vacancy, bcc, hcp; 50-3000 K
4000 to 4999        the same, compressed and hot: short distances
5000 to 5999        liquid and fcc cells of 108 atoms: for testing transfer to larger cells
6000 and above      actively learned (:mod:`al_pbe.active`): these do not follow from k
==================  ===============================================================================
"""

import warnings

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from kdlib import units
from kdlib.errors import InputError

#: First frame of each further kind.
COMPRESSED, LARGE, ACTIVE = 4000, 5000, 6000
#: Phase that the sampling starts from, and its share of the frames.
PHASES = {
    "liquid": 0.42, "fcc": 0.20, "vacancy": 0.10, "bcc": 0.09, "hcp": 0.09, "melting": 0.10,
}  # fmt: skip
#: Phases whose crystal is melted first.
DISORDERED = ("liquid", "melting")
#: Volume per atom of fcc aluminum, Angstrom^3; frames are between 0.6 and 1.35 times that.
VOLUME = 16.6


def configuration(k: int) -> Atoms:
    """Draw configuration k, 0 to 5999; ``info`` holds frame, phase and temperature_K.

    It is the same on all machines to 1e-6 Angstrom, or 1e-3 for melts, whose chaotic motion
    amplifies rounding.
    """
    if not 0 <= k < ACTIVE:
        raise InputError(f"frame {k}: only frames 0 to {ACTIVE - 1} follow from their index")
    rng = np.random.default_rng(k)
    phase = str(rng.choice(list(PHASES), p=list(PHASES.values())))
    if k >= LARGE:
        phase = "liquid" if k % 4 else "fcc"
    compressed = COMPRESSED <= k < LARGE
    disordered = phase in DISORDERED
    atoms = _crystal(phase, k >= LARGE, rng)
    n_sites = len(atoms)
    if phase == "vacancy":
        del atoms[int(rng.integers(len(atoms)))]
    _deform(atoms, VOLUME * n_sites * _compression(disordered, compressed, rng), rng)
    temperature = _temperature(disordered, compressed, k >= LARGE, rng)
    atoms.rattle(0.03, rng=rng)
    atoms.calc = EMT()
    if disordered:
        _run(atoms, 8000, 5000, 60 if phase == "melting" else 400, 2.0, 0.05, rng)
    _run(atoms, 2 * temperature, temperature, 300, 3.0, 0.02, rng)
    atoms.calc = None
    atoms.arrays.pop("momenta", None)
    atoms.wrap()
    atoms.info.update(frame=k, phase=phase, temperature_K=round(float(temperature), 1))
    return atoms


# The order in which the functions below draw from ``rng`` is part of the definition of frame k.


def _crystal(phase: str, large: bool, rng: np.random.Generator) -> Atoms:
    if phase == "bcc":
        return bulk("Al", "bcc", a=3.24, cubic=True) * (4, 2, 2)
    if phase == "hcp":
        copies = (3, 2, 2) if rng.random() < 0.5 else (2, 2, 2)
        return bulk("Al", "hcp", a=2.86, c=4.70, orthorhombic=True) * copies
    return bulk("Al", "fcc", a=4.05, cubic=True) * ((3, 3, 3) if large else (2, 2, 2))


def _compression(disordered: bool, compressed: bool, rng: np.random.Generator) -> float:
    """Volume relative to the crystal's."""
    drawn = rng.uniform(0.95, 1.35) if disordered else rng.uniform(0.84, 1.20)
    return rng.uniform(0.60, 0.88) if compressed else drawn


def _deform(atoms: Atoms, volume: float, rng: np.random.Generator) -> None:
    """Apply a random strain and scale the cell to a volume (Angstrom^3)."""
    cell = atoms.cell.array @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3)))
    cell *= (volume / abs(np.linalg.det(cell))) ** (1 / 3)
    atoms.set_cell(cell, scale_atoms=True)


def _temperature(
    disordered: bool, compressed: bool, large: bool, rng: np.random.Generator
) -> float:
    """Draw a temperature, K."""
    drawn = rng.uniform(800, 3000) if disordered else rng.uniform(50, 1500)
    if large and disordered:
        drawn = rng.uniform(950, 1800)
    return rng.uniform(1000, 5000) if compressed else drawn


def _run(
    atoms: Atoms,
    start: float,
    temperature: float,
    n_steps: int,
    timestep: float,
    friction: float,
    rng: np.random.Generator,
) -> None:
    """Run Langevin dynamics from velocities at ``start`` (K); timestep in fs, friction in 10/fs."""
    rate = friction / units.FS * 0.1
    with warnings.catch_warnings():
        # ASE deprecates this function and the fixed center of mass, but frames must not change.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        MaxwellBoltzmannDistribution(atoms, temperature_K=start, rng=rng)
        dynamics = Langevin(
            atoms, timestep * units.FS, temperature_K=temperature, friction=rate, rng=rng
        )
    dynamics.run(n_steps)
