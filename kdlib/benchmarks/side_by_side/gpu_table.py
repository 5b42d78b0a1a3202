"""The benchmark on a GPU as a result: its record, kept block by block, as Dataset and as text."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from kdlib.benchmarks.side_by_side.table import number
from kdlib.errors import InputError
from kdlib.results.files import provenance
from kdlib.results.schema import BACKENDS, COMPONENTS

#: Variable -> dimensions, unit and meaning.
_VARIABLES = {
    "step_time": (("architecture", "backend", "n_atoms", "component"), "us/atom/step",
                  "time per MD step per atom"),
    "memory_per_atom": (("architecture", "backend", "n_atoms"), "kB/atom", "peak memory per atom"),
    "n_builds": (("architecture", "n_atoms"), "1", "builds of the neighbor table in the run"),
    "energy_change": (("architecture", "n_atoms"), "eV/atom", "change of the total energy"),
    "training_step_time": (("architecture", "backend"), "ms", "time of an optimizer step"),
    "training_epoch_time": (("architecture", "backend"), "s",
                            "time of a training epoch with its validation"),
    "training_memory": (("architecture", "backend"), "MB", "peak memory of a training"),
    "picosecond_n_atoms": (("architecture",), "1", "atoms of the run of 1000 steps"),
    "picosecond_time": (("architecture",), "s", "time of 1000 MD steps of 1 fs"),
    "trial_n_atoms": (("architecture", "trial"), "1", "atoms of a trial of the memory"),
    "trial_step_time": (("architecture", "trial"), "us/atom/step",
                        "time per MD step per atom in a trial of the memory"),
    "trial_memory_per_atom": (("architecture", "trial"), "kB/atom",
                              "peak memory per atom in a trial of the memory"),
    "kernel_time": (("architecture", "stage", "kernel"), "ms", "time of a kernel"),
}  # fmt: skip
_COORDINATES = {
    "architecture": ("", "features-sensitivities-atom layers"),
    "backend": ("", "implementation of the network"),
    "n_atoms": ("1", "atoms in the MD cell"),
    "component": ("", "part of an MD step"),
    "trial": ("1", "trial of the memory; the last one is the largest that took steps"),
    "stage": ("", "an MD step, or a build of the neighbor table"),
    "kernel": ("", "name of a kernel"),
}
_NAMES = {
    "fused": "ours",
    "hippynn": "hippynn's layers, forces alone",
    "stock": "stock hippynn",
}
_STAGES = ("step", "build")
#: Kernels over pairs in :mod:`kdlib.hipnn.device`: forces, environment.
_PAIR_KERNELS = ("gather_forces", "sum_environment")

Block = Mapping[str, Any]


def dataset(*records: Mapping[str, Any]) -> xr.Dataset:
    """Record of :func:`kdlib.benchmarks.side_by_side.gpu.run` as a benchmark with units.

    Parameters
    ----------
    *records
        The record; blocks of further records from the same device are added to it.

    Returns
    -------
    xarray.Dataset
        NaN where nothing was measured; ``not_measured`` names the sizes, ``failed`` the errors.
        Its provenance is the record's: what that does not hold is "not recorded".
    """
    record: dict[str, Any] = {}
    for more in records:
        record |= {name: block for name, block in more.items() if name not in record}
    failed = {
        name: block["error"]
        for name, block in record.items()
        if isinstance(block, Mapping) and "error" in block
    }
    ds = _empty(record)
    if "step_time" not in ds:
        raise InputError(
            f"the benchmark holds no time of an MD step; its errors: {failed or 'none'}"
        )
    for name, block in _blocks(record):
        kind, label, *size = name.split()
        _FILL[kind](ds, block, {"architecture": label}, *map(int, size))
    known = record.get("provenance", {})
    known = {key: known.get(key, "not recorded") for key in provenance()}
    known |= {"device": record["device"], "torch_version": record["torch"]}
    return ds.assign_attrs(
        known,
        kind="benchmark",
        protocol=record["protocol"],
        batch_size=int(record["protocol"]["batch_size"]),
        **_cells(record),
        not_measured=_not_measured(ds),
        failed=failed or "none",
    )


def _cells(record: Mapping[str, Any]) -> dict[str, str]:
    """Attribute that says which cells were trained on; none for a record that does not."""
    if "cells" not in record:
        return {}
    cells = record["cells"]
    origin = f"of {cells['file']}" if cells["file"] else "generated"
    return {
        "training_cells": f"{cells['number']} cells {origin}, {cells['mean_atoms']:.3g} atoms each "
        "on average"
    }


def _blocks(record: Mapping[str, Any]) -> Iterator[tuple[str, Block]]:
    for name, block in record.items():
        if name.split()[0] in _FILL and isinstance(block, Mapping) and "error" not in block:
            yield name, block


def _empty(record: Mapping[str, Any]) -> xr.Dataset:
    """Every variable, full of NaN, at the sizes of the record."""
    blocks = list(_blocks(record))
    sizes = {int(name.split()[2]) for name, _ in blocks if name.split()[0] in _SIZED}
    trials = [len(block["runs"]) for name, block in blocks if name.startswith("largest ")]
    profiles = [block for name, block in blocks if name.startswith("profile ")]
    values = {
        "architecture": list(dict.fromkeys(name.split()[1] for name, _ in blocks)),
        "backend": list(BACKENDS),
        "n_atoms": sorted(sizes),
        "component": list(COMPONENTS),
        "trial": list(range(max(trials, default=0))),
        "stage": list(_STAGES),
        "kernel": sorted(
            {name for block in profiles for stage in _STAGES for name in block[stage]}
        ),
    }
    kept = {name: found for name, found in values.items() if found}
    ds = xr.Dataset(coords=kept)
    for name, (unit, meaning) in _COORDINATES.items():
        if name in ds:
            ds[name].attrs = {**({"units": unit} if unit else {}), "long_name": meaning}
    for name, (dims, unit, meaning) in _VARIABLES.items():
        if set(dims) <= set(kept):
            nothing = np.full([len(kept[dim]) for dim in dims], math.nan)
            ds[name] = dims, nothing, {"units": unit, "long_name": meaning}
    return ds


def _md(ds: xr.Dataset, block: Block, where: dict, n_atoms: int) -> None:
    at = {**where, "n_atoms": n_atoms}
    ours = {**at, "backend": "fused"}
    ds.step_time.loc[{**ours, "component": "total"}] = block["us_per_atom_step"]
    ds.memory_per_atom.loc[ours] = block["peak_bytes_per_atom"] / 1e3
    ds.n_builds.loc[at] = block["builds"]
    ds.energy_change.loc[at] = block["energy_change"]


def _layers(ds: xr.Dataset, block: Block, where: dict, n_atoms: int) -> None:
    at = {**where, "n_atoms": n_atoms, "backend": "hippynn"}
    ds.step_time.loc[{**at, "component": "model"}] = block["us_per_atom"]
    ds.memory_per_atom.loc[at] = block["peak_bytes_per_atom"] / 1e3


def _stock(ds: xr.Dataset, block: Block, where: dict, n_atoms: int) -> None:
    for component, value in block["us_per_atom_step"].items():
        at = {**where, "n_atoms": n_atoms, "backend": "stock", "component": component}
        ds.step_time.loc[at] = value


def _training(ds: xr.Dataset, block: Block, where: dict) -> None:
    for backend, found in block.items():
        at = {**where, "backend": backend}
        ds.training_step_time.loc[at] = found["ms_per_step"]
        ds.training_epoch_time.loc[at] = found["seconds_per_epoch"]
        ds.training_memory.loc[at] = found["peak_bytes"] / 1e6


def _picosecond(ds: xr.Dataset, block: Block, where: dict) -> None:
    ds.picosecond_n_atoms.loc[where] = block["n_atoms"]
    ds.picosecond_time.loc[where] = block["seconds"]


def _largest(ds: xr.Dataset, block: Block, where: dict) -> None:
    for trial, found in enumerate(block["runs"]):
        at = {**where, "trial": trial}
        ds.trial_n_atoms.loc[at] = found["n_atoms"]
        ds.trial_step_time.loc[at] = found["us_per_atom_step"]
        ds.trial_memory_per_atom.loc[at] = found["peak_bytes_per_atom"] / 1e3


def _profile(ds: xr.Dataset, block: Block, where: dict, n_atoms: int) -> None:
    ds.attrs["profiled_n_atoms"] = n_atoms
    for stage in _STAGES:
        for kernel, value in block[stage].items():
            ds.kernel_time.loc[{**where, "stage": stage, "kernel": kernel}] = value


#: Kind of block -> what puts it into the Dataset.
_FILL = {
    "md": _md,
    "layers": _layers,
    "stock": _stock,
    "training": _training,
    "picosecond": _picosecond,
    "largest": _largest,
    "profile": _profile,
}
_SIZED = ("md", "layers", "stock")


def _not_measured(ds: xr.Dataset) -> str:
    """Sizes at which a backend did not run, in words."""
    missing = []
    for backend, times in _times(ds):
        for label in ds.architecture.values.tolist():
            here = times.sel(architecture=label)
            sizes = here.n_atoms[here.isnull().values].values.tolist()
            if sizes:
                listed = ", ".join(map(str, sizes))
                missing.append(f"{_NAMES[backend]}, {label}: {listed} atoms")
    return "; ".join(missing) or "nothing"


def _times(ds: xr.Dataset) -> Iterator[tuple[str, xr.DataArray]]:
    """Time of each backend: of a whole step, or of the layers' forces."""
    for backend in _NAMES:
        component = "model" if backend == "hippynn" else "total"
        yield backend, ds.step_time.sel(backend=backend, component=component)


