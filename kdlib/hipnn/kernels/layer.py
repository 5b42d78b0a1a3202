"""Interaction layers of hippynn that compute their pair sums with the fused kernels.

A fused layer *is* the hippynn layer, with its class changed to a subclass that overrides
``forward``: parameters, state dict, hooks and everything that refers to the layer stay as they are,
and changing the class back undoes it.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdlib._hippynn import (
    CosCutoff,
    GaussianSensitivityModule,
    Hipnn,
    InteractLayer,
    InteractLayerVec,
    InverseSensitivityModule,
    Sensitivity,
)
from kdlib.errors import InputError
from kdlib.hipnn.device import interpreted, obstacle
from kdlib.hipnn.kernels import loops
from kdlib.hipnn.kernels.autograd import PairGraph, Radial, environment, pair_forces

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a caller knows of the next batch, so that a device need not be asked.

    Attributes
    ----------
    one_hot
        The network's input, of the species.
    channels
        Species channel of each atom, (n_atoms,) int64.
    row, second
        As in :class:`kdlib.hipnn.batches.Batch`.
    """

    one_hot: Tensor
    channels: Tensor
    row: Tensor
    second: Tensor


class _Fused:
    """What the fused layers share: the environment, and the dense part that follows it."""

    #: From slopes to forces, for pairs sorted by their first atom.
    pair_forces = staticmethod(pair_forces)
    #: Set before a call by who knows the batch.
    prepared: Prepared | None = None

    def radial(self) -> Radial:
        """Centers and widths of the sensitivities, with their history."""
        sensitivity = self.sensitivity
        # Clones, so that an optimizer step cannot change what a later backward pass reads.
        return Radial(1 / sensitivity.mu.flatten(), sensitivity.sigma.flatten().clone())

    def environment(
        self, species: np.ndarray | Tensor, first: Tensor, second: Tensor, vectors: Tensor
    ) -> Tensor:
        """Sums of sensitivities over neighbors, (n_atoms, 4, n_species * n_sensitivities)."""
        first, second = first.contiguous(), second.contiguous()
        row = self._rows(first, second, len(species))
        if row is None:
            order = torch.argsort(first, stable=True)
            first, second, vectors = first[order], second[order], vectors[order]
            row = self._rows(first, second, len(species))
        on_device = isinstance(species, Tensor)
        graph = PairGraph(
            row=row if on_device else row.numpy(),
            second=second if on_device else second.numpy(),
            species=species,
            n_species=self.nf_in,
            cutoff=self.sensitivity.hard_max_dist,
        )
        return environment(vectors, self.radial(), graph).flatten(2)

    def _rows(self, first: Tensor, second: Tensor, n_atoms: int) -> Tensor | None:
        """Start of each atom's pairs, (n_atoms + 1,); None when they are not sorted."""
        if self.prepared is not None and self.prepared.second is second:
            return self.prepared.row
        if first.device.type == "cpu":
            row = torch.from_numpy(loops.rows_of(first.numpy(), n_atoms))
            return row if len(row) else None
        if bool((first.diff() < 0).any()):
            return None
        ends = torch.arange(n_atoms + 1, dtype=first.dtype, device=first.device)
        return torch.searchsorted(first, ends)

    def weights(self) -> Tensor:
        """Interaction weights as a matrix, (n_species * n_sensitivities, n_features)."""
        return self.int_weights.permute(2, 0, 1).flatten(0, 1)

    def species(self, in_features: Tensor) -> np.ndarray | Tensor | None:
        """Species channel of each atom if this input can take the fused path, otherwise None.

        It must be one-hot, and where there are kernels. A tensor asks for those of a device.
        """
        if in_features.requires_grad or obstacle(in_features.device):
            return None
        prepared = self.prepared
        on_device = in_features.device.type != "cpu" or interpreted()
        if on_device and prepared is not None and prepared.one_hot is in_features:
            return prepared.channels
        if in_features.device.type != "cpu":
            ones, others = in_features == 1, in_features != 0
            hot = (ones.sum(1) == 1) & (others.sum(1) == 1)
            return ones.int().argmax(1) if bool(hot.all()) else None
        channels = loops.channels_of(in_features.detach().numpy())
        if len(channels) != len(in_features):
            return None
        return torch.from_numpy(channels) if on_device else channels


class FusedInteractLayer(_Fused, InteractLayer):
    """:class:`hippynn.layers.hiplayers.InteractLayer` (l_max 0) with fused pair sums."""

    def dense(self, in_features: Tensor, env: Tensor) -> Tensor:
        """Features from the environment: V e + W z + b, (n_atoms, n_features)."""
        return env[:, 0] @ self.weights() + self.selfint(in_features)

    def forward(
        self, in_features: Tensor, pair_first: Tensor, pair_second: Tensor, dist_pairs: Tensor
    ) -> Tensor:
        """As hippynn's layer, for one-hot ``in_features``."""
        species = self.species(in_features)
        if species is None:
            return super().forward(in_features, pair_first, pair_second, dist_pairs)
        # The scalar channel depends on distances alone: any direction will do for the vectors.
        vectors = torch.nn.functional.pad(dist_pairs[:, None], (0, 2))
        env = self.environment(species, pair_first, pair_second, vectors)
        return self.dense(in_features, env)


