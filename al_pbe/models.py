"""The models that come with the package: chosen among finished trainings, each with a card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from kdlib import datasets, hipnn, results
from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.hipnn import Potential, catalog
from kdlib.hipnn.potential import Validity
from kdlib.results.schema import ROLE_NAMES
from kdlib.training import sweep

DATASET = "al-pbe"
#: Parts without training frames whose errors a card gives.
PARTS = ("test", "compressed", "transfer")


def export(folder: Path, students: Sequence[str], out: Path = catalog.FOLDER) -> list[Path]:
    """Write the best teacher and the best student of some architectures, with their cards.

    Parameters
    ----------
    folder
        Results of a profile whose notebooks 02, 03 and 05 are done.
    students
        Labels of their architectures, such as ``"16-8-1"``.
    out
        Folder that each model gets a folder in.

    Returns
    -------
    list
        Their folders.
    """
    teachers, learners, speed = (
        results.load(folder / name)
        for name in ("accuracy_teacher.nc", "accuracy_students.nc", "speed.nc")
    )
    frames = datasets.load(DATASET)
    split = datasets.split(frames)
    _check(folder, teachers, learners, speed, students, split)
    chosen = [("teacher", label, teachers) for label in teachers.architecture.values.tolist()]
    chosen += [("student", label, learners) for label in students]
    learned = [frames[k] for k in split.train]
    return [
        _export(folder, role, label, accuracy.sel(role=role, architecture=label), speed, learned,
                out)
        for role, label, accuracy in chosen
    ]  # fmt: skip


def _check(
    folder: Path,
    teachers: xr.Dataset,
    learners: xr.Dataset,
    speed: xr.Dataset,
    students: Sequence[str],
    split: datasets.Split,
) -> None:
    """Refuse what cannot be exported before anything is written."""
    if teachers.attrs["dataset"] != DATASET:
        raise InputError(f"{folder}: its models learned from {teachers.attrs['dataset']}, not from "
                         f"{DATASET}")  # fmt: skip
    if teachers.attrs["split_sha256"] != split.sha256:
        raise InputError(
            f"{folder}: its parts are not those of split seed 0, of which the cards speak"
        )
    taught, known = (ds.architecture.values.tolist() for ds in (teachers, learners))
    for label in students:
        if label not in known or label in taught:
            others = ", ".join(name for name in known if name not in taught)
            raise InputError(
                f"{folder}: no student {label} smaller than its teacher (there are: {others})"
            )
    for label in (*taught, *students):
        if label not in speed.architecture.values:
            raise InputError(f"{folder / 'speed.nc'}: {label} was not timed")
    if "threads" not in speed.attrs:
        raise InputError(
            f"{folder / 'speed.nc'}: does not say how many threads; run notebook 05 again"
        )


def _export(
    folder: Path,
    role: str,
    label: str,
    accuracy: xr.Dataset,
    speed: xr.Dataset,
    learned: Sequence,
    out: Path,
) -> Path:
    """Write the seed with the smallest force RMSE on the validation part."""
    seed = int(accuracy.force_rmse.sel(split="valid").idxmin("seed"))
    potential = sweep.load(folder, role, label, seed)
    home = out / f"al-{label}"
    validity = Validity.of(learned, potential.config.cutoff)
    hipnn.save(potential.module, home, {"validity": validity.record()})
    run, version = accuracy.attrs, datasets.registry.entry(DATASET)["version"]
    about = {
        "title": f"HIP-NN {label} for aluminum, the {ROLE_NAMES[role]} of seed {seed}",
        "parameters": potential.counts["n_parameters"],
        "data": f"{DATASET} {version}, {len(learned)} training frames, PBE",
        "training": f"profile {run['profile']}, commit {run['git_commit']}, best of "
        f"{accuracy.seed.size} seeds on the validation part",
        "errors": _errors(accuracy.sel(seed=seed)),
        "range": _range(potential, validity),
        "speed": _speed(speed, label),
    }
    with replacing(home / catalog.CARD) as part:
        part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return home


def _errors(accuracy: xr.Dataset) -> dict[str, str]:
    """RMSE of forces and energies by part, and by kind of frame of the test part."""
    told = {
        part: _rmse(accuracy.force_rmse.sel(split=part), accuracy.energy_rmse.sel(split=part))
        for part in PARTS
    }
    kinds = accuracy.dropna("phase", subset=["phase_force_rmse"])
    return told | {
        f"test, {kind}": _rmse(
            kinds.phase_force_rmse.sel(phase=kind), kinds.phase_energy_rmse.sel(phase=kind)
        )
        for kind in kinds.phase.values.tolist()
    }


def _rmse(force: xr.DataArray, energy: xr.DataArray) -> str:
    return f"{float(force):.3f} eV/Angstrom, {1e3 * float(energy):.1f} meV/atom"


def _range(potential: Potential, validity: Validity) -> dict[str, str]:
    """What the training frames cover."""
    told = {f"closest {pair}": f"{least:.2f} Angstrom" for pair, least in validity.closest.items()}
    crowding = validity.crowding.items()
    told |= {f"crowding of {name}": f"{low:.1f} to {high:.1f}" for name, (low, high) in crowding}
    return told | {"cutoff": f"{potential.config.cutoff:g} Angstrom"}


def _speed(speed: xr.Dataset, label: str) -> Mapping[str, str]:
    """Time of a step of MD on our kernels at the largest number of atoms."""
    total = speed.step_time.sel(architecture=label, backend="fused", component="total")
    steps = total.median("repeat").dropna("n_atoms")
    memory = float(speed.memory_per_atom.sel(architecture=label, backend="fused"))
    largest, threads = steps.isel(n_atoms=-1), speed.attrs["threads"]
    return {
        "MD step": f"{float(largest):.2g} us/atom at {int(largest.n_atoms)} atoms",
        "memory": f"{memory:.2g} kB/atom" if np.isfinite(memory) else "not measured",
        "processor": f"{speed.attrs['cpu_model']}, {threads} thread{'s' if threads > 1 else ''}",
    }
