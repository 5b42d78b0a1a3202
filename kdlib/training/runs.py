"""Training of one HIP-NN: from settings, data and labels to a finished run directory.

The loop knows nothing of roles: a teacher, a student and a control differ only in the weights of
their loss and in the labels they are given. A run that was killed goes on from its last checkpoint
and ends with the same weights as an unbroken one (same machine, one thread).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from ase import Atoms

import kdlib
from kdlib import hipnn, results
from kdlib.datasets import Split, identity
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.progress import Reporter
from kdlib.training.loop import Loop, TrainingConfig, TrainingError, use_backend
from kdlib.training.losses import LossWeights, WeightSchedule

__all__ = ["Run", "TrainingConfig", "TrainingError", "fit", "label_list", "load_run", "run_key"]

HISTORY, CHECKPOINT = "history.nc", "checkpoint.safetensors"
#: Modules whose source decides what a training does; a change makes trainings run again.
SOURCES = (
    "batches",
    "distillation",
    "framestore",
    "graphedstep",
    "fused",
    "hipnn",
    "loop",
    "losses",
    "metrics",
    "neighbors",
    "network",
    "training",
)


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes
    ----------
    run_dir
        Holds ``config.json``, ``model.safetensors`` and ``history.nc``.
    potential
        Model with the best weights.
    history
        Losses, errors, learning rate and weights of every epoch (schema kind ``run``).
    """

    run_dir: Path
    potential: Potential
    history: xr.Dataset


def fit(
    config: HipnnConfig,
    training: TrainingConfig,
    weights: LossWeights | WeightSchedule,
    frames: Sequence[Atoms],
    split: Split,
    run_dir: str | Path,
    atomic_energies: xr.DataArray | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train one model, or load it when this very training is already finished in ``run_dir``.

    Parameters
    ----------
    config
        Architecture.
    training
        Optimizer, caps and patience.
    weights
        Loss weights, constant or as a schedule over epochs.
    frames, split
        Data and their frozen division; only train and valid are looked at.
    run_dir
        Folder of the run.
    atomic_energies
        A teacher's labels over the atoms of all ``frames`` in order, eV.
    reporter
        Shows progress; silent by default.

    Raises
    ------
    InputError
        When labels are needed but missing, do not fit the frames, or when ``run_dir`` holds
        another run.
    TrainingError
        When the loss is not finite; names epoch, batch and frames.
    """
    schedule = weights if isinstance(weights, WeightSchedule) else WeightSchedule.constant(weights)
    labels = label_list(frames, atomic_energies)
    if schedule.needs_labels and labels is None:
        raise InputError("fit: the loss weights atomic energies but no labels are given")
    folder = Path(run_dir)
    key = run_key(config, training, schedule, split, atomic_energies)
    found = _stored_key(folder)
    if found not in (None, key):
        raise InputError(f"{folder}: holds another run (other settings, data or code); remove it "
                         "or choose another folder")  # fmt: skip
    if found == key and (folder / HISTORY).exists():
        return load_run(folder)
    loop = Loop(config, training, schedule, frames, split, labels)
    settings = {"key": key, "training": asdict(training), "split_sha256": split.sha256,
                "weights": [[e, asdict(w)] for e, w in schedule.stages]}  # fmt: skip
    hipnn.save(loop.module, folder, settings)
    _train(loop, folder, key, reporter or Reporter())
    hipnn.save(loop.best_module(), folder, settings)
    results.save(loop.history(), folder / HISTORY, kind="run", split_sha256=split.sha256)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return load_run(folder)


def load_run(run_dir: str | Path) -> Run:
    """Read a finished training; its model computes with the kernels that it was trained with."""
    folder = Path(run_dir)
    potential = hipnn.load(folder)
    record = json.loads((folder / hipnn.CONFIG).read_text())
    use_backend(potential.module, record["training"]["backend"])
    return Run(folder, potential, results.load(folder / HISTORY, "run"))


def run_key(
    config: HipnnConfig,
    training: TrainingConfig,
    schedule: WeightSchedule,
    split: Split,
    atomic_energies: xr.DataArray | None,
) -> str:
    """Hash of everything that decides the weights: settings, data, split, labels and code."""
    what = {k: v for k, v in asdict(training).items() if k != "checkpoint_every"}
    digest = hashlib.sha256(_source_digest())
    stages = [[start, asdict(w)] for start, w in schedule.stages]
    settings = [asdict(config), what, stages, split.sha256, torch.__version__]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    if schedule.needs_labels:
        digest.update(np.ascontiguousarray(atomic_energies.values).tobytes())
    return digest.hexdigest()


def label_list(
    frames: Sequence[Atoms], atomic_energies: xr.DataArray | None
) -> list[np.ndarray] | None:
    """Cut labels over all atoms into one array per frame; None stays None."""
    if atomic_energies is None:
        return None
    values = np.asarray(atomic_energies, dtype=float)
    sizes = np.cumsum([len(atoms) for atoms in frames])
    if values.shape != (sizes[-1],):
        raise InputError(f"atomic energies: shape {values.shape}, but the frames hold {sizes[-1]} "
                         "atoms")  # fmt: skip
    parts = np.split(values, sizes[:-1])
    for atoms, part in zip(frames, parts, strict=True):
        if not np.isfinite(part).all():
            raise InputError(f"atomic energies: frame {identity(atoms)} is not finite")
    return parts


def _source_digest() -> bytes:
    root = Path(kdlib.__file__).parent
    digest = hashlib.sha256()
    for name in SOURCES:
        paths = [root / f"{name}.py"] if (root / f"{name}.py").exists() else []
        for path in paths or sorted((root / name).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


def _stored_key(folder: Path) -> str | None:
    try:
        return json.loads((folder / hipnn.CONFIG).read_text()).get("key")
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _train(loop: Loop, folder: Path, key: str, reporter: Reporter) -> None:
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        loop.restore(checkpoint, key)
    with reporter.bar(loop.training.max_epochs, desc=folder.name, unit="epoch") as bar:
        bar.update(loop.epoch)
        while not loop.finished:
            loop.run_epoch()
            bar.update()
            if loop.epoch % loop.training.checkpoint_every == 0:
                loop.checkpoint(checkpoint, key)
