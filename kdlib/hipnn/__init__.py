"""HIP-NN models: the network, the trained potential, its ASE calculator and its kernels."""

from kdlib.hipnn.calculator import HipnnCalculator
from kdlib.hipnn.network import (
    HipnnConfig,
    HipnnModule,
    Prediction,
    build,
    hippynn_graph,
    n_parameters,
)
from kdlib.hipnn.potential import CONFIG, Potential, complete_state, ensemble_forces, load, save

__all__ = [
    "CONFIG",
    "HipnnCalculator",
    "HipnnConfig",
    "HipnnModule",
    "Potential",
    "Prediction",
    "build",
    "complete_state",
    "ensemble_forces",
    "hippynn_graph",
    "load",
    "n_parameters",
    "save",
]
