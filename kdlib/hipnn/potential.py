r"""A trained model as its users see it: saving and loading, predictions for frames, validity.

A saved model is a folder with ``model.safetensors`` and ``config.json``; loading one executes no
code. The folder of a training is a model once the training is finished.

A model remembers the range of its training set: the closest pairs of species, and how crowded atoms
were. The crowding of atom i is a smooth number of neighbors within the cutoff :math:`r_c`,

.. math:: n_i = \sum_j \left(1 - r_{ij}^2 / r_c^2\right)^2 ,

which grows with the density and falls at surfaces. Predictions for a configuration outside these
ranges need not be wrong, but were never checked.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from ase import Atoms
from ase.data import chemical_symbols
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor

from kdlib.datasets import with_energies
from kdlib.errors import InputError
from kdlib.files import made, replacing
from kdlib.geometry.cells import bare
from kdlib.geometry.neighbors import neighbor_pairs
from kdlib.hipnn import batches, catalog, kernels
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.calculator import HipnnCalculator
from kdlib.hipnn.network import HipnnConfig, HipnnModule, Prediction, build, n_parameters

#: Relative distance by which configurations may leave the range without a warning.
MARGIN = 0.05


@dataclass(frozen=True)
class Departure:
    """One way in which a configuration leaves the ranges of a training set."""

    kind: str
    """``"unseen pair"``, ``"close pair"``, ``"more crowded"`` or ``"less crowded"``."""
    species: str
    """``"Al-Cu"`` of a pair, ``"Al"`` of an atom."""
    value: float
    """Distance (Angstrom) or crowding."""
    limit: float
    """Least or greatest value in training; the cutoff for an unseen pair."""

    def __str__(self) -> str:
        if self.kind == "unseen pair":
            return (
                f"a pair {self.species} is closer than {self.limit:g} Angstrom, and none was in "
                "training"
            )
        if self.kind == "close pair":
            return (
                f"a pair {self.species} is {self.value:.2f} Angstrom apart, closer than any in "
                f"training ({self.limit:.2f})"
            )
        return (
            f"{self.species} is {self.kind} ({self.value:.1f}) than in training ({self.limit:.1f})"
        )


@dataclass(frozen=True)
class Validity:
    """Ranges of a training set."""

    closest: Mapping[str, float]
    """``"Al-Cu"`` (symbols in alphabetical order) -> closest pair of the species, Angstrom."""
    crowding: Mapping[str, tuple[float, float]]
    """Symbol -> smallest and largest crowding."""
    cutoff: float
    """Cutoff of the crowding, Angstrom."""

    @classmethod
    def of(cls, frames: Sequence[Atoms], cutoff: float) -> "Validity":
        """Ranges of frames within a model's cutoff (Angstrom)."""
        if not frames:
            raise InputError("validity: there are no frames")
        closest: dict[str, float] = {}
        crowding: dict[str, tuple[float, float]] = {}
        for atoms in frames:
            near, dense = _measured(atoms, cutoff)
            for name, distance in near.items():
                closest[name] = min(distance, closest.get(name, np.inf))
            for name, (low, high) in dense.items():
                known = crowding.get(name, (np.inf, -np.inf))
                crowding[name] = (min(low, known[0]), max(high, known[1]))
        return cls(closest, crowding, cutoff)

    @classmethod
    def from_record(cls, record: Mapping) -> "Validity":
        """Read :meth:`record`."""
        crowding = {name: (low, high) for name, (low, high) in record["crowding"].items()}
        return cls(dict(record["closest"]), crowding, record["cutoff"])

    def record(self) -> dict:
        """Record for a model's JSON file."""
        return asdict(self)

    def left_by(self, atoms: Atoms) -> list[Departure]:
        """All ways in which a configuration leaves the ranges."""
        near, dense = _measured(atoms, self.cutoff)
        found = []
        for name, distance in near.items():
            least = self.closest.get(name)
            if least is None:
                found.append(Departure("unseen pair", name, distance, self.cutoff))
            elif distance < least * (1 - MARGIN):
                found.append(Departure("close pair", name, distance, least))
        for name, (low, high) in dense.items():
            smallest, largest = self.crowding.get(name, (np.inf, -np.inf))
            margin = MARGIN * largest
            if high > largest + margin:
                found.append(Departure("more crowded", name, high, largest))
            elif low < smallest - margin:
                found.append(Departure("less crowded", name, low, smallest))
        return found


