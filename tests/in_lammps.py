"""``pair_style hipnn`` in LAMMPS, with models of random weights.

Importing this skips a test module, in one line, where there is no LAMMPS or no C++ compiler.
"""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from kdlib import hipnn
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig
from kdlib.md.lammps import box, pairstyle, program
from kdlib.md.lammps.box import Box

try:
    program.of_package()
    box.start().close()
except InputError as reason:
    pytest.skip(str(reason), allow_module_level=True)
if shutil.which(os.environ.get("CXX", "g++")) is None:
    pytest.skip("no C++ compiler for pair_style hipnn (Debian: g++)", allow_module_level=True)
PLUGIN = pairstyle.build()

#: E0 large enough to cost float32 all digits that matter.
E0 = -6600.123456789
#: Smallest and largest sizes, both orders of tensors, layers with and without residual connections.
MODELS = {
    "student": HipnnConfig(16, 8, 1),
    "teacher": HipnnConfig(128, 40, 4),
    "odd": HipnnConfig(13, 7, 2, cutoff=6.0, soft_max=5.5, cusp_reg=1e-3),
    "scalar": HipnnConfig(12, 8, 1, l_max=0),
    "plain": HipnnConfig(12, 5, 3, resnet=False),
    "alloy": HipnnConfig(9, 6, 1, species=("Cu", "Al", "Ag")),
    "three of three": HipnnConfig(3, 4, 2, species=("Cu", "Al", "Ag"), l_max=0),
}


@dataclass(frozen=True)
class Model:
    """A saved model of random weights."""

    folder: Path
    precision: str

    def calculator(self):
        """Our own kernels with the same weights."""
        return hipnn.load(self.folder).calculator(device="cpu")


def save(name: str, precision: str, folder: Path) -> Model:
    """Save a model of MODELS."""
    dtype = {"double": "float64", "float": "float32"}[precision]
    module = hipnn.build(replace(MODELS[name], dtype=dtype), seed=1)
    with torch.no_grad():
        module.e0.copy_(E0 + 100 * torch.arange(len(module.e0), dtype=torch.float64))
    hipnn.save(module, folder)
    return Model(folder, precision)


def crystal(amplitude: float = 0.1, n: int = 2) -> Atoms:
    """Rattled aluminum."""
    atoms = bulk("Al", a=4.05, cubic=True) * (n, n, n)
    atoms.rattle(amplitude, seed=0)
    return atoms


class Lammps:
    """LAMMPS with a configuration and the pair style in this process."""

    def __init__(self, model: Model, atoms: Atoms, *before: str) -> None:
        self.atoms, self.lammps = atoms, box.start()
        self.box = Box(self.lammps, atoms)
        symbols = [atoms.symbols[atoms.numbers == z][0] for z in np.unique(atoms.numbers)]
        loaded = pairstyle.commands(PLUGIN, model.precision)
        coefficients = f"pair_coeff * * {model.folder} {' '.join(symbols)}"
        for line in (*before, *loaded, coefficients):
            self.lammps.command(line)

    def __enter__(self) -> "Lammps":
        return self

    def __exit__(self, *error: object) -> None:
        self.lammps.close()

    def run(self, *lines: str) -> None:
        """Execute commands."""
        for line in lines:
            self.lammps.command(line)

    def per_atom(self, compute: str) -> np.ndarray:
        """Values of a compute in the order of the atoms."""
        kind = 1 if compute == "pe" else 2
        values = self.lammps.numpy.extract_compute(compute, 1, kind)[: len(self.atoms)]
        ordered = np.empty_like(values)
        ordered[self.box._order()] = values
        return ordered

    def now(self) -> Atoms:
        """The configuration that LAMMPS holds."""
        atoms = self.atoms.copy()
        self.box.read(atoms)
        return atoms
