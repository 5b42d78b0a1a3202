"""Students and controls under other choices than a run's: another teacher, other settings.

A verdict on the method is worth little if it turns with a choice that the paper leaves open, so the
same roles are trained again, at some architectures, with one choice changed at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from ase import Atoms

from kdlib import results
from kdlib.datasets import Split
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig
from kdlib.results import schema
from kdlib.training import sweep
from kdlib.training.config import TrainingConfig

#: Errors that are compared.
ERRORS = ("force_rmse", "energy_rmse")


@dataclass(frozen=True)
class Variant:
    """What differs from the run."""

    teacher_architecture: tuple[int, ...] = ()
    """Features, sensitivities and atom layers of its teachers; empty: those of the run."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of all trainings (:class:`TrainingConfig`) that differ."""


def read(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Variant]:
    """Variants of a profile, by name.

    Raises
    ------
    InputError
        Names the variant, and what it holds that no variant has or what is out of range.
    """
    known = [f.name for f in fields(Variant)]
    found = {}
    for name, changes in variants.items():
        if not isinstance(changes, Mapping) or not changes or set(changes) - set(known):
            raise InputError(f"variants: {name!r} must hold one or both of {', '.join(known)}, got "
                             f"{changes!r}")  # fmt: skip
        try:
            TrainingConfig.of({"optimizer": "soap", **changes.get("training", {})})
        except InputError as error:
            raise InputError(f"variants: {name!r}: {error}") from None
        sizes = tuple(changes.get("teacher_architecture", ()))
        found[name] = Variant(sizes, changes.get("training", {}))
    return found


def train(
    teacher: HipnnConfig,
    settings: TrainingConfig,
    roles: Sequence[str],
    configs: Sequence[HipnnConfig],
    seeds: Sequence[int],
    frames: Sequence[Atoms],
    split: Split,
    folder: str | Path,
    workers: int | None = None,
) -> xr.Dataset:
    """Train a teacher for each seed, and the roles with its atomic energies.

    Trainings that the run has done are not repeated, and those done here do not take their place in
    the list that :func:`sweep.load` reads.

    Returns
    -------
    xr.Dataset
        Errors over role, architecture, seed and split (schema kind ``accuracy``).
    """

    def trained(tasks: list[sweep.Task], taught: sweep.Frames) -> tuple[list, xr.Dataset]:
        runs = sweep.run(tasks, taught, split, folder, workers=workers, listed=False)
        return runs, sweep.accuracy(tasks, runs, taught, split)

    runs, of_teachers = trained(sweep.tasks(["teacher"], [teacher], settings, seeds), frames)
    pairs = runs[0].potential.joined(frames, max_atoms=1)
    taught = {s: run.potential.augment(frames, pairs) for s, run in zip(seeds, runs, strict=True)}
    _, of_students = trained(sweep.tasks(roles, configs, settings, seeds), taught)
    described = [schema.describe(ds, "accuracy") for ds in (of_teachers, of_students)]
    return results.combine(described)


def joined(found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Force and energy RMSE of several protocols, ``(variant, role, architecture, seed, split)``.

    Roles, architectures and seeds that a protocol lacks are NaN.
    """
    names = pd.Index(list(found), name="variant")
    tables = [ds[list(ERRORS)].drop_attrs(deep=False) for ds in found.values()]
    together = xr.concat(tables, names, join="outer", combine_attrs="override")
    return together.assign_coords(
        variant=together.variant.assign_attrs(long_name="protocol of the trainings")
    )
