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

#: Name of the run itself among the protocols.
AS_CHOSEN = "as chosen"
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
    return {name: _read(name, changes) for name, changes in variants.items()}


def _read(name: str, changes: Mapping[str, Any]) -> Variant:
    if not isinstance(name, str) or name == AS_CHOSEN:
        raise InputError(f"variants: a name is a text other than {AS_CHOSEN!r}, got {name!r}")
    known = [f.name for f in fields(Variant)]
    whole = isinstance(changes, Mapping) and changes and not set(changes) - set(known)
    if not whole or not all(changes.values()):
        raise InputError(f"variants: {name!r} must hold one or both of {', '.join(known)}, got "
                         f"{changes!r}")  # fmt: skip
    sizes, training = changes.get(known[0], ()), changes.get(known[1], {})
    if sizes and not _is_architecture(sizes):
        raise InputError(f"variants: {name!r}: {known[0]} must be three whole numbers such as "
                         f"[64, 20, 2], got {sizes!r}")  # fmt: skip
    if not isinstance(training, Mapping):
        raise InputError(f"variants: {name!r}: training must map settings to values, got "
                         f"{training!r}")  # fmt: skip
    return Variant(tuple(sizes), training)


def _is_architecture(sizes: object) -> bool:
    numbers = isinstance(sizes, Sequence) and len(sizes) == 3
    return numbers and all(type(n) is int and n > 0 for n in sizes)


def settings(training: Mapping[str, Any], variants: Mapping[str, Variant]) -> list[TrainingConfig]:
    """Settings of each variant: those of the run with what differs.

    Raises
    ------
    InputError
        Names the variant whose settings are out of range together with the run's.
    """
    found = []
    for name, variant in variants.items():
        try:
            found.append(TrainingConfig.of({**training, **variant.training}))
        except InputError as error:
            raise InputError(f"variants: {name!r}: {error}") from None
    return found


def of_run(
    teachers: xr.Dataset, students: xr.Dataset, architectures: Sequence[str], seeds: Sequence[int]
) -> xr.Dataset:
    """Errors of the run at some architectures and seeds, as :func:`train` gives those of others.

    Raises
    ------
    InputError
        The run has no such architecture or seed.
    """
    for name, wanted in (("architecture", architectures), ("seed", seeds)):
        there = students[name].values.tolist()
        if missing := [one for one in wanted if one not in there]:
            raise InputError(f"{name} {missing[0]} is not among the run's students: {there}")
    chosen = students.sel(architecture=list(architectures), seed=list(seeds))
    return results.combine([teachers.sel(seed=list(seeds)), chosen])


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
    epochs: Mapping[str, int] | None = None,
) -> xr.Dataset:
    """Train a teacher for each seed, and the roles with its atomic energies.

    ``epochs`` are the run's, by architecture (:func:`sweep.tasks`); it may name others, too.

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
    taught = sweep.augmented(runs, seeds, frames)
    own = {s: epochs[s] for s in map(sweep.size, configs) if epochs and s in epochs}
    _, of_students = trained(sweep.tasks(roles, configs, settings, seeds, own), taught)
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
