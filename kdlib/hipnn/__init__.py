"""HIP-NN models: the network, the trained potential, its ASE calculator and its kernels."""

from kdlib.hipnn.calculator import HipnnCalculator
from kdlib.hipnn.network import (
    HipnnConfig,
    HipnnModule,
    Prediction,
    build,
    hippynn_graph,
    n_parameters,
    soft_min,
)
from kdlib.hipnn.potential import (
    CONFIG,
    WEIGHTS,
    Potential,
    Validity,
    complete_state,
    ensemble_forces,
    load,
    save,
)

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "HipnnCalculator",
    "HipnnConfig",
    "HipnnModule",
    "Potential",
    "Prediction",
    "Validity",
    "build",
    "complete_state",
    "ensemble_forces",
    "hippynn_graph",
    "load",
    "n_parameters",
    "save",
    "soft_min",
]
