"""What follows the environment of an atom in a HIP-NN: dense layers, one atom at a time."""

import torch
from torch import Tensor

from kdlib._hippynn import ResNetWrapper


def interaction_energies(module: torch.nn.Module, one_hot: Tensor, env: Tensor) -> Tensor:
    """Energies of atoms from their environments, as the network and the energy head form them.

    E0 is not among them.

    Parameters
    ----------
    module
        An accelerated :class:`kdlib.hipnn.HipnnModule`.
    one_hot
        Species channels, (n_atoms, n_species).
    env
        Environments, (n_atoms, 4, n_species * n_sensitivities).

    Returns
    -------
    Tensor
        (n_atoms,), eV.
    """
    network = module.network
    wrapper, *atom_layers = network.blocks[0]
    features = network.interaction_layers[0].dense(one_hot, env)
    if isinstance(wrapper, ResNetWrapper):
        residual = wrapper.adjust_layer(one_hot) if wrapper.needs_size_adjust else one_hot
        features = wrapper.res_layer(wrapper.activation(features)) + residual
    else:
        features = network.activation(features)
    for layer in atom_layers:
        features = layer(features)
        if not network.resnet:
            features = network.activation(features)
    return sum(module.energy_terms([features]))
