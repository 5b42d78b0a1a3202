"""Training of one HIP-NN: from settings, data and labels to a finished run directory.

A teacher, a student and a control differ only in the weights of their loss and in the labels of
their frames. A killed run resumes from its last checkpoint and ends with the same weights as an
unbroken one (same machine, one thread).
"""

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from ase import Atoms

from kdlib import datasets, files, hipnn, progress, results
from kdlib.datasets import Split, atomic_energies, identity, loss_weight
from kdlib.errors import InputError
from kdlib.files import named
from kdlib.hipnn import CHECKPOINT, HipnnConfig, Potential
from kdlib.hipnn.potential import WEIGHTS
from kdlib.results import sources
from kdlib.training import loop as loops
from kdlib.training.config import TrainingConfig
from kdlib.training.loop import Loop, use_backend
from kdlib.training.losses import LossWeights, WeightSchedule

HISTORY = "history.nc"


@dataclass(frozen=True)
class Run:
    """A finished training."""

    run_dir: Path
    """Holds ``config.json``, ``model.safetensors`` and ``history.nc``."""
    potential: Potential
    """Model with the best weights."""
    history: xr.Dataset
    """Losses, errors, learning rate and weights of every epoch (schema kind ``run``)."""
    floor_gain: float = np.nan
    """Relative fall of :attr:`valid_force_rmse` to a training of twice the epochs, or from one of
    half of them, all else equal; NaN where a sweep did not check that.
    """

    @property
    def valid_force_rmse(self) -> float:
        """Force RMSE of the kept weights on the validation part, eV/Angstrom."""
        kept = self.history.sel(epoch=self.history.attrs["best_epoch"], split="valid")
        return float(kept.force_rmse)


def fit(
    config: HipnnConfig,
    training: TrainingConfig,
    weights: LossWeights | WeightSchedule,
    frames: Sequence[Atoms],
    split: Split,
    run_dir: str | Path,
) -> Run:
    """Train one model on the parts train and valid, or load it if ``run_dir`` holds this training.

    Where the loss weights atomic energies, training frames must carry them
    (:meth:`kdlib.hipnn.Potential.augment`).

    Raises
    ------
    InputError
        A frame lacks a label that the loss needs, no training frame holds one of the species,
        ``run_dir`` holds another run, or another command works in it.
    TrainingError
        The loss is not finite; names epoch, batch and frames.
    """
    schedule = weights if isinstance(weights, WeightSchedule) else WeightSchedule.constant(weights)
    folder = named(run_dir)
    key = run_key(config, training, schedule, frames, split)
    found = _stored_key(folder)
    if found not in (None, key):
        raise InputError(f"{folder}: holds another run (other settings, data or code); remove it "
                         "or choose another folder")  # fmt: skip
    if found != key or not is_finished(folder):
        _check_taught(config, frames, split)
        with files.locked(folder):
            _fit(config, training, schedule, frames, split, folder, key)
    return load_run(folder)


def _fit(
    config: HipnnConfig,
    training: TrainingConfig,
    schedule: WeightSchedule,
    frames: Sequence[Atoms],
    split: Split,
    folder: Path,
    key: str,
) -> None:
    """Train from the last checkpoint on, or from the start, and write the finished run."""
    loop = Loop(config, training, schedule, frames, split)
    files.tidied(folder)
    settings = {"key": key, "training": asdict(training), "split_sha256": split.sha256,
                "weights": [[e, asdict(w)] for e, w in schedule.stages]}  # fmt: skip
    with files.writing(folder):
        (folder / WEIGHTS).unlink(missing_ok=True)  # of another model, or without its history
    hipnn.announce(config, folder, settings)
    _train(loop, folder, key)
    results.save(loop.history(), folder / HISTORY, kind="run", split_sha256=split.sha256)
    hipnn.save(loop.best_module(), folder, settings)
    with files.writing(folder):
        (folder / CHECKPOINT).unlink(missing_ok=True)


def is_finished(run_dir: str | Path) -> bool:
    """Whether a folder holds a whole training: its model and its history."""
    return hipnn.is_finished(run_dir) and os.path.isfile(Path(run_dir) / HISTORY)


def load_unfinished(run_dir: str | Path) -> Potential:
    """Best weights so far of a training that runs, or that was stopped; a warning names the epochs.

    Raises
    ------
    InputError
        There is no checkpoint: the training is finished, or stopped before the first one.
    """
    folder = named(run_dir)
    if not os.path.isfile(folder / CHECKPOINT):
        raise InputError(f"{folder}: holds no checkpoint of a training ({CHECKPOINT})")
    tensors, state = loops.load(folder / CHECKPOINT)
    potential = hipnn.assemble(folder, lambda: tensors["best"])
    epoch = state["best"]["epoch"]
    warnings.warn(f"{folder}: weights of epoch {epoch}, the best of {state['epoch']} so far; the "
                  "training is not finished", stacklevel=2)  # fmt: skip
    return potential


