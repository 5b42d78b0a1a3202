"""PBE energies and forces by GPAW (DOI 10.1088/0953-8984/22/25/253202), plane waves and PAW.

GPAW comes with the extra ``dft``; ``make dft`` installs it with the libraries that it is built on.
"""

import os
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
    """Plane-wave cutoff, eV."""
    kpoint_density: float = 3.5
    """Gamma-centered k-points per 1/Angstrom; one density, so that all phases are sampled alike."""
    smearing: float = 0.1
    """Fermi-Dirac width, eV."""
    density: float = 1e-3
    """Convergence of the density, electrons per valence electron."""
    eigenstates: float = 1e-6
    """Convergence of the eigenstates, eV^2 per valence electron."""
    energy: float = 1e-4
    """Convergence of the energy, eV per valence electron."""
    max_iterations: int = 120
    """Limit of the self-consistency cycle."""
    mixing: tuple[float, int, float] = (0.1, 5, 50.0)
    """GPAW's density mixing: share of the new density, history, weight of long waves. With tight
    convergence, it affects only the number of iterations."""


PRODUCTION = LabelSettings()
#: Cells of at most this many aluminum atoms get a number of empty bands instead of a share.
_SMALL = 13
#: Tight settings that the labels are compared with.
CONVERGED = LabelSettings(
    cutoff=350.0, kpoint_density=6.0, density=1e-5, eigenstates=1e-9, energy=1e-6,
    max_iterations=300, mixing=(0.25, 5, 1.0),
)  # fmt: skip


def require() -> None:
    """Raise InputError, with what to do, when GPAW is not installed."""
    if find_spec("gpaw") is None:
        raise InputError("labeling needs GPAW: make dft, or pip install 'kdlib[dft]'")


def choose_kernels(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Tell OpenBLAS which kernels fit the processor, unless ``OPENBLAS_CORETYPE`` is set.

    Debian's OpenBLAS 0.3.21 does not recognize newer processors and uses its slowest kernels (SSE3)
    for them: matrix products, half of the time of a label, then run at 15 instead of 60 GFLOP/s.
    OpenBLAS reads the variable on loading, so call this before importing GPAW. Without Linux's
    ``cpuinfo``, nothing is changed.
    """
    if "OPENBLAS_CORETYPE" in os.environ or not cpuinfo.is_file():
        return
    flags = set(cpuinfo.read_text(encoding="utf-8").split())
    for flag, kernels in (("avx512f", "SkylakeX"), ("avx2", "Haswell")):
        if flag in flags:
            os.environ["OPENBLAS_CORETYPE"] = kernels
            return


def calculator(
    settings: LabelSettings = PRODUCTION,
    like: Atoms | None = None,
    copies: tuple[int, int, int] = (1, 1, 1),
    log: Path | None = None,
) -> "GPAW":
    """Return a GPAW calculator; raise InputError when GPAW is not installed.

    Parameters
    ----------
    like
        Perfect crystal of which strained or defective copies are computed. All of them use its
        k-points, the real-space grid of a slightly larger cell, and what remains of its point
        group, so that their energies are comparable.
    copies
        Use the k-points of a supercell of this many cells of ``like`` along each axis, folded out
        into one cell: the crystal then has the energy per atom of the supercell.
    log
        File for GPAW's output.
    """
    require()
    choose_kernels()
    from gpaw import GPAW, PW, FermiDirac, Mixer

    s = settings
    return GPAW(
        mode=PW(s.cutoff),
        xc="PBE",
        **_grids(s, like, copies),
        occupations=FermiDirac(s.smearing),
        eigensolver="rmm-diis",
        # 30 % of few bands are too few empty ones: in a small cell, bands vary strongly with k.
        nbands="130%" if like is None or len(like) > _SMALL else -6,
        mixer=Mixer(*s.mixing),
        maxiter=s.max_iterations,
        convergence={"density": s.density, "eigenstates": s.eigenstates, "energy": s.energy},
        symmetry={"point_group": like is not None, "time_reversal": True},
        txt=None if log is None else str(log),
    )


def _grids(s: LabelSettings, like: Atoms | None, copies: tuple[int, int, int]) -> dict:
    if like is None:
        return {"kpts": {"density": s.kpoint_density, "gamma": True}}
    from ase.calculators.calculator import kpts2sizeandoffsets
    from ase.units import Bohr, Hartree

    # Plane waves up to G need points every pi / G; cells grow by up to 4 % in the series.
    spacing = np.pi / np.sqrt(2 * s.cutoff / Hartree) * Bohr / 1.06
    heights = 1 / np.linalg.norm(np.linalg.inv(like.cell.array), axis=0)
    needed = np.ceil(heights / spacing / 2).astype(int) * 2 + 2
    large = like.repeat(copies)
    size, _ = kpts2sizeandoffsets(density=s.kpoint_density, gamma=True, atoms=large)
    folded = tuple((np.array(size) * copies).tolist())
    return {"kpts": {"size": folded, "gamma": True}, "gpts": tuple(needed.tolist())}


def label(atoms: Atoms, settings: LabelSettings = PRODUCTION, log: Path | None = None) -> Atoms:
    """Return a copy of a periodic configuration with its PBE labels.

    Its calculator holds ``energy`` (eV) and ``forces`` (eV/Angstrom); its ``info`` the versions.
    """
    working = atoms.copy()
    working.calc = calculator(settings, log=log)
    # The forces are the gradient of the free energy, not of the energy at zero temperature.
    energy = working.get_potential_energy(force_consistent=True)
    forces = working.get_forces()
    labeled = atoms.copy()
    labeled.calc = SinglePointCalculator(labeled, energy=energy, forces=forces)
    labeled.info.update(versions())
    return labeled


def versions() -> dict[str, str]:
    """Versions of the programs that a label depends on."""
    from importlib.metadata import version

    return {"gpaw": version("gpaw"), "setups": version("gpaw-data"), "ase": ase.__version__}
