"""What a teacher's atomic energies bring: students with and without them, on the same frames."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import workers
from kdlib.distill import students
from kdlib.training.student_errors import STATES
from kdlib.training.student_errors import against_teacher
from kdlib.distill.gauge import Gauge
from kdlib.training.student_parity import from_mean
from kdlib.distill.plan import Plan
from kdlib.distill.students import Trained
from kdlib.distill.workflow import Outcome
from kdlib.progress import Reporter

#: What is compared: name -> use of the labels and factor of their weight.
WAYS = {
    "none": ("none", 1.0),
    "fading": ("fading", 1.0),
    "constant": ("constant", 1.0),
    "constant / 10": ("constant", 0.1),
    "constant, fitted gauge": ("constant", 1.0),
}
FOLDER = "partition"


def compare(
    plan: Plan,
    outcome: Outcome,
    learnt: Sequence[Atoms],
    fresh: Sequence[Atoms],
    folder: str | Path,
    n_seeds: int = 3,
    n_epochs: int = 150,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Train students with every use of the labels and measure them on fresh frames.

    Parameters
    ----------
    plan
        Of the distillation; what it says of labels is replaced by each of :data:`WAYS`.
    outcome
        Holds the references of the species.
    learnt
        Labelled frames, the same for all.
    fresh
        Labelled frames that nothing learnt from, the same for all.
    folder
        Of the distillation; trainings are kept in it and found again.
    n_seeds
        Trainings of each.
    n_epochs
        Of each.
    reporter
        Shows a bar over trainings.

    Returns
    -------
    xarray.Dataset
        ``label_force_rmse(labels, seed, state)`` eV/Angstrom, ``label_energy_rmse(labels, seed)``
        eV/atom, and ``partition_difference(stage)`` eV: between the teacher's partition and that of
        students without labels, before and after the gauge was fitted, and the spread of the
        teacher's atomic energies to compare with.
    """
    seeds = range(plan.seed, plan.seed + n_seeds)
    base, found = replace(plan, n_models=n_seeds), {}
    reference = outcome.references.subtract(fresh)
    with workers.single_threaded() as executor:

        def trained(way: str, frames: Sequence[Atoms]) -> list[Trained]:
            return _trained(base, way, frames, outcome, folder, n_epochs, executor, reporter)

        free = trained("none", learnt)
        gauge = _gauge(free, outcome.references.subtract(learnt), plan.cutoff)
        for way in WAYS:
            frames = learnt
            if way.endswith("gauge"):
                frames = _changed(learnt, outcome.references.subtract(learnt), gauge)
            group = free if way == "none" else trained(way, frames)
            found[way] = [against_teacher(one.potential, reference) for one in group]
    return _table(found, list(seeds)).merge(_differences(gauge, reference))


def _trained(
    base: Plan, way: str, frames: Sequence[Atoms], outcome: Outcome, folder: str | Path,
    n_epochs: int, executor: Executor, reporter: Reporter | None,
) -> list[Trained]:  # fmt: skip
    labels, factor = WAYS[way]
    plan = replace(base, labels=labels, atomic_energy=factor * base.atomic_energy)
    return students.train(
        plan, frames, outcome.references, Path(folder) / FOLDER, n_epochs, executor, reporter
    )


def _gauge(free: Sequence[Trained], reduced: Sequence[Atoms], cutoff: float) -> Gauge:
    """Gauge that brings the teacher's partition near to that of students without labels."""
    mean = np.mean([one.potential.predict(reduced).atomic_energies.values for one in free], 0)
    ends = np.cumsum([len(atoms) for atoms in reduced])[:-1]
    return Gauge.fit(reduced, np.split(mean, ends), cutoff)


def _changed(frames: Sequence[Atoms], reduced: Sequence[Atoms], gauge: Gauge) -> list[Atoms]:
    """Copies of frames with another partition of the same energies."""
    found = []
    for atoms, bare in zip(frames, reduced, strict=True):
        energies = atoms.calc.results["energies"] + gauge.change(bare)
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **(atoms.calc.results | {"energies": energies}))
        found.append(copy)
    return found


def _table(found: dict[str, list[dict]], seeds: list[int]) -> xr.Dataset:
    forces = [[[one[s]["force_rmse"] for s in STATES] for one in way] for way in found.values()]
    energy = [[one["all"]["energy_rmse"] for one in way] for way in found.values()]
    return xr.Dataset(
        {
            "label_force_rmse": (
                ("labels", "seed", "state"), forces,
                {"units": "eV/Angstrom", "long_name": "force RMSE on fresh frames"},
            ),
            "label_energy_rmse": (
                ("labels", "seed"), energy,
                {"units": "eV/atom", "long_name": "energy RMSE on fresh frames"},
            ),
        },
        coords={
            "labels": ("labels", list(found), {"long_name": "use of the atomic energies"}),
            "seed": ("seed", seeds, {"units": "1", "long_name": "training seed"}),
            "state": ("state", list(STATES), {"long_name": "state"}),
        },
    )  # fmt: skip


def _differences(gauge: Gauge, reduced: Sequence[Atoms]) -> xr.Dataset:
    numbers = np.concatenate([atoms.numbers for atoms in reduced])
    energies = np.concatenate([atoms.calc.results["energies"] for atoms in reduced])
    values = [float(from_mean(energies, numbers).std()), gauge.before, gauge.after]
    stages = ["spread of the teacher's", "before", "after fitting the gauge"]
    about = {"units": "eV", "long_name": "difference from the students' own atomic energies"}
    return xr.Dataset(
        {"partition_difference": ("stage", values, about)},
        coords={"stage": ("stage", stages, {"long_name": "comparison"})},
    )
