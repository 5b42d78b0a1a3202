"""The report on a student: all measurements as one Dataset, and its tables.

Each measurement is saved to its own file under a hash of the student and its settings: an
interrupted report resumes, and a request for more repeats nothing.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms

from kdlib import hipnn, progress, results, teachers
from kdlib.distill import labeled, measures, partition
from kdlib.distill.labeled import Pool
from kdlib.distill.measures import FULL, Measures
from kdlib.distill.plan import Plan
from kdlib.distill.sampling import structures
from kdlib.distill.workflow import Outcome
from kdlib.files import full_disk_reported, locked
from kdlib.geometry.cells import unlabeled
from kdlib.hipnn.potential import WEIGHTS
from kdlib.results import hashes
from kdlib.results.files import PROVENANCE
from kdlib.training.accuracy import PHASES, STATES, student_parity


def potentials(ds: xr.Dataset) -> pd.DataFrame:
    """Table of crystals, speed and memory of teacher and student, from :func:`report`, as text.

    The length of a crystal is the cube root of its volume per atom: its ratio is that of the
    lattice constants.
    """
    rows = {}
    for name in ds.structure.values.tolist():
        volume = ds.relaxed_volume.sel(structure=name)
        rows[f"{name}, relaxed: volume (A^3/atom)"] = volume
        rows[f"{name}, relaxed: length (A)"] = np.cbrt(volume)
    rows[f"{ds.density.attrs['long_name']} (g/cm^3)"] = ds.density
    rows["time per MD step (us/atom)"] = 1000 * ds.step_time
    rows["memory of MD (MB)"] = ds.md_memory
    found = {}
    for name, values in rows.items():
        teacher, student = (float(values.sel(model=model)) for model in ("teacher", "student"))
        found[name] = [_said(teacher), _said(student), _said(student / teacher, 5)]
    columns = ["teacher", "student", "student / teacher"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns)


def states(ds: xr.Dataset) -> pd.DataFrame:
    """Table of the student's errors and stability, solid and molten, from :func:`report`, as text.

    ``stable`` is the range of temperatures up to the first MD run that became unphysical.
    """
    final = ds.isel(round=-1)
    rows = {
        "force RMSE (eV/A)": final.round_force_rmse,
        "energy RMSE (meV/atom)": 1000 * final.round_energy_rmse,
        "stress RMSE (meV/A^3)": 1000 * final.round_stress_rmse,
        "drift of NVE (eV/atom/ps)": ds.energy_drift,
        "stable NVE (ps)": ds.stable,
    }
    found = {
        name: [_said(float(values.sel(state=state)), 3) for state in PHASES]
        for name, values in rows.items()
    }
    found["runs of MD"] = [str(int((ds.trajectory_molten == melt).sum())) for melt in (0, 1)]
    found["stable (K)"] = [stable_range(ds, state) for state in PHASES]
    return pd.DataFrame.from_dict(found, orient="index", columns=list(PHASES))


def stable_range(ds: xr.Dataset, state: str) -> str:
    """Temperatures (K) of solid or molten runs up to the first unphysical one, as text.

    ``ds`` holds ``survived``, ``md_temperature`` (K) and ``trajectory_molten``.
    """
    chosen = (ds.trajectory_molten == (state == "molten")).values
    temperature, survived = ds.md_temperature.values[chosen], ds.survived.values[chosen]
    if not len(temperature):
        return "no run"
    failed = temperature[survived < 1]
    good = temperature[temperature < failed.min()] if len(failed) else temperature
    if not len(good):
        return "none"
    said = f"{good.min():.0f} to {good.max():.0f}"
    return said + (f", not at {failed.min():.0f}" if len(failed) else "")


def _said(value: float, digits: int = 4) -> str:
    """Format a number, large ones without an exponent; a dash if nothing was measured."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


#: Folder of the measurements.
MEASURED = "measured"
#: Fields of :class:`Measures` that affect one measurement only.
ON_REQUEST = {"rdf_ps": "liquids", "label_seeds": "labels", "label_epochs": "labels"}
#: Versions of measurements; raise one when its content changes, so that saved ones are repeated.
EDITION = {"parity": 1, "survival": 1}


def report(
    plan: Plan,
    outcome: Outcome,
    folder: str | Path,
    m: Measures = FULL,
) -> xr.Dataset:
    """Measure the student delivered in a folder.

    Returns
    -------
    xr.Dataset
        Parity on fresh frames that no model was trained on, errors by round, and the measurements
        of :mod:`kdlib.distill.measures`.
    """
    with locked(folder), full_disk_reported(folder):
        parts = _parts(plan, outcome, Path(folder), m)
    whole = xr.merge(parts, combine_attrs="no_conflicts", compat="no_conflicts", join="outer")
    return whole.assign_attrs(
        teacher=plan.teacher, ending=outcome.ending, target=plan.target_force_rmse
    )


