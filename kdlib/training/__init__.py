"""Training: roles, losses, the loop, sweeps of many runs, and the accuracy of models."""

from kdlib.training.config import TrainingConfig
from kdlib.training.loop import TrainingError
from kdlib.training.losses import LossWeights, WeightSchedule
from kdlib.training.runs import Run, fit, load_run, load_unfinished, run_key

__all__ = [
    "LossWeights",
    "Run",
    "TrainingConfig",
    "TrainingError",
    "WeightSchedule",
    "fit",
    "load_run",
    "load_unfinished",
    "run_key",
]