def load_run(run_dir: str | Path) -> Run:
    """Read a finished training; its model uses the kernels that it was trained with."""
    folder = named(run_dir)
    potential = hipnn.load(folder)
    record = json.loads((folder / hipnn.CONFIG).read_text(encoding="utf-8"))
    use_backend(potential.module, record["training"]["backend"])
    return Run(folder, potential, results.load(folder / HISTORY, "run"))


def run_key(
    config: HipnnConfig,
    training: TrainingConfig,
    schedule: WeightSchedule,
    frames: Sequence[Atoms],
    split: Split,
) -> str:
    """Hash of everything that determines the weights: settings, data, split, labels and code.

    Labels that this training does not read are left out, so that a control has the same hash
    whether or not its frames carry a teacher's atomic energies. The code is that of the modules
    that a training imports, without docstrings and comments.

    Raises
    ------
    InputError
        A training frame lacks atomic energies that the loss needs, or they are not finite.
    """
    if schedule.needs_atomic_energies:
        _check_atomic_energies([frames[k] for k in split.train])
    what = {k: v for k, v in asdict(training).items() if k != "checkpoint_every"}
    stages = [[start, asdict(w)] for start, w in schedule.stages]
    settings = [asdict(config), what, stages, split.sha256, torch.__version__]
    digest = hashlib.sha256(json.dumps([*_code(), settings], sort_keys=True).encode())
    labels = _labels_read(training, schedule)
    for part in (split.train, split.valid):
        digest.update(datasets.fingerprint([frames[k] for k in part], labels).encode())
    return digest.hexdigest()


def _labels_read(training: TrainingConfig, schedule: WeightSchedule) -> list[str]:
    """Labels that determine the weights; E0 and the selection always read energy and forces."""
    stress = ["stress"] if schedule.needs_stress or training.selects_by_stress else []
    return ["energy", "forces", *stress, *(["energies"] if schedule.needs_atomic_energies else [])]


def _check_atomic_energies(frames: Sequence[Atoms]) -> None:
    """Refuse frames without finite atomic energies."""
    for atoms in frames:
        values = atomic_energies(atoms)
        if values is None:
            raise InputError(f"frame {identity(atoms)}: carries no atomic energies, but the loss "
                             "weights them")  # fmt: skip
        if not np.isfinite(values).all():
            raise InputError(f"frame {identity(atoms)}: its atomic energies are not finite")


def _check_taught(config: HipnnConfig, frames: Sequence[Atoms], split: Split) -> None:
    """Refuse species without training frames, whose energies would be those of nothing: zero."""
    parts = split.parts(frames)
    found = {part: set(datasets.species(some)) for part, some in parts.items() if some}
    taught = found["train"]
    asked = {"the model's configuration": set(config.species)} | {
        f"the part {part!r}": there for part, there in found.items()
    }
    untaught = {where: there - taught for where, there in asked.items() if there - taught}
    if untaught:
        names = ", ".join(sorted(set.union(*untaught.values())))
        places = " and in ".join(untaught)
        raise InputError(f"fit: {names} is in {places}, but in no training frame")
    if all(loss_weight(atoms) == 0 for atoms in parts["train"]):
        raise InputError("fit: every training frame has a loss_weight of 0, nothing would be "
                         "learned")  # fmt: skip


@cache
def _code() -> tuple[str, ...]:
    """Hashes of the modules that a training imports."""
    paths = sources.closure("import kdlib.training", deferred=False).values()
    return tuple(sources.syntax(path.read_text(encoding="utf-8")) for path in paths)


def _stored_key(folder: Path) -> str | None:
    with files.writing(folder):  # a folder that cannot be read cannot be written, either
        try:
            return json.loads((folder / hipnn.CONFIG).read_text(encoding="utf-8")).get("key")
        except (FileNotFoundError, json.JSONDecodeError):
            return None


def _train(loop: Loop, folder: Path, key: str) -> None:
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        loop.restore(checkpoint, key)
    with progress.bar(total=loop.training.max_epochs, desc=folder.name, unit="epoch") as bar:
        bar.update(loop.epoch)
        while not loop.finished:
            loop.run_epoch()
            bar.update()
            if loop.epoch % loop.training.checkpoint_every == 0:
                loop.checkpoint(checkpoint, key)
