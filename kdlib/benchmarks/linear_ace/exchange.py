"""Frames for the environment of ace-jax, as extended XYZ with all digits.

ASE's writer keeps eight decimals of positions and forces.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from kdlib.files import replacing


def write(frames: Sequence[Atoms], path: Path) -> Path:
    """Write frames with their energies and forces, or with momenta where they have no labels.

    Parameters
    ----------
    frames
        Energies in eV and forces in eV/Angstrom of a calculator's results; momenta in ASE's units.
    """
    with replacing(path) as part:
        part.write_text("".join(_frame(atoms) for atoms in frames), encoding="utf-8")
    return path


def _frame(atoms: Atoms) -> str:
    labels = {} if atoms.calc is None else atoms.calc.results
    columns = {"pos": atoms.positions}
    if "forces" in labels:
        columns["forces"] = labels["forces"]
    elif atoms.has("momenta"):
        columns["momenta"] = atoms.get_momenta()
    properties = ":".join(["species:S:1", *(f"{name}:R:3" for name in columns)])
    about = [f"Properties={properties}", f'pbc="{" ".join("FT"[int(p)] for p in atoms.pbc)}"']
    if atoms.cell.rank:
        about.append(f'Lattice="{_numbers(atoms.cell.array)}"')
    if "energy" in labels:
        about.append(f"energy={float(labels['energy'])!r}")
    rows = np.hstack(list(columns.values()))
    lines = [f"{s} {_numbers(row)}" for s, row in zip(atoms.symbols, rows, strict=True)]
    return "\n".join([str(len(atoms)), " ".join(about), *lines]) + "\n"


def _numbers(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in np.ravel(values))
