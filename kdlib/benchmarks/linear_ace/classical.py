"""Force errors of the embedded-atom potential that the side-by-side benchmark times in LAMMPS."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.eam import EAM

from kdlib import progress
from kdlib.benchmarks.linear_ace.plan import EVALUATED
from kdlib.benchmarks.side_by_side.lammps import POTENTIAL, find
from kdlib.errors import InputError
from kdlib.md.liquid import is_aluminum
from kdlib.training import accuracy


def force_errors(parts: Mapping[str, Sequence[Atoms]]) -> xr.Dataset:
    """RMSE and MAE of force components by ASE's calculator, over ``split``; empty without a file.

    Its energies are not compared: they are cohesive energies of another reference.

    Parameters
    ----------
    parts
        Labeled frames of each part, of pure aluminum.
    """
    if not is_aluminum([atoms for frames in parts.values() for atoms in frames]):
        return xr.Dataset()
    try:
        path = find().potential
    except InputError as error:
        progress.line(f"left out: the embedded-atom potential, {error}")
        return xr.Dataset()
    calculator = EAM(potential=str(path), form="alloy", elements=["Al"])
    found = {part: _differences(calculator, parts[part]) for part in EVALUATED}
    variables = {
        f"eam_force_{measure.__name__}": ("split", [measure(one) for one in found.values()])
        for measure in (accuracy.rmse, accuracy.mae)
    }
    return xr.Dataset(variables, {"split": list(EVALUATED)}, {"eam_potential": POTENTIAL})


def _differences(calculator: EAM, frames: Sequence[Atoms]) -> np.ndarray:
    """Forces of the potential minus labels, (n_atoms, 3), eV/Angstrom."""
    each = [np.empty((0, 3))]
    for atoms in frames:
        bare = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        bare.calc = calculator
        each.append(bare.get_forces() - atoms.calc.results["forces"])
    return np.concatenate(each)
