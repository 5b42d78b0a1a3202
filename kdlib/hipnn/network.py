"""The HIP-NN network: configuration, construction from hippynn's own modules, forces and virials.

The network is hippynn's `HIP-NN with tensor sensitivity <https://doi.org/10.1063/5.0142127>`_
(l_max 0: ``Hipnn``, 1: ``HipnnVec``, 2: ``HipnnQuad``) under hippynn's energy head ``HEnergy``,
both unchanged, so that ``network.*`` and ``henergy.*`` of a state dict load into plain hippynn.
Only the geometry enters differently: displacement vectors of precomputed pairs instead of positions
and cells give energies, forces and virials from one code for any backend.

Energies are those of the interaction; :math:`E_0`, the energy of a free atom of each species, is
subtracted in float64 from what a network learns and added in float64 to what users see
(:meth:`HipnnModule.batch`, :meth:`HipnnModule.e0_of`). At thousands of eV an atom, float32 would
round every energy to meV.
"""

import threading
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from itertools import pairwise

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor

from kdlib._hippynn import HEnergy, Hipnn, HipnnQuad, HipnnVec, Sensitivity, graphs
from kdlib.datasets import species
from kdlib.errors import InputError
from kdlib.geometry.cells import closest_pair
from kdlib.hipnn.batches import Batch, from_atoms
from kdlib.hipnn.device import obstacle
from kdlib.hipnn.kernels.layer import Prepared
from kdlib.hipnn.kernels.threads import torch_threads

# hippynn draws initial weights from torch's global generator: two threads at once would mix seeds.
_DRAWING = threading.Lock()
_NETWORKS = {0: Hipnn, 1: HipnnVec, 2: HipnnQuad}
#: Prefix of a field's value in an architecture's name; by default the name of the field.
_TAGS = {
    "n_interaction_layers": "i",
    "l_max": "l",
    "soft_min": "min",
    "soft_max": "max",
    "cutoff": "c",
    "species": "",
    "cusp_reg": "cusp",
    "dtype": "",
}


@dataclass(frozen=True)
class HipnnConfig:
    """Architecture of a HIP-NN; the defaults are the paper's teacher (A.1)."""

    n_features: int = 128
    """Width of every layer."""
    n_sensitivities: int = 40
    """Radial basis functions of the interaction layer."""
    n_atom_layers: int = 4
    """Feed-forward layers after each interaction layer."""
    n_interaction_layers: int = 1
    """Message-passing steps; the paper uses one."""
    l_max: int = 1
    """Highest tensor order of the sensitivities: 0, 1 or 2."""
    soft_min: float = 1.5
    soft_max: float = 7.0
    """Centers of the first and the last sensitivity function, Angstrom."""
    cutoff: float = 7.5
    """Hard cutoff, Angstrom."""
    species: tuple[str, ...] = ("Al",)
    """Chemical symbols that the model knows."""
    cusp_reg: float = 1e-8
    """Summand under the square root of the l > 0 invariants (from the authors' student script)."""
    resnet: bool = True
    """Whether layers have residual connections (from the authors' student script)."""
    dtype: str = "float32"
    """``"float32"`` or ``"float64"``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "species", tuple(self.species))
        for name in ("n_features", "n_sensitivities", "n_atom_layers", "n_interaction_layers"):
            if getattr(self, name) < 1:
                raise InputError(f"HipnnConfig: {name} is {getattr(self, name)}, must be positive")
        if self.l_max not in _NETWORKS:
            raise InputError(f"HipnnConfig: l_max is {self.l_max}, must be 0, 1 or 2")
        if not 0 < self.soft_min < self.soft_max <= self.cutoff:
            raise InputError(
                "HipnnConfig: need 0 < soft_min < soft_max <= cutoff, got "
                f"{self.soft_min}, {self.soft_max}, {self.cutoff}"
            )
        if unknown := [s for s in self.species if not atomic_numbers.get(s)] or not self.species:
            raise InputError(f"HipnnConfig: species {self.species} holds unknown symbols {unknown}")
        if self.dtype not in ("float32", "float64"):
            raise InputError(f"HipnnConfig: dtype is {self.dtype!r}, must be float32 or float64")

    @property
    def label(self) -> str:
        """The architecture's name in result files; no two configurations share one.

        Width, sensitivities and atom layers, then whatever differs from the default, in the order
        of the fields: ``"128-40-4"``, ``"16-8-1-l2-c6.0-CuAu"``.
        """
        first, others = fields(self)[:3], fields(self)[3:]
        numbers = [str(getattr(self, field.name)) for field in first]
        changed = [(f, getattr(self, f.name)) for f in others if getattr(self, f.name) != f.default]
        return "-".join(numbers + [_TAGS.get(f.name, f.name) + _text(v, f) for f, v in changed])

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as a torch type."""
        return getattr(torch, self.dtype)

    @property
    def numbers(self) -> list[int]:
        """Atomic numbers of the species."""
        return [atomic_numbers[symbol] for symbol in self.species]

    def network_kwargs(self) -> dict:
        """Arguments of hippynn's network module."""
        cusp = {"cusp_reg": self.cusp_reg} if self.l_max else {}
        return {
            "possible_species": [0, *self.numbers],
            "n_features": self.n_features,
            "n_sensitivities": self.n_sensitivities,
            "dist_soft_min": self.soft_min,
            "dist_soft_max": self.soft_max,
            "dist_hard_max": self.cutoff,
            "n_interaction_layers": self.n_interaction_layers,
            "n_atom_layers": self.n_atom_layers,
            "sensitivity_type": Sensitivity,
            "resnet": self.resnet,
            **cusp,
        }


