"""Ensembles of models for active learning."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from kdlib import datasets
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.training import TrainingConfig, accuracy, sweep

#: Small enough to be trained in minutes, large enough to be worth asking.
ARCHITECTURE = HipnnConfig(32, 16, 2)
#: The learning rate falls within the cap, and no member stops before it.
TRAINING = TrainingConfig(batch_size=4, max_epochs=120, lr_patience=10, stop_patience=120)
#: Trained on forces above all, as what drives MD should be.
ROLE = "matched_control"


def train(
    frames: Sequence[Atoms],
    folder: Path,
    n_models: int = 4,
    config: HipnnConfig = ARCHITECTURE,
    settings: TrainingConfig = TRAINING,
) -> list[Potential]:
    """Train models that differ in their seed; finished ones are found again.

    Parameters
    ----------
    frames
        Labelled frames; their frozen split decides what is trained on.
    folder
        Where runs are kept.
    n_models
        Size of the ensemble.
    config, settings
        Architecture and training; the seed is replaced.
    """
    todo = sweep.tasks([ROLE], [config], settings, range(n_models))
    runs = sweep.run(todo, frames, datasets.split(frames), folder)
    return [run.potential for run in runs]


def error(potentials: Sequence[Potential], frames: Sequence[Atoms]) -> float:
    """Force RMSE of the ensemble's members on labelled frames, pooled, eV/Angstrom."""
    errors = [accuracy.residuals(potential, frames)["force"] for potential in potentials]
    return accuracy.rmse(np.concatenate(errors))
