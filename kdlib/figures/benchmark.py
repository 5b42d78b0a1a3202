"""Figure of the side-by-side benchmark: MD's time, memory and energy, time of a training epoch."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.figures.style import (
    BACKEND_LOOKS,
    TWO_COLUMNS,
    Look,
    canvas,
    frame_points,
    label,
    letter,
    log_ticks,
    recipe,
)

_LOOKS = {
    "stock": BACKEND_LOOKS["stock"],
    "stock_best": Look("stock hippynn, best skin", "#4D4D4D", "s", ":"),
    "hippynn": Look("our calculator, hippynn's layers", "#999999", "D", "-."),
    "fused": Look("our calculator, fused kernels", "#882255", "o", "--"),
    "lammps": Look("LAMMPS eam/alloy", "#117733", "^", "-"),
    "lammps_ranks": Look("LAMMPS eam/alloy, MPI", "#117733", "v", ":"),
    "pair_style_1": Look("LAMMPS pair_style hipnn, one rank", "#332288", "<", "--"),
    "pair_style": Look("LAMMPS pair_style hipnn, MPI", "#332288", ">", "-"),
}
_SIZES = (Look("large", "#332288"), Look("small", "#44AA99", linestyle="--"))


@recipe(
    "step_time",
    "memory_per_atom",
    "epoch_time",
    "status",
    optional=("total_energy", "energy_drift"),
)
def benchmark(ds: xr.Dataset) -> Figure:
    """Time per MD step against size, peak memory per atom, training epochs, energy along NVE.

    Markers are medians over blocks, bars the quartiles; open markers are extrapolated from a
    smaller size. Units: us/atom/step, kB/atom, s.
    """
    ran = ds.step_time.notnull().any(["contestant", "n_atoms", "component", "repeat"])
    labels = ds.architecture.values[ran.values].tolist()
    top = [f"time {name}" for name in labels]
    mosaic = [top if len(top) > 1 else top * 2, ["memory", "training"]]
    panels = ["memory", "training"]
    if "total_energy" in ds:
        panels.append("energy")
        mosaic.append(["energy"] * 2)
    figure, axes = canvas(TWO_COLUMNS, 2.5 * len(mosaic), mosaic=mosaic)
    total = ds.step_time.sel(component="total")
    for name, text in zip(labels, "AB", strict=False):
        ax = axes[f"time {name}"]
        _times(ax, total.sel(architecture=name), ds.status.sel(architecture=name))
        letter(ax, f"{text}  {name}")
    _memory(axes["memory"], ds.memory_per_atom.sel(architecture=labels))
    _epochs(axes["training"], ds.epoch_time)
    if "total_energy" in ds:
        _energy(axes["energy"], ds)
    for name, text in zip(panels, "ABCDE"[len(labels) :], strict=False):
        letter(axes[name], text)
    handles, names = axes[f"time {labels[0]}"].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def _times(ax: Axes, times: xr.DataArray, status: xr.DataArray) -> None:
    frame_points(ax, "y", times.values)
    frame_points(ax, "x", times.n_atoms.values.astype(float))
    for name in times.contestant.values.tolist():
        look, here = _LOOKS[name], times.sel(contestant=name)
        low, mid, high = (here.quantile(q, "repeat").values for q in (0.25, 0.5, 0.75))
        x, kept = here.n_atoms.values, np.isfinite(mid)
        ax.plot(x[kept], mid[kept], color=look.color, linestyle=look.linestyle, zorder=2)
        measured = status.sel(contestant=name).values == "measured"
        for chosen, face in ((kept & measured, look.color), (kept & ~measured, "white")):
            ax.errorbar(
                x[chosen], mid[chosen], yerr=[(mid - low)[chosen], (high - mid)[chosen]],
                color=look.color, marker=look.marker, markerfacecolor=face, linestyle="none",
                capsize=2, label=look.label if face != "white" else None,
            )  # fmt: skip
    ax.set_ylabel(label(times, "time per MD step"))
    ax.set_xlabel("Number of atoms")
    log_ticks(ax, "x")
    log_ticks(ax, "y")


def _memory(ax: Axes, memory: xr.DataArray) -> None:
    frame_points(ax, "y", memory.values)
    names = memory.contestant.values.tolist()
    for k, name in enumerate(names):
        look, here = _LOOKS[name], memory.sel(contestant=name)
        # side by side, because equal values would hide each other
        place = np.arange(here.size) + 0.09 * (k - (len(names) - 1) / 2)
        ax.plot(place, here.values, color=look.color, marker=look.marker, linestyle="none")
    ax.set_xticks(range(memory.architecture.size), memory.architecture.values.tolist())
    ax.set_xlim(-0.5, memory.architecture.size - 0.5)
    ax.set_ylabel(label(memory))
    ax.set_xlabel("Architecture")
    log_ticks(ax, "y")


def _epochs(ax: Axes, seconds: xr.DataArray) -> None:
    """One pair of points per architecture and batch size."""
    median = seconds.median("epoch").stack(case=("architecture", "batch_size"))
    median = median.dropna("case", how="all")
    frame_points(ax, "y", median.values)
    for backend in median.backend.values.tolist():
        look = BACKEND_LOOKS["stock" if backend == "hippynn" else backend]
        ax.plot(
            range(median.case.size),
            median.sel(backend=backend).values,
            color=look.color,
            marker=look.marker,
            linestyle="none",
        )
    cases = [f"{name}, {size}" for name, size in median.case.values.tolist()]
    ax.set_xticks(range(len(cases)), cases, fontsize=6.5, rotation=40, ha="right")
    ax.set_xlim(-0.5, len(cases) - 0.5)
    ax.set_ylabel(label(seconds))
    ax.set_xlabel("Architecture and frames per batch")
    log_ticks(ax, "y")


def _energy(ax: Axes, ds: xr.Dataset) -> None:
    """Change of the total energy on the fused kernels, and its drift in the legend."""
    run = ds.total_energy.dropna("architecture", how="all")
    for name, look in zip(run.architecture.values.tolist(), _SIZES, strict=False):
        drift = float(ds.energy_drift.sel(architecture=name))
        ax.plot(
            run.time / 1000, run.sel(architecture=name) * 1e6, color=look.color, linewidth=0.7,
            linestyle=look.linestyle, label=f"{name}, drift {drift:.1e} eV/atom/ps",
        )  # fmt: skip
    ax.set_xlabel("Time (ps)")
    ax.set_ylabel("Change of the total energy (µeV/atom)")
    ax.legend(loc="best")
