"""Training: roles, losses, the loop, sweeps of many runs, and the accuracy of what they give."""

from kdlib.training.loop import TrainingConfig, TrainingError
from kdlib.training.losses import LossWeights, WeightSchedule
from kdlib.training.roles import ROLES, Role, role
from kdlib.training.runs import HISTORY, Run, fit, load_run, run_key

__all__ = [
    "HISTORY",
    "ROLES",
    "LossWeights",
    "Role",
    "Run",
    "TrainingConfig",
    "TrainingError",
    "WeightSchedule",
    "fit",
    "load_run",
    "role",
    "run_key",
]
