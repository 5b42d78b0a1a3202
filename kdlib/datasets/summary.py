"""Content of a dataset: a table by chemical system; energies, forces, densities and g(r)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms

from kdlib.datasets.reserved import PARTS
from kdlib.datasets.splits import Split, frame_numbers
from kdlib.geometry import rdf
from kdlib.geometry.cells import closest_pair, mass_density


def summary(frames: Sequence[Atoms]) -> pd.DataFrame:
    """Table of composition, sizes, ranges of energies and forces, and closest pairs.

    Returns
    -------
    pandas.DataFrame
        Index ``system`` and ``boundary`` (periodic or isolated); columns: number of frames,
        number with a stress, smallest and largest number of atoms, composition (mean share of each
        species), energy in eV/atom, rms and largest force in eV/Angstrom, closest pair in Angstrom.
    """
    groups: dict[tuple[str, str], list[Atoms]] = {}
    for atoms in frames:
        boundary = "periodic" if atoms.pbc.all() else "isolated"
        groups.setdefault((_system(atoms), boundary), []).append(atoms)
    rows = [_row(groups[key]) for key in sorted(groups)]
    index = pd.MultiIndex.from_tuples(sorted(groups), names=["system", "boundary"])
    return pd.DataFrame(rows, index=index)


def _system(atoms: Atoms) -> str:
    return "-".join(sorted(set(atoms.get_chemical_symbols())))


def _row(frames: Sequence[Atoms]) -> dict[str, int | float | str]:
    sizes = [len(atoms) for atoms in frames]
    known = [atoms.calc.results for atoms in frames]
    energy = [results["energy"] / n for results, n in zip(known, sizes, strict=True)]
    forces = np.concatenate([np.asarray(results["forces"]) for results in known])
    return {
        "frames": len(frames),
        "with stress": sum("stress" in results for results in known),
        "atoms": f"{min(sizes)}-{max(sizes)}",
        "composition": _composition(frames),
        "energy min (eV/atom)": min(energy),
        "energy max (eV/atom)": max(energy),
        "force rms (eV/A)": float(np.sqrt((forces**2).mean())),
        "force max (eV/A)": float(np.linalg.norm(forces, axis=1).max()),
        "closest pair": _closest(frames),
    }


def _composition(frames: Sequence[Atoms]) -> str:
    symbols = np.concatenate([atoms.get_chemical_symbols() for atoms in frames])
    names, counts = np.unique(symbols, return_counts=True)
    return " ".join(f"{n} {c / len(symbols):.0%}" for n, c in zip(names, counts, strict=True))


def _closest(frames: Sequence[Atoms]) -> str:
    """Species and distance of the closest pair of all frames."""
    pairs = [closest_pair(atoms) for atoms in frames]
    k = min(range(len(frames)), key=lambda n: pairs[n].distance)
    if not np.isfinite(pairs[k].distance):
        return "none"
    symbols = frames[k].get_chemical_symbols()
    names = sorted((symbols[pairs[k].i], symbols[pairs[k].j]))
    return f"{'-'.join(names)} {pairs[k].distance:.2f} A"


UNKNOWN = "unknown"


def coverage(
    frames: Sequence[Atoms], split: Split, r_max: float = 8.0, n_bins: int = 160
) -> xr.Dataset:
    """Describe every frame, and the mean g(r) of each phase up to ``r_max`` (Angstrom).

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
    known = [a.info.get("temperature_K") for a in frames]
    temperature = [np.nan if value is None else value for value in known]
    if np.isfinite(temperature).any():
        ds["temperature"] = ("frame", temperature)
    if not all(atoms.pbc.all() for atoms in frames):
        return ds
    names = sorted(set(phases))
    g = [_mean_g([a for a in frames if phase_of(a) == name], r_max, n_bins) for name in names]
    return ds.merge({"g": xr.concat(g, "phase").assign_coords(phase=names)})


def phase_of(atoms: Atoms) -> str:
    """Phase that a frame's sampling started from, or else the `config_type` of many datasets."""
    named = [atoms.info.get(name) for name in ("phase", "config_type")]
    return next((str(name) for name in named if name is not None), UNKNOWN)


def _density(atoms: Atoms) -> float:
    """Mass density in g/cm^3; NaN for an isolated molecule."""
    if not atoms.pbc.all():
        return np.nan
    return mass_density(atoms)


def _mean_g(frames: Sequence[Atoms], r_max: float, n_bins: int) -> xr.DataArray:
    single = [rdf.rdf(atoms.positions, atoms.cell.array, r_max, n_bins) for atoms in frames]
    return xr.concat(single, "sample", combine_attrs="drop").mean("sample")
