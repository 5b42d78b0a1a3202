"""Density of the crystal at a temperature and no pressure: the student's, and the teacher's.

The student runs NPT. A teacher is too slow for that, but its density under the same conditions
follows from a few configurations of the student's run: to first order in the difference of the two
potentials its volume is larger by the share dp / B, where dp is the mean of its pressure on them
less that of the student, and B the bulk modulus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError
from ase.md.nose_hoover_chain import IsotropicMTKNPT

from kdlib.md import liquid
from kdlib.geometry import cells
from kdlib.distill.measures import Measures
from kdlib.units import GRAM_PER_CM3

#: Steps between volumes that are averaged.
EVERY = 4
#: Change of volume by which the bulk modulus is taken.
STRETCH = 0.01


@dataclass(frozen=True)
class Run:
    """NPT of the student.

    Attributes
    ----------
    volume
        Mean, Angstrom^3.
    frames
        Configurations, equally spaced.
    """

    volume: float
    frames: list[Atoms]


def densities(
    student: BaseCalculator, teacher: BaseCalculator, given: Atoms, m: Measures
) -> xr.Dataset:
    """Mean densities of the crystal in NPT at no pressure.

    Returns
    -------
    xarray.Dataset
        ``density(model)``, g/cm3: NaN for both if the student's run ends early, and for a teacher
        without stress.
    """
    atoms = cells.supercell(given, m.n_atoms)
    run = _npt(student, atoms, m)
    found = [np.nan, np.nan]
    if run is not None:
        own = atoms.get_masses().sum() * GRAM_PER_CM3 / run.volume
        found = [own * np.exp(-_expansion(student, teacher, run.frames)), own]
    about = {"units": "g/cm3", "long_name": f"density at {m.cold:g} K and no pressure"}
    names = ("model", ["teacher", "student"], {"long_name": "potential"})
    return xr.Dataset({"density": ("model", found, about)}, coords={"model": names})


def _npt(student: BaseCalculator, atoms: Atoms, m: Measures) -> Run | None:
    """Run NPT, after a quarter of its length for equilibration; None if it ends early."""
    liquid.thermalize(atoms, 2 * m.cold, np.random.default_rng(0))
    atoms.calc = student
    npt = IsotropicMTKNPT(
        atoms, m.timestep * units.fs, temperature_K=m.cold, pressure_au=0.0,
        tdamp=m.thermostat * units.fs, pdamp=m.barostat * units.fs,
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
                frames.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    except Exception:  # the calculator refuses what flew apart
        return None
    return Run(float(np.mean(volumes)), frames)


def _expansion(student: BaseCalculator, teacher: BaseCalculator, frames: Sequence[Atoms]) -> float:
    """Share by which the teacher's crystal is larger than the student's; NaN without its stress."""
    try:
        theirs = np.mean([_pressure(teacher, atoms) for atoms in frames])
    except PropertyNotImplementedError:
        return np.nan
    ours = np.mean([_pressure(student, atoms) for atoms in frames])
    ends = [
        np.mean([_pressure(student, atoms, 1 + side * STRETCH / 2) for atoms in frames])
        for side in (-1, 1)
    ]
    modulus = (ends[0] - ends[1]) / STRETCH
    return float((theirs - ours) / modulus)


def _pressure(calculator: BaseCalculator, atoms: Atoms, ratio: float = 1.0) -> float:
    """Of the potential energy, eV/Angstrom^3, in a cell of ``ratio`` times the volume."""
    scaled = cells.scaled(atoms, ratio)
    scaled.calc = calculator
    return float(-scaled.get_stress()[:3].mean())