def _measured(
    atoms: Atoms, cutoff: float
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Closest pair of each two species, and range of the crowding of each species."""
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    vectors = pairs.vectors(atoms.positions, atoms.cell.array)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    weight = np.clip(1 - squares / cutoff**2, 0, None) ** 2
    crowding = np.bincount(pairs.first, weight, minlength=len(atoms))
    species, index = np.unique(atoms.numbers, return_inverse=True)
    least = np.full((len(species), len(species)), np.inf)
    np.minimum.at(least, (index[pairs.first], index[pairs.second]), squares)
    symbols = [chemical_symbols[z] for z in species]
    closest = {
        "-".join(sorted((symbols[a], symbols[b]))): float(np.sqrt(least[a, b]))
        for a in range(len(species))
        for b in range(a, len(species))
        if np.isfinite(least[a, b])
    }
    dense = {
        name: (float(crowding[index == a].min()), float(crowding[index == a].max()))
        for a, name in enumerate(symbols)
    }
    return closest, dense


@dataclass(frozen=True)
class Potential:
    """A trained model."""

    module: HipnnModule
    run_dir: Path | None = None
    validity: Validity | None = None
    """Ranges of its training set, if they are known."""

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
        joined: Sequence[Batch] | None = None,
    ) -> xr.Dataset:
        """Energies, forces, atomic energies (and stresses) of frames of any sizes.

        Their labels do not matter. ``max_atoms`` per evaluated batch bounds the memory; ``joined``
        are the frames as batches, from :meth:`joined` of this or a like potential.

        Returns
        -------
        xr.Dataset
            ``energy(frame)`` eV, ``atomic_energies(atom)`` eV, ``forces(atom, xyz)`` eV/Angstrom,
            ``stress(frame, xyz, xyz_2)`` eV/Angstrom^3, and ``frame_index(atom)``.
        """
        device = next(self.module.parameters()).device
        for k, atoms in enumerate(frames):
            self.module.check_species(atoms.numbers, f"frame {atoms.info.get('frame', k)}")
        found = self.joined(frames, max_atoms) if joined is None else joined
        parts = [self.module(chunk.to(device), forces, stress) for chunk in found]
        e0 = [self.module.e0_of(atoms.numbers) for atoms in frames]
        return _as_dataset(parts, frames, np.concatenate(e0))

    def joined(self, frames: Sequence[Atoms], max_atoms: int = 4096) -> list[Batch]:
        """Frames without their labels, as batches of at most ``max_atoms`` atoms (or one frame).

        They suit every potential with this one's cutoff and precision; finding the pairs takes
        longer than a small network.
        """
        # A batch would take labels for targets.
        single = [self.module.batch(bare(atoms)) for atoms in frames]
        return batches.chunks(single, max_atoms)

    def augment(
        self, frames: Sequence[Atoms], joined: Sequence[Batch] | None = None
    ) -> list[Atoms]:
        """Copies of frames with this potential's atomic energies beside their own labels (eq. 4).

        Their calculators hold ``energies`` (n_atoms,), eV. ``joined`` are the frames as batches of
        one frame each, ``joined(frames, max_atoms=1)`` of this or a like potential.

        Raises
        ------
        InputError
            A value is not finite; names the frame.
        """
        # One frame at a time: in a larger batch the last bits depend on the frames beside it.
        single = [None] * len(frames) if joined is None else [[batch] for batch in joined]
        found = [
            self.predict([atoms], forces=False, joined=batch)
            for atoms, batch in zip(frames, single, strict=True)
        ]
        return with_energies(frames, [ds.atomic_energies.values for ds in found])

    @property
    def saved(self) -> Path | None:
        """Folder that this model was read from, or that its training ended in; None otherwise."""
        if self.run_dir is None or not is_finished(self.run_dir):
            return None
        return Path(self.run_dir).resolve()

    @property
    def counts(self) -> dict[str, int]:
        """Sizes of the architecture, as in result files along ``architecture``."""
        names = ("n_features", "n_sensitivities", "n_atom_layers")
        sizes = {name: getattr(self.config, name) for name in names}
        return sizes | {"n_parameters": n_parameters(self.module)}

    def calculator(self, **options: object) -> HipnnCalculator:
        """ASE calculator; ``options`` as in :class:`kdlib.hipnn.calculator.HipnnCalculator`."""
        return HipnnCalculator(self, **options)


def ensemble_forces(
    potentials: Sequence[Potential], frames: Sequence[Atoms]
) -> tuple[np.ndarray, np.ndarray]:
    """Forces of several models on the same frames.

    Returns
    -------
    tuple
        Forces (n_models, n_atoms, 3), eV/Angstrom, and the frame of each atom, (n_atoms,).
    """
    predictions = [potential.predict(frames) for potential in potentials]
    forces = np.stack([found.forces.values for found in predictions])
    return forces, predictions[0].frame_index.values


def _as_dataset(parts: Sequence[Prediction], frames: Sequence[Atoms], e0: np.ndarray) -> xr.Dataset:
    def joined(name: str) -> np.ndarray:
        return torch.cat([getattr(part, name).detach().cpu() for part in parts]).double().numpy()

    sizes = [len(atoms) for atoms in frames]
    atomic = joined("atomic_energies") + e0
    energy = [part.sum() for part in np.split(atomic, np.cumsum(sizes)[:-1])]
    ds = xr.Dataset()
    ds["energy"] = "frame", energy, {"units": "eV"}
    ds["atomic_energies"] = "atom", atomic, {"units": "eV"}
    if parts[0].forces is not None:
        ds["forces"] = ("atom", "xyz"), joined("forces"), {"units": "eV/Angstrom"}
    if parts[0].virial is not None:
        volume = np.array([batches.volume(atoms) for atoms in frames])[:, None, None]
        ds["stress"] = (("frame", "xyz", "xyz_2"), joined("virial") / volume)
        ds["stress"].attrs["units"] = "eV/Angstrom^3"
    ds["frame_index"] = ("atom", np.repeat(np.arange(len(sizes)), sizes))
    return ds


#: Files of a model. A training writes its settings first and its weights last, and keeps a
#: checkpoint until then.
WEIGHTS, CONFIG, CHECKPOINT = "model.safetensors", "config.json", "checkpoint.safetensors"


def complete_state(module: HipnnModule, tensors: dict[str, Tensor]) -> dict:
    """State dict of the tensors and of hippynn's other entries (``cusp_reg``)."""
    beside = {k: v for k, v in module.state_dict().items() if not isinstance(v, Tensor)}
    return beside | tensors


def save(module: HipnnModule, run_dir: str | Path, settings: dict | None = None) -> None:
    """Write weights (safetensors) and configuration (JSON), with JSON-able ``settings``."""
    folder = made(run_dir)
    tensors = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    with replacing(folder / WEIGHTS) as part:
        part.write_bytes(serialized({k: v.contiguous() for k, v in tensors.items()}))
    announce(module.config, folder, settings)


def announce(config: HipnnConfig, run_dir: str | Path, settings: dict | None = None) -> None:
    """Write the configuration of a model whose weights are still to come."""
    folder = made(run_dir)
    record = {"hipnn": asdict(config), **(settings or {})}
    with replacing(folder / CONFIG) as part:
        part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def is_finished(run_dir: str | Path) -> bool:
    """Whether a folder holds the weights that a training ended with."""
    folder = Path(run_dir)
    return os.path.isfile(folder / WEIGHTS) and not os.path.exists(folder / CHECKPOINT)


def load(run_dir: str | Path) -> Potential:
    """Potential saved by :func:`save`; nothing in the files is executed.

    The name of a model that comes with the package, such as ``"al-16-8-1"``, stands for its folder.

    Raises
    ------
    InputError
        The training is not finished, a file is missing or truncated, or the weights do not fit the
        configuration.
    """
    folder = catalog.located(run_dir)
    if os.path.isfile(folder / CONFIG) and not is_finished(folder):
        raise InputError(f"{folder}: its training is not finished; repeat the call or command that "
                         "trains it to resume, or take the best weights so far with "
                         "kdlib.training.load_unfinished")  # fmt: skip
    return assemble(folder, lambda: load_file(folder / WEIGHTS))


def assemble(run_dir: str | Path, weights: Callable[[], dict[str, Tensor]]) -> Potential:
    """Potential of the configuration in a folder and of the weights that a function reads.

    It computes with the fused kernels, where there are any.

    Raises
    ------
    InputError
        A file is missing or truncated, or the weights do not fit the configuration.
    """
    folder = Path(run_dir)
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        module = build(HipnnConfig(**record["hipnn"]))
        module.load_state_dict(complete_state(module, weights()))
        validity = Validity.from_record(record["validity"]) if "validity" in record else None
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such model file") from None
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: not a readable kdlib model ({reason})") from error
    module.eval()
    if kernels.supports(module) is None:
        kernels.accelerate(module)
    return Potential(module, folder, validity)
