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
from kdlib.hipnn.potential import (
    CHECKPOINT,
    CONFIG,
    Potential,
    announce,
    assemble,
    complete_state,
    ensemble_forces,
    is_finished,
    load,
    save,
)

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "HipnnCalculator",
    "HipnnConfig",
    "HipnnModule",
    "Potential",
    "Prediction",
    "announce",
    "assemble",
    "build",
    "complete_state",
    "ensemble_forces",
    "hippynn_graph",
    "is_finished",
    "load",
    "n_parameters",
    "save",
]
