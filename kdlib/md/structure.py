r"""Structure of a liquid under many models: g(r), its errors, diffusion (section 3.2).

Every model starts from the same configuration (:func:`kdlib.md.liquid.configuration`), comes to
equilibrium, and is sampled at constant temperature and volume by ASE or by LAMMPS. The error of a
g(r) is taken against the model's own teacher, as in the paper. This flatters a student that
inherited its teacher's faults, so it is also taken against teachers of other seeds and experiment.

Whether it is a liquid follows from the motion of its atoms, with positions that are never wrapped,

.. math:: \mathrm{MSD}(t) = \langle |r_i(t_0 + t) - r_i(t_0)|^2 \rangle, \qquad
          D = \tfrac{1}{6} \frac{d}{dt} \mathrm{MSD}(t)

without the motion of the center of mass, averaged over atoms and time origins t_0.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Executor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from kdlib import processes, progress, results
from kdlib.errors import DynamicsError, InputError
from kdlib.geometry import rdf
from kdlib.geometry.cells import bare
from kdlib.md import dynamics, lammps
from kdlib.md.dynamics import slope, thermalize
from kdlib.results import hashes, schema

#: Name -> NVT. Both run a chain of Nose and Hoover; LAMMPS comes with the extra ``lammps``.
ENGINES = {"ase": dynamics.nvt, "lammps": lammps.nvt}


@dataclass(frozen=True)
class LiquidCriterion:
    """When a run counts as liquid: its atoms diffuse, and they have left their sites."""

    min_diffusion: float = 1e-4
    """Diffusion coefficient, Angstrom^2/fs; a tenth of liquid aluminum's near 1000 K."""
    min_displacement: float = 1.0
    """Root-mean-square displacement over the longest lag, Angstrom. In a crystal about to melt it
    stays below 0.6 (sqrt 2 times an amplitude of 10-15 % of the distance between neighbors)."""


