"""Structure of liquid aluminium under many models: g(r), its errors, diffusion (section 3.2).

Every model starts from the same configuration, one that a melt and a quench have made
(:func:`starting_liquid`), equilibrates, and is sampled at constant temperature and volume. The
error of a g(r) is taken against the model's own teacher, as in the paper, which flatters a student
that inherited its teacher's faults; so also against teachers of other seeds and experiment.
"""

import tempfile
from collections.abc import Mapping
from concurrent.futures import Executor, as_completed
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.emt import EMT

from kdlib.md import dynamics
from kdlib import hipnn
from kdlib.md import liquid
from kdlib.geometry import rdf
from kdlib import results
from kdlib import workers
from kdlib.md.dynamics import MeltProtocol
from kdlib.errors import InputError
from kdlib.hipnn import Potential
from kdlib.md.liquidrun import PROTOCOL
from kdlib.md.liquidrun import StructureProtocol
from kdlib.md.liquidrun import liquid_structure
from kdlib.progress import Reporter

#: Role, architecture, seed.
Key = tuple[str, str, int]


def starting_liquid(
    n_cells: int,
    protocol: MeltProtocol | None = None,
    seed: int = 0,
    calculator: BaseCalculator | None = None,
    reporter: Reporter | None = None,
) -> Atoms:
    """Melt a crystal and quench it: the configuration that all models start from.

    Parameters
    ----------
    n_cells
        Cubic cells of four atoms along each axis.
    protocol
        Temperatures and lengths; by default those of :class:`~kdlib.md.dynamics.MeltProtocol`.
    seed
        Of displacements, velocities and random forces.
    calculator
        Forces of the melt; by default ASE's EMT, a classical aluminium that favours no model.
    reporter
        Shows a bar over the steps.
    """
    protocol = protocol or MeltProtocol()
    atoms = liquid.liquid_aluminium(n_cells, seed, protocol.temperature)
    atoms.calc = calculator or EMT()
    dynamics.melt(atoms, protocol, seed, reporter=reporter)
    atoms.calc = None
    return atoms


def liquid_structures(
    models: Mapping[Key, Potential],
    start: Atoms,
    protocol: StructureProtocol = PROTOCOL,
    executor: Executor | None = None,
    n_workers: int | None = None,
    reporter: Reporter | None = None,
) -> xr.Dataset:
    """Sample the liquid of many models from the same start.

    Parameters
    ----------
    models
        (role, architecture, seed) -> model.
    start
        Liquid that all start from.
    protocol
        What is run.
    executor
        Where; by default ``n_workers`` processes of one thread each.
    n_workers
        Processes of the default executor; by default one per core.
    reporter
        Shows a bar, and a line for each finished model.

    Returns
    -------
    xarray.Dataset
        Variables of :func:`liquid_structure` over role, architecture and seed, with the counts of
        each architecture.
    """
    cells = []
    own = nullcontext(executor) if executor else workers.single_threaded(n_workers)
    with tempfile.TemporaryDirectory() as folder, own as pool:
        futures = {}
        for key, potential in models.items():
            run_dir = Path(folder) / "_".join(map(str, key))
            hipnn.save(potential.module, run_dir)
            futures[pool.submit(_job, run_dir, start, protocol)] = key
        with (reporter or Reporter()).bar(len(models), "liquids", "model") as bar:
            for future in as_completed(futures):
                key, found = futures[future], future.result()
                cells.append(_cell(found, key, models[key]))
                bar.update()
                bar.line(_line(key, found))
    return results.combine(cells)


def _job(run_dir: Path, start: Atoms, protocol: StructureProtocol) -> xr.Dataset:
    return liquid_structure(hipnn.load(run_dir), start, protocol)


def _line(key: Key, found: xr.Dataset) -> str:
    name = "{} {} seed {}".format(*key)
    if "failure" in found.attrs:
        return f"{name}: no liquid ({found.attrs['failure']})"
    state = "liquid" if found.is_liquid else "not liquid"
    temperature, diffusion = float(found.temperature), float(found.diffusion)
    return f"{name}: {temperature:.0f} K, {state}, D = {diffusion:.2g} A^2/fs"


def _cell(found: xr.Dataset, key: Key, potential: Potential) -> xr.Dataset:
    config = potential.config
    counts = {
        "n_features": config.n_features,
        "n_sensitivities": config.n_sensitivities,
        "n_atom_layers": config.n_atom_layers,
        "n_parameters": hipnn.n_parameters(potential.module),
    }
    labels = dict(zip(("role", "architecture", "seed"), ([name] for name in key), strict=True))
    return (
        found.drop_attrs(deep=False)
        .expand_dims(labels)
        .assign_coords({name: ("architecture", [count]) for name, count in counts.items()})
    )


def compare(
    ds: xr.Dataset, protocol: StructureProtocol = PROTOCOL, experiment: bool = True
) -> xr.Dataset:
    """Add the errors of g(r) and their noise floor.

    Parameters
    ----------
    ds
        From :func:`liquid_structures`, with the teachers among the models.
    protocol
        The one that was run: range of the error and number of pieces.
    experiment
        Whether to compare with the measured g(r) of liquid aluminium, too.

    Returns
    -------
    xarray.Dataset
        Kind ``rdf``: ``rdf_error`` against the own teacher (NaN for teachers),
        ``rdf_error_other_teachers`` (mean over teachers of other seeds), ``rdf_error_experiment``;
        ``rdf_floor``, the error that finite sampling gives two runs of one model (mean over the
        teachers, see :func:`kdlib.geometry.rdf.noise_floor`), and ``rdf_floor_teachers``, the mean error
        between teachers. Angstrom.
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
        others = [teacher for seed, teacher in teachers.items() if seed != key["seed"]]
        if key["role"] != "teacher" and key["seed"] in teachers:
            errors[names[0]].loc[key] = rdf.rdf_error(g, teachers[key["seed"]], p.r_min, p.r_max)
        if others:
            each = [rdf.rdf_error(g, teacher, p.r_min, p.r_max) for teacher in others]
            errors[names[1]].loc[key] = np.mean(each)
        if measured is not None:
            errors[names[2]].loc[key] = rdf.rdf_error(g, measured, p.r_min, p.r_max)
    floors = [
        rdf.noise_floor(list(pieces), p.n_pieces, p.r_min, p.r_max)
        for key, pieces in _models(ds.g_piece)
        if key["role"] == "teacher"
    ]
    ds = ds.drop_vars("g_piece").assign(errors | {"rdf_floor": float(np.mean(floors))})
    if measured is not None:
        ds["g_experiment"] = measured.interp(r=ds.r).drop_attrs()
        sources = {key: measured.attrs[key] for key in ("temperature", "source")}
        ds = ds.assign_attrs({f"experiment_{key}": value for key, value in sources.items()})
    if len(teachers) > 1:
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
