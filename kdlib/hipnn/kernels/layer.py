"""Interaction layers of hippynn that compute their pair sums with the fused kernels.

A fused layer *is* the hippynn layer, with its class changed to a subclass that overrides
``forward``: parameters, state dict, hooks and everything that refers to the layer stay as they are,
and changing the class back undoes it.
"""

import logging

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
from kdlib.hipnn.kernels import loops
from kdlib.hipnn.kernels.autograd import PairGraph, Radial, environment, pair_forces

_log = logging.getLogger(__name__)


class _Fused:
    """What the fused layers share: the environment, and the dense part that follows it."""

    #: From slopes to forces, on the CPU.
    pair_forces = staticmethod(pair_forces)

    def radial(self) -> Radial:
        """Centers and widths of the sensitivities, with their history."""
        sensitivity = self.sensitivity
        # Clones, so that an optimizer step cannot change what a later backward pass reads.
        return Radial(1 / sensitivity.mu.flatten(), sensitivity.sigma.flatten().clone())

    def environment(
        self, species: np.ndarray, first: Tensor, second: Tensor, vectors: Tensor
    ) -> Tensor:
        """Sums of sensitivities over neighbors, (n_atoms, 4, n_species * n_sensitivities)."""
        n_atoms = len(species)
        first, second = first.contiguous(), second.contiguous()
        row = loops.rows_of(first.numpy(), n_atoms)
        if not len(row):
            order = torch.argsort(first, stable=True)
            first, second, vectors = first[order], second[order], vectors[order]
            row = loops.rows_of(first.numpy(), n_atoms)
        graph = PairGraph(
            row=row,
            second=second.numpy(),
            species=species,
            n_species=self.nf_in,
            cutoff=self.sensitivity.hard_max_dist,
        )
        return environment(vectors, self.radial(), graph).flatten(2)

    def weights(self) -> Tensor:
        """Interaction weights as a matrix, (n_species * n_sensitivities, n_features)."""
        return self.int_weights.permute(2, 0, 1).flatten(0, 1)

    def species(self, in_features: Tensor) -> np.ndarray | None:
        """Species channel of each atom if this input can take the fused path, otherwise None.

        It must be on the CPU, and one-hot.
        """
        if in_features.device.type != "cpu" or in_features.requires_grad:
            return None
        channels = loops.channels_of(in_features.detach().numpy())
        return channels if len(channels) == len(in_features) else None


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
        if layer.int_weights.device.type != "cpu":
            _log.warning("no fused kernels for %s: using hippynn there", layer.int_weights.device)
    return module


def restore(module: torch.nn.Module) -> torch.nn.Module:
    """Undo :func:`accelerate`, in place; returns the module."""
    for layer in module.modules():
        layer.__class__ = _STOCK.get(type(layer), type(layer))
    return module
