"""Ensembles of models for active learning."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from kdlib import datasets
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.training import TrainingConfig, accuracy, sweep

#: Trains in minutes and is still accurate enough to drive MD.
ARCHITECTURE = HipnnConfig(32, 16, 2)
#: The learning rate decays within the cap of epochs; no member stops early.
TRAINING = TrainingConfig(batch_size=4, max_epochs=120, lr_patience=10, stop_patience=120)
#: Force-weighted loss, because the models drive MD.
ROLE = "matched_control"


def train(
    frames: Sequence[Atoms],
    folder: Path,
    n_models: int = 4,
    config: HipnnConfig = ARCHITECTURE,
    settings: TrainingConfig = TRAINING,
) -> list[Potential]:
    """Train models that differ only in their seed, or load finished ones from ``folder``.

    The frozen split of the labeled frames decides which are trained on.
    """
    todo = sweep.tasks([ROLE], [config], settings, range(n_models))
    runs = sweep.run(todo, frames, datasets.split(frames), folder)
    return [run.potential for run in runs]


def error(potentials: Sequence[Potential], frames: Sequence[Atoms]) -> float:
    """Force RMSE on labeled frames, pooled over the members of an ensemble, eV/Angstrom."""
    errors = [accuracy.residuals(potential, frames)["force"] for potential in potentials]
    return accuracy.rmse(np.concatenate(errors))
