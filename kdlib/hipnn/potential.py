"""A trained model as its users see it: predictions for frames, and an ASE calculator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from ase import Atoms

from kdlib.hipnn import batches
from kdlib.hipnn.network import HipnnConfig
from kdlib.hipnn.network import HipnnModule
from kdlib.hipnn.network import Prediction
from kdlib.hipnn.validity import Validity

if TYPE_CHECKING:
    from kdlib.hipnn.calculator import HipnnCalculator


@dataclass(frozen=True)
class Potential:
    """A trained model: what a calculator, a benchmark or a student's labels start from."""

    module: HipnnModule
    run_dir: Path | None = None
    validity: Validity | None = None
    """Ranges of its training set, where they are known."""

    @property
    def config(self) -> HipnnConfig:
        """Architecture."""
        return self.module.config

    def predict(
        self,
        frames: Sequence[Atoms],
        forces: bool = True,
        stress: bool = False,
        max_atoms: int = 4096,
    ) -> xr.Dataset:
        """Energies, forces, atomic energies (and stresses) of frames of any sizes.

        Parameters
        ----------
        frames
            Configurations; their own labels are not looked at.
        forces, stress
            What to compute beyond energies.
        max_atoms
            Atoms per evaluated batch: bounds the memory, not the result.

        Returns
        -------
        xr.Dataset
            ``energy(frame)`` eV, ``atomic_energies(atom)`` eV, ``forces(atom, xyz)`` eV/Angstrom,
            ``stress(frame, xyz, xyz_2)`` eV/Angstrom^3, and ``frame_index(atom)``.
        """
        dtype, device = self.config.torch_dtype, next(self.module.parameters()).device
        for k, atoms in enumerate(frames):
            self.module.check_species(atoms.numbers, f"frame {atoms.info.get('frame', k)}")
        bare = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in frames]
        single = [batches.from_atoms(atoms, self.config.cutoff, dtype) for atoms in bare]
        parts = [
            self.module(chunk.to(device), forces, stress)
            for chunk in batches.chunks(single, max_atoms)
        ]
        return _as_dataset(parts, frames)

    def calculator(self, **options: object) -> "HipnnCalculator":
        """ASE calculator; ``options`` as in :class:`kdlib.hipnn.calculator.HipnnCalculator`."""
        from kdlib.hipnn.calculator import HipnnCalculator

        return HipnnCalculator(self, **options)


def _as_dataset(parts: Sequence[Prediction], frames: Sequence[Atoms]) -> xr.Dataset:
    def joined(name: str) -> np.ndarray:
        return torch.cat([getattr(part, name).detach().cpu() for part in parts]).double().numpy()

    units = {"energy": "eV", "atomic_energies": "eV", "forces": "eV/Angstrom"}
    dims = {"energy": "frame", "atomic_energies": "atom", "forces": ("atom", "xyz")}
    names = [name for name in dims if getattr(parts[0], name) is not None]
    ds = xr.Dataset({name: (dims[name], joined(name), {"units": units[name]}) for name in names})
    if parts[0].virial is not None:
        volume = np.array([batches.volume(atoms) for atoms in frames])[:, None, None]
        ds["stress"] = (("frame", "xyz", "xyz_2"), joined("virial") / volume)
        ds["stress"].attrs["units"] = "eV/Angstrom^3"
    sizes = [len(atoms) for atoms in frames]
    ds["frame_index"] = ("atom", np.repeat(np.arange(len(sizes)), sizes))
    return ds