def _parts(plan: Plan, outcome: Outcome, home: Path, m: Measures) -> list[xr.Dataset]:
    """All measurements, those of an earlier call from their files."""
    jobs = _measurements(plan, outcome, home, m)
    weights, parts = (home / WEIGHTS).read_bytes(), []
    with progress.bar(total=len(jobs), desc="report", unit="measurement") as bar:
        for name, measure in jobs.items():
            bar.set_description_str(f"report: {name}")
            asked = {k: v for k, v in asdict(m).items() if ON_REQUEST.get(k, name) == name}
            key = hashes.digest(weights, plan.teacher, repr(asked), str(EDITION.get(name, 0)))
            parts.append(_kept(home / MEASURED / f"{name}.nc", key, measure))
            bar.update()
    return parts


def _measurements(
    plan: Plan, outcome: Outcome, home: Path, m: Measures
) -> dict[str, Callable[[], xr.Dataset]]:
    """Name -> function that measures."""
    potential, given = hipnn.load(home), structures(plan.structures)
    student = potential.calculator()
    teacher = cache(lambda: teachers.load(plan.teacher).calculator())  # loaded only if needed
    pool = Pool(home / labeled.LABELS)
    fresh = pool.frames(pool.of(outcome.final))
    hot = m.hot or plan.temperatures[1]
    jobs = {
        "parity": lambda: student_parity(potential, fresh),
        "rounds": lambda: by_round(outcome, plan),
        "survival": lambda: survival(home, outcome.final),
        "curves": lambda: measures.curves(student, teacher(), given, m),
        "conservation": lambda: measures.conservation(
            student, given[0], hot, _expansion(fresh, given[0]), m
        ),
        "densities": lambda: measures.densities(student, teacher(), given[0], m),
        "costs": lambda: measures.costs(plan.teacher, home, given[0], m),
    }
    if m.rdf_ps:
        jobs["liquids"] = lambda: measures.liquids(student, teacher(), *_melt(fresh), m)
    if m.label_seeds and all("energies" in a.calc.results for a in fresh):
        learned = pool.frames(pool.before(outcome.final))
        learned += labeled.learned(outcome.data)
        jobs["labels"] = lambda: partition.compare(
            plan, outcome, learned, fresh, home, m.label_seeds, m.label_epochs
        )
    return jobs


def _kept(path: Path, key: str, measure: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Load the measurement saved under the same key, or measure and save it."""
    if path.is_file():
        found = results.load(path)
        if found.attrs.get("key") == key:
            beside = PROVENANCE | {"kind", "key"}
            return found.drop_attrs(deep=False).assign_attrs(
                {name: value for name, value in found.attrs.items() if name not in beside}
            )
    ds = measure()
    results.save(ds, path, kind="series", key=key)
    return ds


def by_round(outcome: Outcome, plan: Plan) -> xr.Dataset:
    """Errors on fresh frames by round; the last one is the finished student's."""
    rows = outcome.record
    names = {
        "force_rmse": ("eV/Angstrom", "force RMSE on fresh frames"),
        "energy_rmse": ("eV/atom", "energy RMSE on fresh frames"),
        "stress_rmse": ("eV/Angstrom^3", "stress RMSE on fresh frames"),
    }
    ds = xr.Dataset(
        coords={
            "round": ("round", np.arange(1, 1 + len(rows)), {"units": "1", "long_name": "round"}),
            "state": ("state", list(STATES), {"long_name": "state"}),
        }
    )
    for name, (unit, meaning) in names.items():
        values = [[row["errors"][state][name] for state in STATES] for row in rows]
        about = {"units": unit, "long_name": meaning}
        ds[f"round_{name}"] = (("round", "state"), np.array(values, dtype=float), about)
    frames = [row["frames"] for row in rows]
    ds["round_frames"] = ("round", frames, {"units": "1", "long_name": "labeled frames"})
    minutes = [row["minutes"] for row in rows]
    ds["round_minutes"] = ("round", minutes, {"units": "min", "long_name": "time until then"})
    return ds


def survival(folder: Path, name: str) -> xr.Dataset:
    """Share of MD that stayed physical, by temperature and state, in an exploration."""
    path = folder / "rounds" / name / "trajectories.nc"
    ds = xr.load_dataset(path, engine="h5netcdf")
    about = {"units": "1", "long_name": "share of the run that stayed physical"}
    return xr.Dataset(
        {
            "survived": ("trajectory", ds.survived.values, about),
            "md_temperature": (
                "trajectory", ds.temperature.values, {"units": "K", "long_name": "temperature"}
            ),
            "trajectory_molten": (
                "trajectory", ds.molten.values, {"units": "1", "long_name": "1 in a melt"}
            ),
        }
    )  # fmt: skip


def _expansion(fresh: list[Atoms], given: Atoms) -> float:
    """Volume of a typical melt relative to the given structure's; 1.1 if there is no melt."""
    volumes = [a.get_volume() / len(a) for a in fresh if a.info["molten"]]
    middle = float(np.median(volumes)) if volumes else 1.1 * given.get_volume() / len(given)
    return middle * len(given) / given.get_volume()


def _melt(fresh: list[Atoms]) -> tuple[Atoms, float]:
    """Start configuration from the melts of the last exploration, and its temperature (K)."""
    molten = [a for a in fresh if a.info["molten"]]
    start = molten[0] if molten else fresh[0]
    return unlabeled(start), float(start.info["temperature_K"])
