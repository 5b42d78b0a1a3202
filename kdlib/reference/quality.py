"""Accuracy of the labels: how far their numerical settings are from converged PBE.

It says how well the labels are known. It is no bound on the error of a model: part of the
difference follows from the configuration and can be learned.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.datasets import identity
from kdlib.progress import Reporter
from kdlib.reference.campaign import store
from kdlib.reference.labelling import CONVERGED, PRODUCTION, LabelSettings, label

#: Name -> settings that the labels are compared with: all tight, or one of them.
VARIANTS = {
    "converged": CONVERGED,
    "kpoints": replace(PRODUCTION, kpoint_density=CONVERGED.kpoint_density),
    "cutoff": replace(PRODUCTION, cutoff=CONVERGED.cutoff),
    "scf": replace(
        PRODUCTION, density=CONVERGED.density, eigenstates=CONVERGED.eigenstates,
        energy=CONVERGED.energy, max_iterations=CONVERGED.max_iterations,
    ),
}  # fmt: skip


def chosen(frames: Sequence[Atoms], per_phase: int = 2, largest: int = 32) -> list[Atoms]:
    """Frames of all phases, the first of each.

    Parameters
    ----------
    frames
        As loaded.
    per_phase
        How many of each phase.
    largest
        Cells with more atoms are left out, for the time that they would take.
    """
    found: dict[str, list[Atoms]] = {}
    for atoms in frames:
        if len(atoms) <= largest:
            found.setdefault(str(atoms.info.get("phase")), []).append(atoms)
    return [atoms for some in found.values() for atoms in some[:per_phase]]


def accuracy(
    frames: Sequence[Atoms],
    folder: Path,
    variants: Mapping[str, LabelSettings] = VARIANTS,
    labeller: Callable[[Atoms, LabelSettings], Atoms] = label,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Compare labels with those at tighter settings; can be stopped and goes on.

    Parameters
    ----------
    frames
        Labelled frames.
    folder
        Where finished calculations lie, a file each.
    variants
        Name -> settings.
    labeller
        Adds energy and forces at given settings.
    reporter
        Shows a bar over calculations.

    Returns
    -------
    xarray.Dataset
        ``force_difference(frame, variant)``, rms over components, eV/Angstrom;
        ``energy_difference(frame, variant)``, label minus variant, eV/atom; ``force_rms(frame)``,
        eV/Angstrom; ``phase(frame)``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    force = np.full((len(frames), len(variants)), np.nan)
    energy = np.full_like(force, np.nan)
    with (reporter or Reporter()).bar(force.size, "label accuracy", "calculation") as bar:
        for j, (name, settings) in enumerate(variants.items()):
            for i, atoms in enumerate(frames):
                path = folder / f"frame_{int(identity(atoms)):05d}_{name}.extxyz"
                if not path.exists():
                    store(labeller(_bare(atoms), settings), path)
                better = ase.io.read(path)
                change = atoms.get_forces() - better.get_forces()
                force[i, j] = np.sqrt(np.mean(change**2))
                total = atoms.get_potential_energy() - better.get_potential_energy()
                energy[i, j] = total / len(atoms)
                bar.update()
    return _described(frames, list(variants), force, energy)


def _bare(atoms: Atoms) -> Atoms:
    bare = atoms.copy()
    bare.calc = None
    return bare


def _described(
    frames: Sequence[Atoms], variants: list[str], force: np.ndarray, energy: np.ndarray
) -> xr.Dataset:
    rms = [float(np.sqrt(np.mean(atoms.get_forces() ** 2))) for atoms in frames]
    phases = [str(atoms.info.get("phase")) for atoms in frames]
    dims = ("frame", "variant")
    ds = xr.Dataset(
        {
            "force_difference": (dims, force),
            "energy_difference": (dims, energy),
            "force_rms": ("frame", rms),
            "phase": ("frame", phases),
        },
        coords={"frame": [int(identity(atoms)) for atoms in frames], "variant": variants},
    )
    ds["phase"].attrs = {"long_name": "phase that the sampling started from"}
    ds["variant"].attrs = {"long_name": "settings that the labels are compared with"}
    ds["frame"].attrs = {"units": "1", "long_name": "identity of a frame"}
    for name, unit, meaning in (
        ("force_difference", "eV/Angstrom", "rms difference of force components to tighter DFT"),
        ("energy_difference", "eV/atom", "energy per atom, label minus tighter DFT"),
        ("force_rms", "eV/Angstrom", "rms force component"),
    ):
        ds[name].attrs = {"units": unit, "long_name": meaning}
    return ds