def table(ds: xr.Dataset) -> str:
    """Benchmark on a GPU as text; ``-`` where nothing was measured.

    Parameters
    ----------
    ds
        From :func:`dataset`, or the data of the figure.
    """
    attrs = ds.attrs
    lines = [f"{attrs['device']}, torch {attrs['torch_version']}, {attrs['created'][:10]}"]
    for label in ds.architecture.values.tolist():
        one = ds.sel(architecture=label)
        lines += ["", *_dynamics(one, label), *_limits(one), *_trainings(one), *_kernels(one)]
    return "\n".join(lines) + "\n"


def _dynamics(ds: xr.Dataset, label: str) -> list[str]:
    rows = [
        f"{label + ', us/atom/step':<24}{'atoms':>9}{'ours':>9}{'stock':>9}{'faster':>8}"
        f"{'layers':>9}{'faster':>8}{'kB/atom':>9}{'layers':>9}"
    ]
    times = dict(_times(ds))
    for n in ds.n_atoms.values.tolist():
        ours, stock, layers = (
            float(times[name].sel(n_atoms=n)) for name in ("fused", "stock", "hippynn")
        )
        memory = ds.memory_per_atom.sel(n_atoms=n)
        numbers = [ours, stock, stock / ours, layers, layers / ours]
        numbers += [float(memory.sel(backend=name)) for name in ("fused", "hippynn")]
        widths = (9, 9, 8, 9, 8, 9, 9)
        shown = "".join(f"{number(x):>{w}}" for x, w in zip(numbers, widths, strict=True))
        rows.append(f"{'':<24}{n:>9}{shown}")
    return rows


