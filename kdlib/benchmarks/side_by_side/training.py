"""Training time per epoch: hippynn's layers against our kernels, on one thread."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from kdlib import datasets, processes, progress
from kdlib.benchmarks.side_by_side.plan import BenchProtocol
from kdlib.hipnn import HipnnConfig
from kdlib.training import roles
from kdlib.training.config import TrainingConfig
from kdlib.training.loop import Loop


@dataclass(frozen=True)
class TrainJob:
    """Epochs of one model on the embedded data."""

    config: HipnnConfig
    role: str
    """Key of :data:`kdlib.training.roles.ROLES`; sets the terms of the loss."""
    backend: str
    """``"hippynn"`` (stock layers) or ``"fused"``."""
    batch_size: int
    """Frames per optimizer step."""
    n_epochs: int
    """Timed epochs, after a first one that is discarded."""
    dataset: str = "al-pbe"
    """Name or path of the reference data."""


def epochs(job: TrainJob) -> np.ndarray:
    """Seconds of every epoch (training pass and validation) after the first."""
    loop = _loop(job)
    for _ in range(job.n_epochs + 1):
        loop.run_epoch()
    return np.diff([row["seconds"] for row in loop.rows])


def _loop(job: TrainJob) -> Loop:
    frames = datasets.load(job.dataset)
    role = roles.role(job.role)
    if role.learns_from_teacher:  # all atomic energies cost the same, so zeros will do
        frames = datasets.with_energies(frames, [np.zeros(len(atoms)) for atoms in frames])
    total = job.n_epochs + 1
    settings = TrainingConfig(batch_size=job.batch_size, max_epochs=total, backend=job.backend)
    split = datasets.split(frames)
    return Loop(job.config, settings, role.schedule(total), frames, split)


def side_by_side(
    ds: xr.Dataset,
    configs: dict[str, tuple[HipnnConfig, str]],
    protocol: BenchProtocol,
    keep: Callable[[xr.Dataset], None],
) -> None:
    """Fill seconds per epoch on one thread into ``ds``, where it lacks them.

    ``configs`` maps architectures to configuration and role; ``keep`` is called with ``ds`` after
    each run.
    """
    runs = [
        (label, backend, size)
        for label in configs
        for backend in ("hippynn", "fused")
        for size in protocol.batch_sizes
    ]
    with progress.bar(total=len(runs), desc="training", unit="run") as bar:
        for label, backend, size in runs:
            where = {"architecture": label, "backend": backend, "batch_size": size}
            if ds.epoch_time.sel(where).notnull().all():
                bar.update()
                continue
            bar.set_description_str(f"training {label} {backend}, batches of {size}")
            job = TrainJob(*configs[label], backend, size, protocol.n_epochs)
            ds["epoch_time"].loc[where] = processes.call(epochs, job, threads=1)
            seconds = float(ds.epoch_time.sel(where).median())
            progress.line(f"{label} {backend}, batches of {size}: {seconds:.3g} s per epoch")
            keep(ds)
            bar.update()
