"""What a set of frames holds, as a table: one row for each chemical system and kind of boundary."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from ase import Atoms

from kdlib.geometry.pairs import closest_pair


def summary(frames: Sequence[Atoms]) -> pd.DataFrame:
    """Table of composition, sizes, ranges of energies and forces, and closest pairs.

    Parameters
    ----------
    frames
        Frames with energies and forces.

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
    """Closest pair of all frames: which species, and how far apart."""
    pairs = [closest_pair(atoms) for atoms in frames]
    k = min(range(len(frames)), key=lambda n: pairs[n].distance)
    if not np.isfinite(pairs[k].distance):
        return "none"
    symbols = frames[k].get_chemical_symbols()
    names = sorted((symbols[pairs[k].i], symbols[pairs[k].j]))
    return f"{'-'.join(names)} {pairs[k].distance:.2f} A"
