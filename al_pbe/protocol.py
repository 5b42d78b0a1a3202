"""Study of the training protocol, on training and validation frames alone and with its own seeds.

One setting after the other is varied around :data:`CHOSEN`, at three sizes of the network.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.datasets import Split
from kdlib.hipnn import HipnnConfig
from kdlib.training import TrainingConfig, sweep
from kdlib.training.runs import Run

#: Loss weights of all trainings: the teacher's.
ROLE = "teacher"
#: The settings around which others are varied: those of profile `laptop`.
CHOSEN = TrainingConfig(
    optimizer="soap",
    learning_rate=2e-3,
    warmup_epochs=10,
    rate_schedule="cosine",
    batch_size=5,
    max_epochs=200,
    weight_decay=0.05,
    e0_decay=0.3,
    cell_atoms=130.0,
)


@dataclass(frozen=True)
class Study:
    """Which trainings are compared."""

    sizes: Sequence[tuple[int, int, int]] = ((16, 8, 1), (64, 20, 2), (128, 40, 4))
    """Features, sensitivities and atom layers of two students and the teacher."""
    seeds: Sequence[int] = (100, 101)
    """Seeds that no other training of the project uses."""
    varied: Sequence[Mapping[str, Any]] = (
        {},
        {"max_epochs": 50},
        {"max_epochs": 100},
        {"max_epochs": 400},
        {"learning_rate": 1e-3},
        {"learning_rate": 4e-3},
        {"weight_decay": 0.0},
        {"cell_atoms": 0.0},
        {"optimizer": "adam", "weight_decay": 0.0},
    )
    """Fields of :class:`TrainingConfig` that differ from :data:`CHOSEN`."""


def run(
    frames: Sequence[Atoms],
    split: Split,
    folder: Path,
    study: Study | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
) -> xr.Dataset:
    """Train what is not finished in ``folder``, and collect the errors.

    Returns
    -------
    xr.Dataset
        ``force_rmse`` (eV/Angstrom) and ``energy_rmse`` (eV/atom) of the kept epoch over
        ``(setting, architecture, seed, split)``, and ``seconds`` of each training.
    """
    study = study or Study()
    nothing = np.array([], dtype=int)
    split = replace(split, test=nothing, compressed=nothing, transfer=nothing)
    configs = [HipnnConfig(*size) for size in study.sizes]
    rows = []
    for changes in study.varied:
        todo = sweep.tasks([ROLE], configs, replace(CHOSEN, **changes), study.seeds)
        runs = iter(sweep.run(todo, frames, split, folder, executor, workers))
        sizes = [xr.concat([_kept(next(runs)) for _ in study.seeds], "seed") for _ in configs]
        rows.append(xr.concat(sizes, "architecture"))
    found = xr.concat(rows, "setting").drop_attrs(deep=False)  # those of the first training
    found = found.assign_attrs(kind="series").assign_coords(
        setting=[_text(changes) for changes in study.varied],
        architecture=[config.label for config in configs],
        seed=list(study.seeds),
    )
    found.setting.attrs["long_name"] = "fields of TrainingConfig that differ from those chosen"
    return found


def _kept(found: Run) -> xr.Dataset:
    """Errors at the epoch whose weights were kept."""
    history = found.history
    last = history.sel(epoch=history.attrs["best_epoch"])
    errors = last[["force_rmse", "energy_rmse"]].drop_vars("epoch")
    return errors.assign(seconds=history.seconds[-1].drop_vars("epoch"))


def _text(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "as chosen"


def table(found: xr.Dataset) -> str:
    """Means over the seeds, one line for each setting."""
    errors = found[["force_rmse", "energy_rmse"]].sel(split="valid").mean("seed")
    head = "".join(f"{name:>16}" for name in found.architecture.values)
    lines = [f"{'validation, eV/Angstrom and meV/atom':50}{head}"]
    for name in found.setting.values:
        row = errors.sel(setting=name)
        pairs = zip(row.force_rmse.values, 1e3 * row.energy_rmse.values, strict=True)
        cells = "".join(f"{force:10.4f}{energy:6.1f}" for force, energy in pairs)
        lines.append(f"{name:50}{cells}")
    return "\n".join(lines)
