"""Batches: several frames as one graph, with their targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from kdlib.datasets import atomic_energies, loss_weight
from kdlib.errors import InputError
from kdlib.geometry.cells import half_open
from kdlib.geometry.neighbors import neighbor_pairs


@dataclass(frozen=True)
class Batch:
    """Frames laid end to end; pairs are sorted by ``first``, as rows of a CSR table."""

    numbers: Tensor
    """Atomic numbers, (n_atoms,) int64."""
    frame: Tensor
    """Frame of each atom, (n_atoms,) int64."""
    n_frames: int
    first: Tensor
    second: Tensor
    """Center i and neighbor j of each pair, (n_pairs,) int64; both i -> j and j -> i are there."""
    vectors: Tensor
    """r_j + shift - r_i, (n_pairs, 3), Angstrom."""
    row: Tensor
    """Pairs of atom i are ``row[i]:row[i + 1]``, (n_atoms + 1,) int64."""
    energy: Tensor | None = None
    """Reference energies of the cells without E0 of their atoms, (n_frames,), eV."""
    forces: Tensor | None = None
    """Reference forces, (n_atoms, 3), eV/Angstrom."""
    atomic_energies: Tensor | None = None
    """A teacher's atomic energies without E0, (n_atoms,), eV."""
    stress: Tensor | None = None
    """Reference stresses dE/dstrain / V, (n_frames, 3, 3), eV/Angstrom^3; NaN if there is none."""
    volume: Tensor | None = None
    """Volumes of the cells, (n_frames,), Angstrom^3; NaN of frames that are not periodic."""
    weight: Tensor | None = None
    """Weights of the frames in the loss, (n_frames,); None for equal weights."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all frames."""
        return len(self.numbers)

    @property
    def has_stress(self) -> Tensor:
        """Which frames have a reference stress, (n_frames,) bool."""
        if self.stress is None:
            return torch.zeros(self.n_frames, dtype=torch.bool, device=self.numbers.device)
        return self.stress.isfinite().all(dim=(1, 2))

    def pairs_per_frame(self) -> list[int]:
        """Number of pairs of each frame."""
        last_atoms = torch.bincount(self.frame, minlength=self.n_frames).cumsum(0)
        return self.row[last_atoms].diff(prepend=self.row[:1]).tolist()

    def stress_errors(self, virial: Tensor) -> Tensor:
        """Predicted minus reference stress, (frames with a stress, 3, 3), eV/Angstrom^3.

        ``virial`` is a model's dE/dstrain, (n_frames, 3, 3), eV.
        """
        known = self.has_stress
        if not known.any():
            return virial[:0]
        return virial[known] / self.volume[known, None, None] - self.stress[known]

    def to(self, device: torch.device | str) -> "Batch":
        """Copy on another device."""
        moved = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def from_atoms(
    atoms: Atoms, cutoff: float, dtype: torch.dtype = torch.float32, e0: np.ndarray | float = 0.0
) -> Batch:
    """Batch of one frame, with the targets that its calculator holds.

    Parameters
    ----------
    atoms
        Frame; energy (eV), forces (eV/Angstrom), a teacher's atomic energies (``energies``, eV)
        and stress (xx, yy, zz, yz, xz, xy; eV/Angstrom^3) come from ``atoms.calc.results``, the
        weight in the loss, if any, from ``atoms.info["loss_weight"]``.
    cutoff
        Range of the model, Angstrom.
    dtype
        Type of vectors and targets. Displacements are formed in float64 and cast afterwards.
    e0
        Energy of each free atom, (n_atoms,), eV; subtracted from the energies before they are cast.
    """
    if rule := half_open(atoms):
        raise InputError(f"the configuration {rule}")
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    known = atoms.calc.results if atoms.calc is not None else {}
    as_tensor = lambda x: None if x is None else torch.as_tensor(np.asarray(x), dtype=dtype)  # noqa: E731
    energy, teacher, weight = known.get("energy"), atomic_energies(atoms), loss_weight(atoms)
    e0 = np.broadcast_to(e0, len(atoms))
    return Batch(
        numbers=torch.as_tensor(atoms.numbers, dtype=torch.int64),
        frame=torch.zeros(len(atoms), dtype=torch.int64),
        n_frames=1,
        first=torch.as_tensor(pairs.first),
        second=torch.as_tensor(pairs.second),
        vectors=as_tensor(pairs.vectors(atoms.positions, atoms.cell.array)),
        row=torch.as_tensor(pairs.row),
        energy=None if energy is None else as_tensor([energy - e0.sum()]),
        forces=as_tensor(known.get("forces")),
        atomic_energies=as_tensor(None if teacher is None else teacher - e0),
        stress=as_tensor(reference_stress(atoms)[None]),
        volume=as_tensor([volume(atoms)]),
        weight=None if weight is None else as_tensor([weight]),
    )


