"""Figure of the benchmark on a GPU: time per MD step, memory per atom, and a training step."""

from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.figures.style import (
    BACKEND_LOOKS,
    TWO_COLUMNS,
    canvas,
    frame_points,
    label,
    letter,
    log_ticks,
    recipe,
)

_LOOKS = {
    "stock": BACKEND_LOOKS["stock"],
    "hippynn": replace(BACKEND_LOOKS["hippynn"], label="hippynn's layers, forces alone"),
    "fused": replace(BACKEND_LOOKS["fused"], label="our kernels"),
}
#: One architecture beside the other in the panel of memory: line style and marker.
_SHAPES = (("-", "o"), ("--", "^"), (":", "s"))


@recipe(
    "step_time",
    "memory_per_atom",
    "training_step_time",
    optional=(
        "trial_n_atoms",
        "trial_step_time",
        "trial_memory_per_atom",
        "picosecond_n_atoms",
        "picosecond_time",
        "kernel_time",
    ),
)
def benchmark_gpu(ds: xr.Dataset) -> Figure:
    """Time per MD step and peak memory per atom against atoms, time of a training step.

    Open markers are short trials of the memory, without builds of the neighbor table. Units:
    us/atom/step, kB/atom, ms.
    """
    labels = ds.architecture.values.tolist()
    top = [f"time {name}" for name in labels]
    mosaic = [top if len(top) > 1 else top * 2, ["memory", "training"]]
    figure, axes = canvas(TWO_COLUMNS, 5.2, mosaic=mosaic)
    for name in labels:
        _times(axes[f"time {name}"], ds.sel(architecture=name))
    _memory(axes["memory"], ds)
    _training(axes["training"], ds.training_step_time)
    about = ds.attrs
    titles = [*labels, "memory", f"training, {about['batch_size']} cells a step"]
    for ax, name, text in zip(axes.values(), titles, "ABCDE", strict=False):
        letter(ax, f"{text}  {name}")
    figure.suptitle(
        f"{about['device']}, torch {about['torch_version']}, {about['created'][:10]}", fontsize=8
    )
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, linestyle=look.linestyle,
               label=look.label)
        for look in _LOOKS.values()
    ]  # fmt: skip
    if "trial_n_atoms" in ds:
        handles += [_open("trial of a few steps")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _open(text: str) -> Line2D:
    color = _LOOKS["fused"].color
    return Line2D(
        [], [], color=color, marker="o", markerfacecolor="white", linestyle="none", label=text
    )


def _sizes(ax: Axes, ds: xr.Dataset) -> None:
    """Limits of the axis of atoms, which all panels share."""
    sizes = [ds.n_atoms.values.astype(float)]
    sizes += [ds.trial_n_atoms.values.ravel()] if "trial_n_atoms" in ds else []
    frame_points(ax, "x", np.concatenate(sizes), margin=0.07)
    ax.set_xlabel("Number of atoms")
    log_ticks(ax, "x")


def _times(ax: Axes, ds: xr.Dataset) -> None:
    drawn = {
        name: ds.step_time.sel(backend=name, component="model" if name == "hippynn" else "total")
        for name in _LOOKS
    }
    trials = [ds.trial_step_time.values] if "trial_step_time" in ds else []
    frame_points(ax, "y", np.concatenate([*(times.values for times in drawn.values()), *trials]))
    for name, times in drawn.items():
        look, kept = _LOOKS[name], times.notnull().values
        ax.plot(
            times.n_atoms.values[kept], times.values[kept],
            color=look.color, marker=look.marker, linestyle=look.linestyle,
        )  # fmt: skip
    if trials:
        _trials(ax, ds.trial_n_atoms, ds.trial_step_time, "o")
        if ds.trial_n_atoms.notnull().any():
            last = ds.isel(trial=int(ds.trial_n_atoms.argmax("trial")))
            n = float(last.trial_n_atoms)
            ax.annotate(
                f"{n / 1e6:.3g} million atoms", (n, float(last.trial_step_time)),
                (0, 9), textcoords="offset points", ha="right", fontsize=7,
            )  # fmt: skip
    ax.set_ylabel(label(ds.step_time, "time per MD step"))
    _sizes(ax, ds)
    log_ticks(ax, "y")


def _trials(ax: Axes, n: xr.DataArray, y: xr.DataArray, marker: str) -> None:
    ax.plot(
        n.values, y.values,
        color=_LOOKS["fused"].color, marker=marker, markerfacecolor="white", linestyle="none",
    )  # fmt: skip


def _memory(ax: Axes, ds: xr.Dataset) -> None:
    trials = "trial_memory_per_atom" in ds
    values = [ds.memory_per_atom.values.ravel()]
    values += [ds.trial_memory_per_atom.values.ravel()] if trials else []
    frame_points(ax, "y", np.concatenate(values))
    handles = []
    for name, (linestyle, marker) in zip(ds.architecture.values.tolist(), _SHAPES, strict=False):
        one = ds.sel(architecture=name)
        shape = {"linestyle": linestyle, "marker": marker}
        for backend, look in _LOOKS.items():
            here = one.memory_per_atom.sel(backend=backend)
            kept = here.notnull().values
            ax.plot(here.n_atoms.values[kept], here.values[kept], color=look.color, **shape)
        if trials:
            _trials(ax, one.trial_n_atoms, one.trial_memory_per_atom, marker)
        handles.append(Line2D([], [], color="0.3", label=name, **shape))
    ax.legend(handles=handles, loc="upper right", handlelength=3)
    ax.set_ylabel(label(ds.memory_per_atom))
    _sizes(ax, ds)
    log_ticks(ax, "y")


def _training(ax: Axes, times: xr.DataArray) -> None:
    frame_points(ax, "y", times.values, margin=0.2)
    place = np.arange(times.architecture.size)
    for name, look in _LOOKS.items():
        here = times.sel(backend=name)
        if here.notnull().any():
            ax.plot(place, here.values, color=look.color, marker=look.marker, linestyle="none")
    ax.set_xticks(place, times.architecture.values.tolist())
    ax.set_xlim(-0.5, times.architecture.size - 0.5)
    ax.set_ylabel(label(times))
    ax.set_xlabel("Architecture")
    log_ticks(ax, "y")
