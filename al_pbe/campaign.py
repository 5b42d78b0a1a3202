"""Labeling of many frames, one file each, so that a stopped run can be resumed.

Several processes may share a folder: each claims a frame before it starts.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms

from al_pbe.division import part_of
from al_pbe.labeling import label
from al_pbe.sampling import configuration
from kdlib import datasets, progress
from kdlib.files import replacing
from kdlib.geometry.cells import closest_pair

#: Configurations with closer pairs (Angstrom) are skipped: PAW spheres would overlap too much.
CLOSEST_PAIR = 1.7


def frame_path(folder: Path, k: int) -> Path:
    """File of frame k."""
    return folder / f"frame_{k:05d}.extxyz"


def run(
    wanted: Iterable[int],
    folder: Path,
    sample: Callable[[int], Atoms] = configuration,
    labeler: Callable[[Atoms], Atoms] = label,
) -> list[Path]:
    """Label the frames that neither the folder nor the shipped dataset holds.

    Parameters
    ----------
    wanted
        Indices of frames.
    labeler
        Adds energy and forces. A frame on which it fails is reported and skipped.

    Returns
    -------
    list[Path]
        Files written by this call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shipped = set(datasets.frame_numbers(datasets.load("al-pbe")).tolist())
    missing = [k for k in wanted if k not in shipped and not frame_path(folder, k).exists()]
    written = []
    with progress.bar(total=len(missing), desc="labels", unit="frame") as bar:
        for k in missing:
            with _claimed(folder, k) as mine:
                if mine and not frame_path(folder, k).exists():
                    bar.set_description_str(f"frame {k}")
                    path, said = _label_one(k, folder, sample, labeler)
                    progress.line(said)
                    written += [path] if path else []
            bar.update()
    return written


def described(table: pd.DataFrame) -> xr.Dataset:
    """Turn a table of frame, kind, phase, temperature_K and atoms into a described Dataset."""
    meanings = {
        "frame": ("identity of a frame", "1"),
        "kind": ("how it was sampled", ""),
        "phase": ("phase that the sampling started from", ""),
        "temperature_K": ("temperature of the sampling", "K"),
        "atoms": ("atoms in the cell", "1"),
    }
    ds = table.set_index("frame").to_xarray()
    for name, (meaning, unit) in meanings.items():
        ds[name].attrs = {"long_name": meaning, **({"units": unit} if unit else {})}
    return ds


def store(labeled: Atoms, path: Path) -> None:
    """Write one frame, whole or not at all."""
    with replacing(path) as part:
        ase.io.write(part, labeled, format="extxyz")


def collected(folder: Path) -> list[Atoms]:
    """Shipped frames and those of a folder, by index, with the parts of :mod:`al_pbe.division`."""
    frames = {int(atoms.info["frame"]): atoms for atoms in datasets.load("al-pbe")}
    for path in sorted(folder.glob("frame_*.extxyz")):
        atoms = ase.io.read(path)
        frames.setdefault(int(atoms.info["frame"]), atoms)
    for atoms in frames.values():
        atoms.info.pop("part", None)
        if part := part_of(atoms):
            atoms.info["part"] = part
    return [frames[k] for k in sorted(frames)]


def _label_one(
    k: int, folder: Path, sample: Callable[[int], Atoms], labeler: Callable[[Atoms], Atoms]
) -> tuple[Path | None, str]:
    atoms = sample(k)
    distance = closest_pair(atoms).distance
    if distance < CLOSEST_PAIR:
        return None, f"frame {k} is left out: two atoms are {distance:.2f} Angstrom apart"
    try:
        labeled = labeler(atoms)
    except Exception as error:  # GPAW stops in many ways; the next frame may do better
        return None, f"frame {k} is left out: {type(error).__name__}: {str(error)[:80]}"
    path = frame_path(folder, k)
    store(labeled, path)
    energy = labeled.get_potential_energy() / len(labeled)
    force = float(np.sqrt(np.mean(labeled.get_forces() ** 2)))
    return path, (
        f"frame {k}: {len(labeled)} atoms, {atoms.info['phase']}, {energy:.3f} eV/atom, "
        f"forces {force:.2f} eV/Angstrom rms, closest pair {distance:.2f} Angstrom"
    )


@contextmanager
def _claimed(folder: Path, k: int) -> Iterator[bool]:
    """Whether no other living process works on the frame."""
    claim = folder / f".frame_{k:05d}.claim"
    if claim.exists() and not _alive(claim):
        claim.unlink(missing_ok=True)
    try:
        handle = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        yield False
        return
    os.write(handle, str(os.getpid()).encode())
    os.close(handle)
    try:
        yield True
    finally:
        claim.unlink(missing_ok=True)


def _alive(claim: Path) -> bool:
    try:
        os.kill(int(claim.read_text(encoding="utf-8") or 0), 0)
    except (ValueError, ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return True
    return True