def _limits(ds: xr.Dataset) -> list[str]:
    """The run of a picosecond and the largest number of atoms, where there are any."""
    rows = []
    if np.isfinite(ds.picosecond_time):
        n = int(ds.picosecond_n_atoms)
        rows.append(f"{n} atoms, 1000 steps of 1 fs: {number(float(ds.picosecond_time))} s")
    if "trial_n_atoms" in ds and ds.trial_n_atoms.notnull().any():
        last = ds.isel(trial=int(ds.trial_n_atoms.argmax("trial")))
        n, memory = int(last.trial_n_atoms), float(last.trial_memory_per_atom)
        rows.append(
            f"largest run: {n} atoms in {number(n * memory / 1e6)} GB, {number(memory)} kB/atom, "
            f"{number(float(last.trial_step_time))} us/atom/step without builds"
        )
    return rows


def _trainings(ds: xr.Dataset) -> list[str]:
    steps = ds.training_step_time
    if not steps.notnull().any():
        return []
    ours, layers = (float(steps.sel(backend=name)) for name in ("fused", "hippynn"))
    return [
        f"training step, {ds.attrs['batch_size']} cells: {number(ours)} ms, hippynn's layers "
        f"{number(layers)} ms, {number(layers / ours)} times faster",
        *([f"trained on {ds.attrs['training_cells']}"] if "training_cells" in ds.attrs else []),
    ]


def _kernels(ds: xr.Dataset) -> list[str]:
    """Where the time of a step goes: the kernels over pairs, all others, and a build beside it."""
    if "kernel_time" not in ds or not ds.kernel_time.notnull().any():
        return []
    step, build = (ds.kernel_time.sel(stage=stage).dropna("kernel") for stage in _STAGES)
    pairs = [float(step.where(step.kernel == name).sum()) for name in _PAIR_KERNELS]
    forces, environment = map(number, pairs)
    return [
        f"kernels of a step of {ds.attrs['profiled_n_atoms']} atoms: forces {forces} ms, "
        f"environment {environment} ms, others {number(float(step.sum()) - sum(pairs))} ms; "
        f"a build {number(float(build.sum()))} ms"
    ]