def volume(atoms: Atoms) -> float:
    """Volume of the cell (also a left-handed one), Angstrom^3; NaN unless it is fully periodic."""
    return abs(np.linalg.det(atoms.cell.array)) if atoms.pbc.all() else np.nan


def reference_stress(atoms: Atoms) -> np.ndarray:
    """Stress that a frame's calculator holds, (3, 3), eV/Angstrom^3; NaN if there is none.

    The sign is ASE's, dE/dstrain / V: negative where the cell wants to expand. Frames that are not
    periodic have no volume and so no stress, whatever their calculator holds.
    """
    voigt = atoms.calc.results.get("stress") if atoms.calc is not None else None
    if voigt is None or not atoms.pbc.all():
        return np.full((3, 3), np.nan)
    return voigt_6_to_full_3x3_stress(voigt)


def collate(batches: Sequence[Batch]) -> Batch:
    """Lay batches end to end."""
    atoms_before = np.cumsum([0] + [batch.n_atoms for batch in batches])
    frames_before = np.cumsum([0] + [batch.n_frames for batch in batches])
    pairs_before = np.cumsum([0] + [len(batch.first) for batch in batches])

    def joined(name: str, offsets: np.ndarray | None = None) -> Tensor | None:
        parts = [getattr(batch, name) for batch in batches]
        if any(part is None for part in parts):
            return None
        if offsets is not None:
            parts = [part + int(shift) for part, shift in zip(parts, offsets, strict=False)]
        return torch.cat(parts)

    rows = [b.row[1:] + int(n) for b, n in zip(batches, pairs_before, strict=False)]
    return Batch(
        numbers=joined("numbers"),
        frame=joined("frame", frames_before),
        n_frames=int(frames_before[-1]),
        first=joined("first", atoms_before),
        second=joined("second", atoms_before),
        vectors=joined("vectors"),
        row=torch.cat([torch.zeros(1, dtype=torch.int64), *rows]),
        energy=joined("energy"),
        forces=joined("forces"),
        atomic_energies=joined("atomic_energies"),
        stress=joined("stress"),
        volume=joined("volume"),
        weight=_weights(batches),
    )


def _weights(batches: Sequence[Batch]) -> Tensor | None:
    """Weights of all frames; a frame without one has weight 1 beside others that have one."""
    if all(batch.weight is None for batch in batches):
        return None
    ones = [batch.vectors.new_ones(batch.n_frames) for batch in batches]
    pairs = zip(batches, ones, strict=True)
    return torch.cat([one if batch.weight is None else batch.weight for batch, one in pairs])


def chunks(frames: Sequence[Batch], max_atoms: int) -> list[Batch]:
    """Join consecutive frames into batches of at most ``max_atoms`` atoms (or one frame)."""
    groups: list[list[Batch]] = []
    filled = 0
    for frame in frames:
        if not groups or filled + frame.n_atoms > max_atoms:
            groups.append([])
            filled = 0
        groups[-1].append(frame)
        filled += frame.n_atoms
    return [collate(group) for group in groups]
