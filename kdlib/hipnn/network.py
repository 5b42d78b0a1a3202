"""The HIP-NN network: configuration, construction from hippynn's own modules, forces and virials.

The network is hippynn's `HIP-NN with tensor sensitivity <https://doi.org/10.1063/5.0142127>`_
(l_max 0: ``Hipnn``, 1: ``HipnnVec``, 2: ``HipnnQuad``) under hippynn's energy head ``HEnergy``,
both unchanged, so that ``network.*`` and ``henergy.*`` of a state dict load into plain hippynn as
they are. Only the geometry enters differently: displacement vectors of precomputed pairs instead of
positions and cells, which gives energies, forces and virials from one code for any backend.

Where the sensitivity functions of a model begin, for data that come closer than aluminium.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor

from kdlib._hippynn import lean
from kdlib.datasets import species
from kdlib.errors import InputError
from kdlib.geometry.cells import closest_pair
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.device import obstacle
from kdlib.hipnn.kernels.layer import Prepared

with lean():
    import hippynn
    from hippynn.layers.targets import HEnergy
    from hippynn.networks.hipnn import Hipnn, HipnnQuad, HipnnVec

# hippynn looks for pairs below its first sensitivity in every call; we refuse such frames on input.
hippynn.settings.WARN_LOW_DISTANCES = False

# hippynn draws initial weights from torch's one generator: one thread at a time, or seeds mix.
_DRAWING = threading.Lock()
_NETWORKS = {0: Hipnn, 1: HipnnVec, 2: HipnnQuad}


@dataclass(frozen=True)
class HipnnConfig:
    """Architecture of a HIP-NN; the defaults are the paper's teacher (A.1).

    Attributes
    ----------
    n_features
        Width of every layer.
    n_sensitivities
        Radial basis functions of the interaction layer.
    n_atom_layers
        Feed-forward layers after each interaction layer.
    n_interaction_layers
        Message-passing steps; the paper uses one.
    l_max
        Highest tensor order of the sensitivities: 0, 1 or 2.
    soft_min, soft_max
        Centres of the first and the last sensitivity function, Angstrom.
    cutoff
        Hard cutoff, Angstrom.
    species
        Chemical symbols the model knows.
    cusp_reg
        Added under the square root of the l > 0 invariants (as in the authors' student script).
    resnet
        Residual connections around every layer (as in the authors' student script).
    dtype
        ``"float32"`` or ``"float64"``.
    """

    n_features: int = 128
    n_sensitivities: int = 40
    n_atom_layers: int = 4
    n_interaction_layers: int = 1
    l_max: int = 1
    soft_min: float = 1.5
    soft_max: float = 7.0
    cutoff: float = 7.5
    species: tuple[str, ...] = ("Al",)
    cusp_reg: float = 1e-8
    resnet: bool = True
    dtype: str = "float32"

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
        if unknown := [s for s in self.species if s not in atomic_numbers] or not self.species:
            raise InputError(f"HipnnConfig: species {self.species} holds unknown symbols {unknown}")
        if self.dtype not in ("float32", "float64"):
            raise InputError(f"HipnnConfig: dtype is {self.dtype!r}, must be float32 or float64")

    @property
    def label(self) -> str:
        """Width, sensitivities and atom layers as in ``"128-40-4"``: the architecture's name."""
        return f"{self.n_features}-{self.n_sensitivities}-{self.n_atom_layers}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The model's dtype as torch names it."""
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
            "sensitivity_type": "inverse",
            "resnet": self.resnet,
            **cusp,
        }


@dataclass(frozen=True)
class Prediction:
    """What a model says about a batch.

    Attributes
    ----------
    energy
        (n_frames,), eV.
    atomic_energies
        (n_atoms,), eV; they add up to ``energy``.
    hierarchicality
        HIP-NN's non-hierarchicality per frame, (n_frames,), dimensionless.
    forces
        (n_atoms, 3), eV/Angstrom, or None.
    virial
        dE/dstrain, (n_frames, 3, 3), eV, or None; the stress is virial / |cell volume|.
    """

    energy: Tensor
    atomic_energies: Tensor
    hierarchicality: Tensor
    forces: Tensor | None = None
    virial: Tensor | None = None


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

    def forward(
        self, batch: Batch, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> Prediction:
        """Energies, and on request forces and virials.

        Parameters
        ----------
        batch
            Frames, on the module's device and in its dtype.
        forces, stress
            What to derive.
        create_graph
            Keep the graph of the derivatives, so that a loss on forces can be trained.
        """
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
        """Energy (eV) and non-hierarchicality of each atom, as hippynn's energy head forms them."""
        terms = self.energy_terms(features)
        squares = [term * term for term in terms]
        shares = [later / (later + one) for one, later in pairwise(squares)]
        return sum(terms), sum(shares, start=torch.zeros_like(terms[0]))

    def energy_terms(self, features: list[Tensor]) -> list[Tensor]:
        """Atomic energies by the depth of the features that they come from.

        Parameters
        ----------
        features
            What hippynn's network returns: the input's species, then each interaction's features.

        Returns
        -------
        list[Tensor]
            (n_atoms,) each, eV; they add up to the atomic energies.
        """
        head = self.henergy
        features = features[int(head.first_is_interacting) :]
        return [layer(x)[:, 0] for layer, x in zip(head.layers, features, strict=True)]

    def _forces(self, batch: Batch, slope: Tensor) -> Tensor:
        fused = getattr(self.network.interaction_layers[0], "pair_forces", None)
        if fused is not None and obstacle(slope.device) is None:
            return fused(slope, batch.row, batch.second)
        at_rest = slope.new_zeros(batch.n_atoms, 3)
        return at_rest.index_add(0, batch.first, slope).index_add(0, batch.second, -slope)

    @staticmethod
    def _virial(batch: Batch, slope: Tensor) -> Tensor:
        if slope.device.type == "cpu":  # seven times as fast, where starting an operation is cheap
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
    """Fresh model; the same seed gives the same weights, whatever was drawn before."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HipnnModule(config)


def n_parameters(module: torch.nn.Module) -> int:
    """Trainable numbers of the architecture (the frozen E0 of each species does not count)."""
    e0 = module.henergy.layers[0].weight
    return sum(p.numel() for p in module.parameters() if p is not e0 and p.is_floating_point())


def hippynn_graph(module: HipnnModule) -> "hippynn.graphs.nodes.base.MultiNode":
    """Hippynn's own energy node over the same network (periodic), for its tools and its calculator.

    The node shares the module's tensors: training one trains the other.
    """
    from hippynn.graphs import inputs, networks, targets

    species = inputs.SpeciesNode(db_name="species")
    positions = inputs.PositionsNode(db_name="coordinates")
    cell = inputs.CellNode(db_name="cell")
    node = {0: networks.Hipnn, 1: networks.HipnnVec, 2: networks.HipnnQuad}[module.config.l_max]
    network = node("HIPNN", (species, positions, cell), module=module.network, periodic=True)
    return targets.HEnergyNode("energy", network, module=module.henergy)


#: First centre over the distance of the closest pair.
MARGIN = 0.9


def soft_min(frames: Sequence[Atoms]) -> float:
    """Centre of the first sensitivity function, Angstrom.

    It is the paper's, 1.5 Angstrom, for aluminium and for whatever keeps that distance. Where atoms
    come closer, as in molecules, it lies below their closest pair, or a model would hardly see it.

    Parameters
    ----------
    frames
        Data that a model is to learn from.
    """
    usual = HipnnConfig.soft_min
    if species(frames) == HipnnConfig.species:
        return usual
    closest = min(closest_pair(atoms).distance for atoms in frames)
    return usual if closest > usual else round(MARGIN * closest, 3)