class FusedInteractLayerVec(_Fused, InteractLayerVec):
    """:class:`hippynn.layers.hiplayers.InteractLayerVec` (l_max 1) with fused pair sums."""

    def dense(self, in_features: Tensor, env: Tensor) -> Tensor:
        """Features from the environment, (n_atoms, n_features).

        V e_0 + t sqrt(|V e|^2 + cusp_reg) + W z + b, with e the three vector components.
        """
        summed = env @ self.weights()
        scalar, vector = summed[:, 0], summed[:, 1:]
        norm = torch.sqrt((vector * vector).sum(dim=1) + self.cusp_reg)
        return scalar + norm * self.vecscales + self.selfint(in_features)

    def forward(
        self,
        in_features: Tensor,
        pair_first: Tensor,
        pair_second: Tensor,
        dist_pairs: Tensor,
        coord_pairs: Tensor,
    ) -> Tensor:
        """As hippynn's layer, for one-hot ``in_features``; distances are taken from the vectors."""
        species = self.species(in_features)
        if species is None:
            return super().forward(in_features, pair_first, pair_second, dist_pairs, coord_pairs)
        env = self.environment(species, pair_first, pair_second, coord_pairs)
        return self.dense(in_features, env)


_FUSED = {InteractLayer: FusedInteractLayer, InteractLayerVec: FusedInteractLayerVec}
_STOCK = {fused: stock for stock, fused in _FUSED.items()}


def _obstacle(layer: torch.nn.Module) -> str | None:
    """Return why the fused kernels cannot stand in for a first interaction layer, or None."""
    if type(layer) not in _FUSED | _STOCK:
        return f"no fused kernel for {type(layer).__name__}"
    sensitivity = layer.sensitivity
    known = (Sensitivity, InverseSensitivityModule, GaussianSensitivityModule)
    if type(sensitivity) not in known:
        return f"no fused kernel for sensitivities of type {type(sensitivity).__name__}"
    if type(sensitivity.cutoff) is not CosCutoff:
        return f"no fused kernel for cutoffs of type {type(sensitivity.cutoff).__name__}"
    if layer.int_weights.dtype not in (torch.float32, torch.float64):
        return f"no fused kernel for {layer.int_weights.dtype}"
    return None


def _networks(module: torch.nn.Module) -> list[Hipnn]:
    return [part for part in module.modules() if isinstance(part, Hipnn)]


def supports(module: torch.nn.Module) -> str | None:
    """Say what keeps a model, or a part of it, from running on the fused kernels.

    Parameters
    ----------
    module
        A :class:`kdlib.hipnn.HipnnModule`, a hippynn network, or any module that contains one.

    Returns
    -------
    str or None
        None when every interaction layer is covered, otherwise the reason why not. A model with a
        reason can still be passed to :func:`accelerate` when its *first* interaction layer is
        covered: the others keep hippynn's code.
    """
    networks = _networks(module)
    if not networks:
        return f"{type(module).__name__} holds no HIP-NN network"
    for network in networks:
        first, *others = network.interaction_layers
        if reason := _obstacle(first):
            return reason
        if others:
            return "only the first interaction layer, with species as input, has a fused kernel"
    return None


def accelerate(module: torch.nn.Module) -> torch.nn.Module:
    """Let the first interaction layer of a model compute with the fused kernels.

    In place; the parameters, and with them the state dict and any optimizer, stay the same objects.
    Layers without a fused kernel, and any layer on a device that has none, keep computing with
    hippynn.

    Parameters
    ----------
    module
        A :class:`kdlib.hipnn.HipnnModule`, a hippynn network, or any module that contains one.

    Returns
    -------
    torch.nn.Module
        The module itself.

    Raises
    ------
    InputError
        When no layer of the model can be accelerated.
    """
    firsts = [network.interaction_layers[0] for network in _networks(module)]
    covered = [layer for layer in firsts if _obstacle(layer) is None]
    if not covered:
        raise InputError(f"fused.accelerate: {supports(module)}")
    for layer in covered:
        layer.__class__ = _FUSED.get(type(layer), type(layer))
        if reason := obstacle(layer.int_weights.device):
            _log.warning("no fused kernels (%s): using hippynn there", reason)
    return module


def restore(module: torch.nn.Module) -> torch.nn.Module:
    """Undo :func:`accelerate`, in place; returns the module."""
    for layer in module.modules():
        layer.__class__ = _STOCK.get(type(layer), type(layer))
    return module
