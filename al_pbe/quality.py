"""Accuracy of the labels: their difference from converged PBE.

This is no lower bound on a model's error: part of the difference depends on the configuration
alone and can be learned.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms

from al_pbe.campaign import store
from al_pbe.labeling import CONVERGED, PRODUCTION, LabelSettings, label
from al_pbe.sampling import ACTIVE, COMPRESSED, LARGE
from kdlib import progress
from kdlib.datasets import identity
from kdlib.errors import InputError

#: Name -> settings that the labels are compared with: all of them tight, or one kind.
VARIANTS = {
    "converged": CONVERGED,
    "kpoints": replace(PRODUCTION, kpoint_density=CONVERGED.kpoint_density),
    "cutoff": replace(PRODUCTION, cutoff=CONVERGED.cutoff),
    "scf": replace(
        PRODUCTION, density=CONVERGED.density, eigenstates=CONVERGED.eigenstates,
        energy=CONVERGED.energy, max_iterations=CONVERGED.max_iterations,
        mixing=CONVERGED.mixing,
    ),
}  # fmt: skip


def kind(atoms: Atoms) -> str:
    """Phase that the sampling started from, or ``compressed``."""
    frame = atoms.info.get("frame", 0)
    return "compressed" if COMPRESSED <= frame < LARGE else str(atoms.info.get("phase"))


def chosen(frames: Sequence[Atoms], n_frames: int = 10, largest: int = 32) -> list[Atoms]:
    """Choose at most ``n_frames`` of all kinds: the first of each, then the second, and so on.

    Cells of more than ``largest`` atoms are omitted for their cost, actively learned frames so that
    later rounds do not change the choice.
    """
    found: dict[str, list[Atoms]] = {}
    for atoms in sorted(frames, key=lambda atoms: atoms.info.get("frame", 0)):
        if len(atoms) <= largest and atoms.info.get("frame", 0) < ACTIVE:
            found.setdefault(kind(atoms), []).append(atoms)
    rows = zip_longest(*found.values())
    return [atoms for row in rows for atoms in row if atoms is not None][:n_frames]


def accuracy(
    frames: Sequence[Atoms],
    folder: Path,
    variants: Mapping[str, LabelSettings] = VARIANTS,
    labeler: Callable[[Atoms, LabelSettings], Atoms] = label,
    compute: Collection[str] | None = None,
) -> xr.Dataset:
    """Compare labels with those at tighter settings; a repeated call resumes.

    Parameters
    ----------
    folder
        Holds finished calculations, a file each.
    compute
        Names of the variants to compute where they are missing, by default all.

    Returns
    -------
    xr.Dataset
        ``force_difference(frame, variant)``, rms over components, eV/Angstrom;
        ``energy_difference(frame, variant)``, label minus variant, eV/atom; both NaN where nothing
        was computed; ``force_rms(frame)``, eV/Angstrom; ``phase(frame)``, see :func:`kind`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    force = np.full((len(frames), len(variants)), np.nan)
    energy = np.full_like(force, np.nan)
    with progress.bar(total=force.size, desc="label accuracy", unit="calculation") as bar:
        for j, (name, settings) in enumerate(variants.items()):
            for i, atoms in enumerate(frames):
                path = folder / f"frame_{int(identity(atoms)):05d}_{name}.extxyz"
                if not path.exists() and (compute is None or name in compute):
                    _compute(atoms, path, settings, labeler)
                if path.exists():
                    force[i, j], energy[i, j] = _difference(atoms, ase.io.read(path))
                bar.update()
    return _described(frames, list(variants), force, energy)


def _compute(
    atoms: Atoms,
    path: Path,
    settings: LabelSettings,
    labeler: Callable[[Atoms, LabelSettings], Atoms],
) -> None:
    started = time.perf_counter()
    try:
        better = labeler(_bare(atoms), settings)
    except Exception as error:  # as in a campaign, the next calculation may succeed
        progress.line(f"{path.stem} is left out: {type(error).__name__}: {str(error)[:80]}")
        return
    store(better, path)
    force, energy = _difference(atoms, better)
    progress.line(
        f"{path.stem}: {len(atoms)} atoms, {kind(atoms)}, forces differ by {force:.3f} eV/Angstrom "
        f"rms, energies by {1000 * energy:.1f} meV/atom, {time.perf_counter() - started:.0f} s"
    )


def _difference(atoms: Atoms, better: Atoms) -> tuple[float, float]:
    """Rms of force components, eV/Angstrom, and energy, eV/atom: label minus better."""
    change = atoms.get_forces() - better.get_forces()
    total = atoms.get_potential_energy() - better.get_potential_energy()
    return float(np.sqrt(np.mean(change**2))), total / len(atoms)


def table(ds: xr.Dataset) -> pd.DataFrame:
    """Summarize :func:`accuracy`, a row for each computed variant.

    Forces are pooled over frames, eV/Angstrom; energies are label minus variant, meV/atom.
    """
    rows = {}
    for name in ds.variant.values.tolist():
        here = ds.sel(variant=name).dropna("frame", subset=["force_difference"])
        if here.sizes["frame"]:
            energy = 1000 * here.energy_difference
            rows[name] = {
                "frames": here.sizes["frame"],
                "rms force difference": float(np.sqrt((here.force_difference**2).mean())),
                "rms force": float(np.sqrt((here.force_rms**2).mean())),
                "mean energy difference": float(energy.mean()),
                "scatter of it": float(energy.std()),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def sentence(ds: xr.Dataset) -> str:
    """Accuracy of the labels against converged DFT, for the card of the dataset."""
    known, s = table(ds), CONVERGED
    if "converged" not in known.index:
        raise InputError("accuracy of the labels: no converged calculation is finished")
    row = known.loc["converged"]
    square = (ds.force_difference.sel(variant="converged") ** 2).to_series()
    by_kind = np.sqrt(square.groupby(ds.phase.values).mean())
    kinds = ", ".join(f"{name} {value:.3f}" for name, value in by_kind.dropna().items())
    return (
        f"{row['frames']:.0f} frames against {s.cutoff:g} eV, k-points of density "
        f"{s.kpoint_density:g} and tight convergence: forces differ by "
        f"{row['rms force difference']:.3f} eV/Angstrom rms, of an rms of {row['rms force']:.2f} "
        f"({kinds}); energies by {row['mean energy difference']:+.1f} meV/atom, with a scatter of "
        f"{row['scatter of it']:.1f} between frames"
    )


def _bare(atoms: Atoms) -> Atoms:
    bare = atoms.copy()
    bare.calc = None
    return bare


def _described(
    frames: Sequence[Atoms], variants: list[str], force: np.ndarray, energy: np.ndarray
) -> xr.Dataset:
    rms = [float(np.sqrt(np.mean(atoms.get_forces() ** 2))) for atoms in frames]
    phases = [kind(atoms) for atoms in frames]
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
    ds["phase"].attrs = {"long_name": "phase that the sampling started from, or compressed"}
    ds["variant"].attrs = {"long_name": "settings that the labels are compared with"}
    ds["frame"].attrs = {"units": "1", "long_name": "identity of a frame"}
    for name, unit, meaning in (
        ("force_difference", "eV/Angstrom", "rms difference of force components to tighter DFT"),
        ("energy_difference", "eV/atom", "energy per atom, label minus tighter DFT"),
        ("force_rms", "eV/Angstrom", "rms force component"),
    ):
        ds[name].attrs = {"units": unit, "long_name": meaning}
    return ds
