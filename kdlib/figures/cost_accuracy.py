"""Accuracy against cost: HIP-NN, a linear ACE and an embedded-atom potential on the same frames."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.claims.statistics import step_time
from kdlib.errors import InputError
from kdlib.figures.style import (
    BACKEND_LOOKS,
    TWO_COLUMNS,
    Look,
    canvas,
    frame_points,
    label,
    letter,
    line,
    log_ticks,
    recipe,
)

#: Families of potentials, by the names in the data.
_LOOKS = {
    "stock": Look("HIP-NN, stock hippynn under ASE", BACKEND_LOOKS["stock"].color, "o"),
    "fused": Look("HIP-NN, fused kernels under ASE", BACKEND_LOOKS["fused"].color, "o", "--"),
    "ace jax": Look("linear ACE, ace-jax under ASE", "#44AA99", "s", "-."),
    "ace kernel": Look("linear ACE, its C++ kernel under ASE", "#332288", "D", ":"),
    "eam": Look("EAM, LAMMPS", "#117733", "^"),
}
_PANELS = {"test": "force RMSE, test", "compressed": "force RMSE, compressed"}


@recipe(
    "force_rmse",
    "step_time",
    "n_atoms",
    "threads",
    labels={"split": tuple(_PANELS)},
)
def cost_accuracy(ds: xr.Dataset) -> Figure:
    """Force error on the test part (A) and on compressed frames (B) against time per MD step.

    Markers of HIP-NN are geometric means over seeds with their intervals. Units: eV/Angstrom,
    us/atom/step.
    """
    figure, panels = canvas(TWO_COLUMNS, 3.3, ncols=2)
    for ax, text, (part, words) in zip(panels, "AB", _PANELS.items(), strict=True):
        letter(ax, text)
        known = part in ds.split.values and ds.force_rmse.sel(split=part).notnull().any()
        if known:
            _panel(ax, ds, ds.force_rmse.sel(split=part), words)
        else:
            ax.set_axis_off()
            ax.text(0.5, 0.5, f"no {part} part", ha="center", transform=ax.transAxes)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _panel(ax: Axes, ds: xr.Dataset, error: xr.DataArray, words: str) -> None:
    frame_points(ax, "x", ds.step_time.values)
    frame_points(ax, "y", error.values)
    for family in [name for name in _LOOKS if name in ds.family.values]:
        one, look = ds.sel(family=family), _LOOKS[family]
        line(ax, one.step_time, error.sel(family=family), look, filled=family != "fused")
        said = f"{look.label}, {int(one.n_atoms):,} atoms"
        if np.isfinite(one.threads):
            said += f", {int(one.threads)} thread{'s' if one.threads > 1 else ''}"
        face = "white" if family == "fused" else look.color
        ax.plot([], [], color=look.color, linestyle=look.linestyle, marker=look.marker,
                markerfacecolor=face, label=said)  # fmt: skip
    ax.set_xlabel(label(ds.step_time))
    ax.set_ylabel(label(error, words))
    log_ticks(ax, "x")
    log_ticks(ax, "y")


def cost_accuracy_data(
    accuracy: xr.Dataset,
    speed: xr.Dataset,
    ace: xr.Dataset,
    benchmark: xr.Dataset | None = None,
    threads: int = 0,
) -> xr.Dataset:
    """What :func:`cost_accuracy` draws, from result files of the same data and split.

    Parameters
    ----------
    accuracy
        Of teachers and students, combined. Where an architecture has students, they stand for it.
    speed
        Of the same architectures, under ASE.
    ace
        From :func:`kdlib.benchmarks.linear_ace.run`.
    benchmark
        From ``kdlib bench``, for the speed of the embedded-atom potential.
    threads
        Of the linear ACE; 0 for the most that were timed. An engine that was not timed with so many
        enters with its largest number below.

    Returns
    -------
    xr.Dataset
        ``force_rmse(family, architecture, seed, split)``, ``step_time(family, architecture)``, and
        ``n_atoms(family)`` and ``threads(family)`` of the timed runs; threads are NaN if unknown.
    """
    origins = {ds.attrs["split_sha256"] for ds in (accuracy, ace) if "split_sha256" in ds.attrs}
    if len(origins) > 1:
        raise InputError("cost_accuracy: the results of HIP-NN and of ACE are of different splits")
    families = {**_networks(accuracy, speed), **_expansions(ace, threads)}
    if benchmark is not None and "eam_force_rmse" in ace:
        families |= _embedded_atom(ace, benchmark)
    ds = xr.concat(
        families.values(), xr.Variable("family", list(families)), join="outer",
        combine_attrs="drop",
    )  # fmt: skip
    for name, (unit, meaning) in _MEANING.items():
        ds[name].attrs = {**({"units": unit} if unit else {}), "long_name": meaning}
    return ds.assign_attrs(
        {name: ace.attrs[name] for name in ("dataset_sha256", "split_sha256") if name in ace.attrs}
    )


_MEANING = {
    "family": ("", "potential and what runs it"),
    "architecture": ("", "size of the potential"),
    "seed": ("1", "training seed"),
    "split": ("", "part of the dataset"),
    "force_rmse": ("eV/Angstrom", "root-mean-square error of a force component"),
    "step_time": ("us/atom/step", "time per MD step per atom"),
    "n_atoms": ("1", "atoms in the MD cell"),
    "threads": ("1", "threads of the timed run"),
}


def _family(error: xr.DataArray, times: xr.DataArray, n_atoms: int, threads: float) -> xr.Dataset:
    ds = xr.Dataset({"force_rmse": error, "step_time": times})
    ds = ds.assign(n_atoms=float(n_atoms), threads=float(threads))
    return ds.drop_vars([name for name in ds.coords if name not in ds.dims])


def _networks(accuracy: xr.Dataset, speed: xr.Dataset) -> dict[str, xr.Dataset]:
    """HIP-NN with every backend that was timed, at the largest cell that all its models ran."""
    roles = [role for role in ("student", "teacher") if role in accuracy.role.values]
    error = accuracy.force_rmse.sel(role=roles[0], drop=True)
    for role in roles[1:]:
        error = error.fillna(accuracy.force_rmse.sel(role=role, drop=True))
    times, atoms = step_time(speed)
    times = times.sel(architecture=times.architecture.isin(error.architecture))  # others: memory
    n_threads = float(speed.attrs.get("threads", np.nan))
    return {
        backend: _family(error, times.sel(backend=backend, drop=True), atoms[backend], n_threads)
        for backend in times.backend.values.tolist()
        if backend in _LOOKS
    }


def _expansions(ace: xr.Dataset, threads: int) -> dict[str, xr.Dataset]:
    """Linear ACE with every engine that was timed, at the largest cell."""
    error = ace.force_rmse.rename(size="architecture").expand_dims(seed=[0])
    median = ace.step_time.median("repeat").rename(size="architecture")
    found = {}
    for engine in ace.engine.values.tolist():
        times = median.sel(engine=engine, drop=True).dropna("threads", how="all")
        numbers = [n for n in times.threads.values.tolist() if not threads or n <= threads]
        if not numbers:
            continue
        times = times.sel(threads=max(numbers), drop=True).dropna("n_atoms", how="all")
        n_atoms = int(times.n_atoms.max())
        one = times.sel(n_atoms=n_atoms, drop=True)
        found[f"ace {engine}"] = _family(error, one, n_atoms, max(numbers))
    return found


def _embedded_atom(ace: xr.Dataset, benchmark: xr.Dataset) -> dict[str, xr.Dataset]:
    """LAMMPS's embedded-atom potential, at the cell nearest to the largest of the linear ACE."""
    times = benchmark.step_time.sel(component="total", contestant="lammps").median("repeat")
    times = times.isel(architecture=0).dropna("n_atoms")
    if not times.size:
        return {}
    name = {"architecture": ["EAM"]}
    error = ace.eam_force_rmse.expand_dims({**name, "seed": [0]})
    n_atoms = int(times.n_atoms.sel(n_atoms=int(ace.n_atoms.max()), method="nearest"))
    one = times.sel(n_atoms=n_atoms, drop=True).expand_dims(name)
    n_threads = float(benchmark.attrs.get("n_threads", np.nan))
    return {"eam": _family(error, one, n_atoms, n_threads)}
