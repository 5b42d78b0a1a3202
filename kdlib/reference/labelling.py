"""PBE energies and forces by GPAW (DOI 10.1088/0953-8984/22/25/253202), plane waves and PAW.

GPAW comes with the extra ``dft``; ``make dft`` installs it with the libraries that it is built on.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import ase
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib.errors import InputError

if TYPE_CHECKING:
    from gpaw import GPAW


@dataclass(frozen=True)
class LabelSettings:
    """Numerical settings of the DFT; the defaults are those of the labels in ``al-pbe``."""

    cutoff: float = 230.0
    """Of the plane waves, eV."""
    kpoint_density: float = 3.5
    """Gamma-centred k-points per 1/Angstrom: one density, so no phase is sampled better."""
    smearing: float = 0.1
    """Fermi-Dirac width, eV."""
    density: float = 1e-3
    """Convergence of the density, electrons per valence electron."""
    eigenstates: float = 1e-6
    """Convergence of the eigenstates, eV^2 per valence electron."""
    energy: float = 1e-4
    """Convergence of the energy, eV per valence electron."""
    max_iterations: int = 120
    """Of the self-consistency cycle."""


PRODUCTION = LabelSettings()
#: What the labels are compared with.
CONVERGED = LabelSettings(
    cutoff=350.0, kpoint_density=6.0, density=1e-5, eigenstates=1e-9, energy=1e-6,
    max_iterations=300,
)  # fmt: skip


def require() -> None:
    """Raise InputError, with what to do, when GPAW is not installed."""
    if find_spec("gpaw") is None:
        raise InputError("labelling needs GPAW: make dft, or pip install 'kdlib[dft]'")


def calculator(
    settings: LabelSettings = PRODUCTION, like: Atoms | None = None, log: Path | None = None
) -> "GPAW":
    """Return a GPAW calculator.

    Parameters
    ----------
    settings
        Numerical settings.
    like
        A small perfect crystal whose strained copies are computed: its own grid of k-points, and
        the real-space grid of a slightly larger one, for all of them; and its point group is used.
    log
        GPAW's own output.

    Raises
    ------
    InputError
        When GPAW is not installed.
    """
    require()
    from gpaw import GPAW, PW, FermiDirac, Mixer

    s = settings
    return GPAW(
        mode=PW(s.cutoff),
        xc="PBE",
        **_grids(s, like),
        occupations=FermiDirac(s.smearing),
        eigensolver="rmm-diis",
        # A share of few bands is none: the third band of an fcc cell of one atom is partly filled.
        nbands="130%" if like is None else -6,
        mixer=Mixer(0.1, 5, 50),
        maxiter=s.max_iterations,
        convergence={"density": s.density, "eigenstates": s.eigenstates, "energy": s.energy},
        symmetry={"point_group": like is not None, "time_reversal": True},
        txt=None if log is None else str(log),
    )


def _grids(s: LabelSettings, like: Atoms | None) -> dict:
    if like is None:
        return {"kpts": {"density": s.kpoint_density, "gamma": True}}
    from ase.calculators.calculator import kpts2sizeandoffsets
    from ase.units import Bohr, Hartree

    # Plane waves up to G need points every pi / G; cells grow by up to 4 % in the series.
    spacing = np.pi / np.sqrt(2 * s.cutoff / Hartree) * Bohr / 1.06
    heights = 1 / np.linalg.norm(np.linalg.inv(like.cell.array), axis=0)
    needed = np.ceil(heights / spacing / 2).astype(int) * 2 + 2
    size, _ = kpts2sizeandoffsets(density=s.kpoint_density, gamma=True, atoms=like)
    return {"kpts": {"size": tuple(map(int, size)), "gamma": True}, "gpts": tuple(needed.tolist())}


def label(atoms: Atoms, settings: LabelSettings = PRODUCTION, log: Path | None = None) -> Atoms:
    """Copy of a configuration with its PBE labels.

    Parameters
    ----------
    atoms
        Configuration, periodic.
    settings
        Numerical settings.
    log
        GPAW's own output.

    Returns
    -------
    Atoms
        Its calculator holds ``energy``, the free energy, with which the forces are consistent
        (eV), and ``forces`` (eV/Angstrom); ``info`` names the versions.
    """
    working = atoms.copy()
    working.calc = calculator(settings, log=log)
    energy = working.get_potential_energy(force_consistent=True)
    forces = working.get_forces()
    labelled = atoms.copy()
    labelled.calc = SinglePointCalculator(labelled, energy=energy, forces=forces)
    labelled.info.update(versions())
    return labelled


def versions() -> dict[str, str]:
    """Versions of the programs that a label depends on."""
    from importlib.metadata import version

    return {"gpaw": version("gpaw"), "setups": version("gpaw-data"), "ase": ase.__version__}
