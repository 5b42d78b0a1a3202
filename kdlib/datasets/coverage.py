"""What a dataset covers: energies, forces, densities, temperatures and structure of its frames."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.geometry import rdf
from kdlib import units
from kdlib.datasets import PARTS
from kdlib.datasets import Split
from kdlib.datasets import frame_numbers

UNKNOWN = "unknown"


def coverage(
    frames: Sequence[Atoms], split: Split, r_max: float = 8.0, n_bins: int = 160
) -> xr.Dataset:
    """Describe every frame, and the mean g(r) of each phase.

    Parameters
    ----------
    frames, split
        Data and their division.
    r_max, n_bins
        Range (Angstrom) and bins of g(r).

    Returns
    -------
    xr.Dataset
        Result of kind ``data``.
    """
    part = np.empty(len(frames), dtype=object)
    for name in PARTS:
        part[getattr(split, name)] = name
    phases = np.array([phase_of(atoms) for atoms in frames])
    forces = [atoms.get_forces() for atoms in frames]
    ds = xr.Dataset(
        {
            "energy": ("frame", [a.get_potential_energy() / len(a) for a in frames]),
            "force_rms": ("frame", [np.sqrt((f**2).mean()) for f in forces]),
            "density": ("frame", [_density(atoms) for atoms in frames]),
            "n_atoms": ("frame", [len(atoms) for atoms in frames]),
            "frame_phase": ("frame", phases),
            "part": ("frame", part.astype(str)),
        },
        coords={"frame": frame_numbers(frames)},
    )
    temperature = [a.info.get("temperature_K", np.nan) for a in frames]
    if np.isfinite(temperature).any():
        ds["temperature"] = ("frame", temperature)
    if not all(atoms.pbc.all() for atoms in frames):
        return ds
    names = sorted(set(phases))
    g = [_mean_g([a for a in frames if phase_of(a) == name], r_max, n_bins) for name in names]
    return ds.merge({"g": xr.concat(g, "phase").assign_coords(phase=names)})


def phase_of(atoms: Atoms) -> str:
    """Phase that a frame's sampling started from; for others the `config_type` of many datasets."""
    return str(atoms.info.get("phase", atoms.info.get("config_type", UNKNOWN)))


def _density(atoms: Atoms) -> float:
    """Mass density in g/cm^3; nothing for an isolated molecule."""
    if not atoms.pbc.all():
        return np.nan
    return atoms.get_masses().sum() / atoms.get_volume() * units.GRAM_PER_CM3


def _mean_g(frames: Sequence[Atoms], r_max: float, n_bins: int) -> xr.DataArray:
    single = [rdf.rdf(atoms.positions, atoms.cell.array, r_max, n_bins) for atoms in frames]
    return xr.concat(single, "sample", combine_attrs="drop").mean("sample")