@dataclass(frozen=True)
class StructureProtocol:
    """Settings of the runs for g(r), and the range of its error."""

    temperature: float = 1200.0
    """Temperature, K."""
    equilibration_steps: int = 1000
    """Steps under the model's own forces before samples are taken."""
    n_steps: int = 20000
    """Sampled steps."""
    timestep: float = 2.0
    """Time step, fs."""
    sample_every: int = 20
    """Steps between samples; g(r) decorrelates in some 100 fs."""
    n_bins: int = 160
    """Bins of g(r) between 0 and ``r_max``."""
    r_min: float = 2.0
    """Lower bound of the error, Angstrom."""
    r_max: float = 8.0
    """Upper bound of the error, Angstrom."""
    n_pieces: int = 4
    """Equally long pieces of a run, from whose scatter the noise floor follows."""
    engine: str = "ase"
    """Integrator: ``"ase"`` or ``"lammps"``."""
    backend: str = "fused"
    device: str = "auto"
    seed: int = 0
    """Seed for the velocities."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(
                f"StructureProtocol: engine is {self.engine!r}, must be one of {tuple(ENGINES)}"
            )
        if self.n_steps // self.sample_every < 2 * self.n_pieces or self.n_pieces < 2:
            raise InputError(
                f"StructureProtocol: {self.n_steps} steps sampled every {self.sample_every} are "
                f"too few for {self.n_pieces} pieces of two samples"
            )


PROTOCOL = StructureProtocol()


class Model(Protocol):
    """A picklable maker of calculators, such as :class:`kdlib.hipnn.Potential`."""

    counts: Mapping[str, int]

    def calculator(self, *, backend: str, device: str) -> BaseCalculator:
        """Return a fresh ASE calculator."""


def liquid_structure(
    calculator: BaseCalculator, start: Atoms, protocol: StructureProtocol = PROTOCOL
) -> xr.Dataset:
    """Sample a liquid, starting from a copy of ``start``, under one calculator.

    Returns
    -------
    xr.Dataset
        ``g(r)``, ``g_piece(piece, r)``, ``temperature`` (K, mean), ``diffusion`` (Angstrom^2/fs)
        and ``is_liquid``; all NaN, with the reason in the attribute ``failure``, if the run
        explodes: that is a property of the model. Attribute ``forces_by`` of a run by LAMMPS.
    """
    p = protocol
    atoms = bare(start)
    atoms.calc = calculator
    thermalize(atoms, p.temperature, np.random.default_rng(p.seed))
    nvt = ENGINES[p.engine]
    try:
        for n_steps in (p.equilibration_steps, p.n_steps):
            run = nvt(atoms, p.temperature, n_steps, p.timestep, p.seed, p.sample_every)
    except DynamicsError as error:
        return _failed(p, str(error))
    return _summary(run, p)


def _summary(run: xr.Dataset, p: StructureProtocol) -> xr.Dataset:
    positions, cell = run.positions.values, run.cell.values
    msd = mean_squared_displacement(run)
    parts = rdf.pieces(positions, cell, p.n_pieces, p.r_max, p.n_bins)
    known = {"forces_by": run.attrs["forces_by"]} if "forces_by" in run.attrs else {}
    return xr.Dataset(
        {
            "g": rdf.rdf(positions, cell, p.r_max, p.n_bins),
            "g_piece": xr.concat(parts, "piece", coords="minimal", compat="override"),
            "temperature": float(run.temperature.mean()),
            "diffusion": diffusion(msd),
            "is_liquid": float(is_liquid(msd)),
        },
        attrs=known,
    )


def _failed(p: StructureProtocol, reason: str) -> xr.Dataset:
    r = rdf.centers(p.r_max, p.n_bins)
    empty = xr.DataArray(np.full((p.n_pieces, p.n_bins), np.nan), {"r": r}, ("piece", "r"))
    scalars = dict.fromkeys(("temperature", "diffusion", "is_liquid"), np.nan)
    return xr.Dataset({"g": empty[0], "g_piece": empty, **scalars}, attrs={"failure": reason})


#: Role, architecture, seed.
Key = tuple[str, str, int]


def liquid_structures(
    models: Mapping[Key, Model],
    start: Atoms,
    protocol: StructureProtocol = PROTOCOL,
    executor: Executor | None = None,
    n_workers: int | None = None,
    folder: str | Path | None = None,
) -> xr.Dataset:
    """Sample the liquid of many models from the same start.

    Parameters
    ----------
    models
        (role, architecture, seed) -> model.
    executor
        By default ``n_workers`` processes of one thread each, one per core.
    folder
        Keeps the liquid of each model that has a folder (``saved``) as it ends; one that is there
        is not sampled again unless model, start, protocol or this package's code have changed.

    Returns
    -------
    xr.Dataset
        Variables of :func:`liquid_structure` over role, architecture and seed, with the counts of
        each architecture. Attribute ``forces_by``, of LAMMPS: what computed the forces.
    """
    paths = {} if folder is None else _paths(models, start, protocol, Path(folder))
    found = {key: _recalled(path) for key, path in paths.items() if path.is_file()}
    waiting = {key: model for key, model in models.items() if key not in found}
    own = processes.pool(n_workers) if waiting and executor is None else nullcontext(executor)
    with own as pool, progress.bar(total=len(models), desc="liquids", unit="model") as bar:
        bar.update(len(found))
        futures = {pool.submit(_job, model, start, protocol): key for key, model in waiting.items()}
        for future in as_completed(futures):
            key = futures[future]
            found[key] = future.result()
            if key in paths:
                _keep(found[key], paths[key])
            bar.update()
            progress.line(_line(key, found[key]))
    forces_by = {ds.attrs["forces_by"] for ds in found.values() if "forces_by" in ds.attrs}
    known = {"forces_by": ", ".join(sorted(forces_by))} if forces_by else {}
    cells = (_cell(found[key], key, model) for key, model in models.items())
    return results.combine(cells).assign_attrs(known)


def _paths(
    models: Mapping[Key, Model], start: Atoms, protocol: StructureProtocol, folder: Path
) -> dict[Key, Path]:
    """File of the liquid of each saved model, named after all that determines it."""
    code = hashes.modules(["import kdlib.md.structure"])
    arrays = (start.numbers, start.positions, start.cell.array, start.pbc)
    shared = [json.dumps([asdict(protocol), code]), *(array.tobytes() for array in arrays)]
    paths = {}
    for key, model in models.items():
        if home := getattr(model, "saved", None):
            kept = sorted(path for path in home.iterdir() if path.is_file())
            # The history of its training (.nc) has times, and moves no atom.
            parts = [hashes.file(path) for path in kept if path.suffix != ".nc"]
            name = "{}_{}_s{}_".format(*key) + hashes.digest(*shared, *parts)[:12]
            paths[key] = folder / f"{name}.nc"
    return paths


def _keep(found: xr.Dataset, path: Path) -> None:
    piece = found.g_piece.assign_attrs(units="1", long_name="g(r) of a piece of the run")
    results.save(schema.describe(found.assign(g_piece=piece), "rdf"), path, kind="series")


def _recalled(path: Path) -> xr.Dataset:
    """Liquid that was kept, as :func:`liquid_structure` gave it."""
    kept = results.load(path, "series")
    told = {name: kept.attrs[name] for name in ("failure", "forces_by") if name in kept.attrs}
    return kept.drop_attrs(deep=False).assign_attrs(told)


def _job(model: Model, start: Atoms, protocol: StructureProtocol) -> xr.Dataset:
    calculator = model.calculator(backend=protocol.backend, device=protocol.device)
    return liquid_structure(calculator, start, protocol)


def _line(key: Key, found: xr.Dataset) -> str:
    name = "{} {} seed {}".format(*key)
    if "failure" in found.attrs:
        return f"{name}: no liquid ({found.attrs['failure']})"
    state = "liquid" if found.is_liquid else "not liquid"
    temperature, diffusion = float(found.temperature), float(found.diffusion)
    return f"{name}: {temperature:.0f} K, {state}, D = {diffusion:.2g} A^2/fs"


def _cell(found: xr.Dataset, key: Key, model: Model) -> xr.Dataset:
    labels = dict(zip(("role", "architecture", "seed"), ([name] for name in key), strict=True))
    return (
        found.drop_attrs(deep=False)
        .expand_dims(labels)
        .assign_coords({name: ("architecture", [count]) for name, count in model.counts.items()})
    )


def compare(
    ds: xr.Dataset, protocol: StructureProtocol = PROTOCOL, experiment: bool = True
) -> xr.Dataset:
    """Add the errors of g(r) and their noise floor.

    Parameters
    ----------
    ds
        From :func:`liquid_structures`, with the teachers among the models.
    experiment
        Whether to compare with the measured g(r) of liquid aluminum, too.

    Returns
    -------
    xr.Dataset
        Kind ``rdf``: ``rdf_error`` against its own teacher (NaN for teachers),
        ``rdf_error_other_teachers`` (mean over teachers of other seeds), ``rdf_error_experiment``;
        ``rdf_floor``, the error that finite sampling gives two runs of one model (mean over the
        teachers, see :func:`kdlib.geometry.rdf.noise_floor`), and ``rdf_floor_teachers``, the mean
        error between teachers. Angstrom.
    """
    p = protocol
    teachers = {int(s): _teacher(ds.g, s) for s in ds.seed.values}
    teachers = {seed: g for seed, g in teachers.items() if g is not None}
    if not teachers:
        raise InputError("errors of g(r) need the liquid of a teacher; none is there or all failed")
    measured = rdf.experiment() if experiment else None
    names = ("rdf_error", "rdf_error_other_teachers", "rdf_error_experiment")
    errors = {name: xr.full_like(ds.temperature, np.nan) for name in names}
    for key, g in _models(ds.g):
        # A student shares faults with its own teacher, with those of other seeds only the method.
        others = [teacher for seed, teacher in teachers.items() if seed != key["seed"]]
        if key["role"] != "teacher" and key["seed"] in teachers:
            errors[names[0]].loc[key] = rdf.rdf_error(g, teachers[key["seed"]], p.r_min, p.r_max)
        if others:
            each = [rdf.rdf_error(g, teacher, p.r_min, p.r_max) for teacher in others]
            errors[names[1]].loc[key] = np.mean(each)
        if measured is not None:
            errors[names[2]].loc[key] = rdf.rdf_error(g, measured, p.r_min, p.r_max)
    # Whole runs are n_pieces times as long as the pieces whose scatter is taken: their floor is
    # smaller by the root of that. Only teachers count, whose liquid is known to hold together.
    floors = [
        rdf.noise_floor(list(pieces), p.n_pieces, p.r_min, p.r_max)
        for key, pieces in _models(ds.g_piece)
        if key["role"] == "teacher"
    ]
    ds = ds.drop_vars("g_piece").assign(errors | {"rdf_floor": float(np.mean(floors))})
    if measured is not None:
        # The error above took the experiment at the bins' centers in the same way.
        ds["g_experiment"] = measured.interp(r=ds.r).drop_attrs()
        sources = {key: measured.attrs[key] for key in ("temperature", "source")}
        ds = ds.assign_attrs({f"experiment_{key}": value for key, value in sources.items()})
    if len(teachers) > 1:  # whole runs: what a seed changes, on top of what sampling does
        ds["rdf_floor_teachers"] = rdf.noise_floor(list(teachers.values()), 1, p.r_min, p.r_max)
    return ds.assign_attrs(kind="rdf", r_min=p.r_min, r_max=p.r_max)


def _models(values: xr.DataArray) -> list[tuple[dict, xr.DataArray]]:
    """Role, architecture and seed of every model that ran, with its values."""
    stacked = values.stack(model=("role", "architecture", "seed"))
    others = [dim for dim in stacked.dims if dim != "model"]
    ran = stacked.notnull().all(others)
    keys = stacked.model.values[ran.values]
    labels = ("role", "architecture", "seed")
    named = [dict(zip(labels, key, strict=True)) for key in keys]
    return [(key, values.sel(key).transpose(..., "r")) for key in named]


def _teacher(g: xr.DataArray, seed: int) -> xr.DataArray | None:
    found = [g for key, g in _models(g) if key["role"] == "teacher" and key["seed"] == seed]
    return found[0] if found else None


def mean_squared_displacement(run: xr.Dataset) -> xr.DataArray:
    """Mean squared displacement over lags up to half the run, Angstrom^2.

    Parameters
    ----------
    run
        From :func:`nvt`: unwrapped ``positions(time, atom, xyz)`` and ``mass(atom)``.

    Returns
    -------
    xr.DataArray
        Dimension ``lag`` (fs), from 0; averaged over atoms and all time origins.
    """
    positions = run.positions.transpose("time", "atom", "xyz").values
    positions = positions - np.average(positions, axis=1, weights=run.mass, keepdims=True)
    n_lags = len(positions) // 2 + 1  # longer lags have few, overlapping time origins
    msd = [0.0] + [
        float(((positions[k:] - positions[:-k]) ** 2).sum(-1).mean()) for k in range(1, n_lags)
    ]
    lag = run.time.values[:n_lags] - run.time.values[:1]
    return xr.DataArray(
        msd[: len(lag)],
        coords={"lag": ("lag", lag, {"units": "fs", "long_name": "lag"})},
        name="msd",
        attrs={"units": "Angstrom^2", "long_name": "mean squared displacement"},
    )


def diffusion(msd: xr.DataArray, ballistic: float = 300.0) -> float:
    """Self-diffusion coefficient, Angstrom^2/fs: a sixth of the slope of the MSD.

    Parameters
    ----------
    msd
        From :func:`mean_squared_displacement`.
    ballistic
        Shorter lags (fs) are ignored: there, atoms fly or rattle in the cage of their neighbors.
        The result is NaN for fewer than two longer ones.
    """
    late = msd.sel(lag=slice(ballistic, None))
    return slope(late.lag, late) / 6


def is_liquid(msd: xr.DataArray, criterion: LiquidCriterion = LiquidCriterion()) -> bool:
    """Whether the atoms diffuse and have left their sites (see :class:`LiquidCriterion`)."""
    displacement = float(np.sqrt(msd[-1])) if msd.size else 0.0
    moves = displacement >= criterion.min_displacement
    return bool(moves and diffusion(msd) >= criterion.min_diffusion)