def _text(value: object, field: Field) -> str:
    """Value of a field in an architecture's name; 6 and 6.0 are one cutoff."""
    if isinstance(field.default, float):
        return repr(float(value))
    return "".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class Prediction:
    """Prediction of a model for a batch, without the energies E0 of free atoms."""

    energy: Tensor
    """Interaction energies, (n_frames,), eV."""
    atomic_energies: Tensor
    """Interaction energies of the atoms, (n_atoms,), eV; they add up to ``energy``."""
    hierarchicality: Tensor
    """HIP-NN's non-hierarchicality per frame, (n_frames,), dimensionless."""
    forces: Tensor | None = None
    """(n_atoms, 3), eV/Angstrom, or None."""
    virial: Tensor | None = None
    """dE/dstrain, (n_frames, 3, 3), eV, or None; the stress is virial / |cell volume|."""


class FreeAtoms(torch.nn.Linear):
    """hippynn's first energy layer: E0 of each species, eV, in float64 also in a float32 model."""

    def forward(self, one_hot: Tensor) -> Tensor:
        """(n_atoms, n_species) -> (n_atoms, 1), eV."""
        return super().forward(one_hot.to(self.weight.dtype))


class HipnnModule(torch.nn.Module):
    """hippynn's network and energy head over a :class:`~kdlib.hipnn.batches.Batch`.

    The energy depends on the geometry through the pair vectors alone. With
    g_p = dE/dr_p, the force on atom i is the sum of g_p over pairs that start at i, minus the sum
    over pairs that end there, and dE/dstrain is the sum of r_p (x) g_p.
    """

    def __init__(self, config: HipnnConfig) -> None:
        super().__init__()
        self.config = config
        self.network = _NETWORKS[config.l_max](**config.network_kwargs())
        self.henergy = HEnergy(self.network.feature_sizes)
        known = torch.full((max(config.numbers) + 1,), -1, dtype=torch.int64)
        known[config.numbers] = torch.arange(len(config.numbers))
        self.register_buffer("_species_index", known, persistent=False)
        one_hot = torch.zeros(len(known), len(config.numbers))
        one_hot[config.numbers] = torch.eye(len(config.numbers))
        self.register_buffer("_one_hot", one_hot, persistent=False)
        self.to(config.torch_dtype)
        free_atoms = self.henergy.layers[0]
        free_atoms.__class__ = FreeAtoms  # the layer itself stays, with its name in a state dict
        free_atoms.double().requires_grad_(False)

    @property
    def e0(self) -> Tensor:
        """Energy of a free atom of each species, (n_species,) float64, eV."""
        return self.henergy.layers[0].weight[0]

    def e0_of(self, numbers: np.ndarray) -> np.ndarray:
        """E0 of atoms with these atomic numbers, (n_atoms,) float64, eV."""
        return self.e0.cpu().numpy()[self._species_index.cpu().numpy()[numbers]]

    def batch(self, atoms: Atoms) -> Batch:
        """Batch of one frame for this model: within its cutoff, E0 subtracted from the labels."""
        config = self.config
        return from_atoms(atoms, config.cutoff, config.torch_dtype, self.e0_of(atoms.numbers))

    def forward(
        self, batch: Batch, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> Prediction:
        """Energies, and on request forces and virials, of a batch on the module's device and dtype.

        ``create_graph`` keeps the graph of the derivatives, which a loss on forces needs.
        """
        if batch.vectors.device.type != "cpu":
            return self._predicted(batch, forces, stress, create_graph)
        with torch_threads():  # hippynn's layers have compiled loops of their own
            return self._predicted(batch, forces, stress, create_graph)

    def _predicted(
        self, batch: Batch, forces: bool, stress: bool, create_graph: bool
    ) -> Prediction:
        vectors = batch.vectors.detach().requires_grad_(forces or stress)
        atomic, hierarchicality = self._atomic(self._features(batch, vectors))
        empty = atomic.new_zeros(batch.n_frames, 2)
        sums = empty.index_add(0, batch.frame, torch.stack((atomic, hierarchicality), dim=1))
        energy, hierarchicality = sums.unbind(dim=1)
        force = virial = None
        if forces or stress:
            (slope,) = torch.autograd.grad(energy.sum(), vectors, create_graph=create_graph)
            force = self._forces(batch, slope) if forces else None
            virial = self._virial(batch, slope) if stress else None
        return Prediction(energy, atomic, hierarchicality, force, virial)

    def _features(self, batch: Batch, vectors: Tensor) -> list[Tensor]:
        one_hot = self._one_hot.index_select(0, batch.numbers)
        geometry = (vectors,) if self.config.l_max else ()
        pairs = batch.first, batch.second, vectors.norm(dim=1), *geometry
        layer = self.network.interaction_layers[0]
        if not hasattr(layer, "prepared"):
            return self.network(one_hot, *pairs)
        channels = self._species_index.index_select(0, batch.numbers)
        layer.prepared = Prepared(one_hot, channels, batch.row, batch.second)
        try:
            return self.network(one_hot, *pairs)
        finally:
            del layer.prepared

    def _atomic(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Energy (eV) and non-hierarchicality of each atom, as in hippynn's energy head.

        ``features`` are what hippynn's network returns: species, then features of each interaction.
        """
        one_hot, *features = features
        terms = self.energy_terms(features)
        squares = [term * term for term in (one_hot @ self.e0.to(one_hot.dtype), *terms)]
        shares = [later / (later + one) for one, later in pairwise(squares)]
        return sum(terms), sum(shares, start=torch.zeros_like(terms[0]))

    def energy_terms(self, features: list[Tensor]) -> list[Tensor]:
        """Terms of the atoms' interaction energies by depth, (n_atoms,) each, eV.

        ``features`` are those of each interaction.
        """
        _, *layers = self.henergy.layers
        return [layer(x)[:, 0] for layer, x in zip(layers, features, strict=True)]

    def _forces(self, batch: Batch, slope: Tensor) -> Tensor:
        fused = getattr(self.network.interaction_layers[0], "pair_forces", None)
        if fused is not None and obstacle(slope.device) is None:
            return fused(slope, batch.row, batch.second)
        at_rest = slope.new_zeros(batch.n_atoms, 3)
        return at_rest.index_add(0, batch.first, slope).index_add(0, batch.second, -slope)

    @staticmethod
    def _virial(batch: Batch, slope: Tensor) -> Tensor:
        if slope.device.type == "cpu":  # seven times as fast on a CPU
            sizes = batch.pairs_per_frame()
            pieces = zip(batch.vectors.split(sizes), slope.split(sizes), strict=True)
            return torch.stack([vectors.T @ part for vectors, part in pieces])
        outer = batch.vectors[:, :, None] * slope[:, None, :]
        empty = slope.new_zeros(batch.n_frames, 3, 3)
        return empty.index_add(0, batch.frame[batch.first], outer)

    def check_species(self, numbers: np.ndarray, where: str) -> None:
        """Raise InputError when an atomic number is not one of the model's species."""
        if strangers := sorted(set(np.unique(numbers)) - set(self.config.numbers)):
            raise InputError(
                f"{where}: atomic numbers {[int(z) for z in strangers]} are unknown to a model of "
                f"{', '.join(self.config.species)}"
            )


def build(config: HipnnConfig, seed: int = 0) -> HipnnModule:
    """New model; the same seed gives the same weights, whatever was drawn before."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HipnnModule(config)


def n_parameters(module: torch.nn.Module) -> int:
    """Number of trainable parameters (without the frozen E0 of each species)."""
    e0 = module.henergy.layers[0].weight
    return sum(p.numel() for p in module.parameters() if p is not e0 and p.is_floating_point())


def hippynn_graph(module: HipnnModule) -> graphs.nodes.base.MultiNode:
    """Hippynn's own energy node of the same network (periodic), sharing the module's tensors."""
    inputs, networks, targets = graphs.inputs, graphs.networks, graphs.targets
    species = inputs.SpeciesNode(db_name="species")
    positions = inputs.PositionsNode(db_name="coordinates")
    cell = inputs.CellNode(db_name="cell")
    node = {0: networks.Hipnn, 1: networks.HipnnVec, 2: networks.HipnnQuad}[module.config.l_max]
    network = node("HIPNN", (species, positions, cell), module=module.network, periodic=True)
    return targets.HEnergyNode("energy", network, module=module.henergy)


#: Ratio of the first center to the distance of the closest pair.
MARGIN = 0.9


def soft_min(frames: Sequence[Atoms]) -> float:
    """Center of the first sensitivity function for some training data, Angstrom.

    It is the paper's 1.5 Angstrom for aluminum and whatever keeps that distance. Where atoms come
    closer, as in molecules, it lies below their closest pair, which the model would hardly see
    otherwise.
    """
    usual = HipnnConfig.soft_min
    if species(frames) == HipnnConfig.species:
        return usual
    closest = min(closest_pair(atoms).distance for atoms in frames)
    return usual if closest > usual else round(MARGIN * closest, 3)
