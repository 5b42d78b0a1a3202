"""Figures of cost: time and memory against model size (Fig. 5), and where a step's time goes."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from kdlib.claims.statistics import step_time
from kdlib.figures.style import (
    BACKEND_LOOKS,
    COMPONENT_LOOKS,
    TWO_COLUMNS,
    Look,
    canvas,
    frame_points,
    label,
    letter,
    log_ticks,
    recipe,
)

_PARTS = ("neighbor_list", "model", "integrator")


@recipe("step_time", "n_parameters", optional=("memory_per_atom", "time_on_device"))
def fig5_cost(ds: xr.Dataset) -> Figure:
    """Fig. 5: time per MD step (A) and memory (B) per atom against model size, both backends.

    Markers are medians over repeats, faint points the repeats; small ones are sizes that were not
    timed. Units: us/atom/step, kB/atom.
    """
    figure, (left, right) = canvas(TWO_COLUMNS, 2.8, ncols=2)
    times, atoms = step_time(ds)
    repeats = ds.step_time.sel(component="total")
    size = ds.n_parameters
    frame_points(left, "y", repeats.values)
    for backend in times.backend.values.tolist():
        look = BACKEND_LOOKS[backend]
        words = f"{look.label}, {atoms[backend]:,} atoms{_driver(ds, backend, atoms[backend])}"
        points = repeats.sel(backend=backend, n_atoms=atoms[backend])
        spots = np.broadcast_to(size.values[:, None], points.shape)
        left.scatter(spots, points.values, s=6, color=look.color, alpha=0.3, linewidths=0)
        _joined(left, size, times.sel(backend=backend), look, backend, words)
    left.set_ylabel(label(times, "time per MD step"))
    if "memory_per_atom" in ds:
        frame_points(right, "y", ds.memory_per_atom.values)
        for backend in ds.backend.values.tolist():
            look, memory = BACKEND_LOOKS[backend], ds.memory_per_atom.sel(backend=backend)
            alone = times.sel(backend=backend).isnull()
            _joined(right, size, memory.where(~alone), look, backend, look.label)
            right.scatter(size, memory.where(alone), s=8, color=look.color, marker=look.marker,
                          alpha=0.5, linewidths=0)  # fmt: skip
        right.set_ylabel(label(ds.memory_per_atom))
    for ax, text in ((left, "A"), (right, "B")):
        ax.set_xlabel("Trainable parameters")
        frame_points(ax, "x", size.values.astype(float))
        log_ticks(ax, "x")
        log_ticks(ax, "y")
        letter(ax, text)
    left.legend(loc="best")
    return figure


def _driver(ds: xr.Dataset, backend: str, n_atoms: int) -> str:
    """What a legend says of the runs of a backend: whether all stayed on the device."""
    if "time_on_device" not in ds:
        return ""
    stayed = ds.time_on_device.sel(backend=backend, n_atoms=n_atoms).dropna("architecture")
    return ", on the device" if stayed.size and stayed.all() else ""


def _joined(
    ax: Axes, x: xr.DataArray, y: xr.DataArray, look: Look, backend: str, words: str
) -> None:
    kept = y.notnull().values
    face = "white" if backend == "fused" else look.color
    order = np.argsort(x.values[kept])
    ax.plot(
        x.values[kept][order],
        y.values[kept][order],
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markerfacecolor=face,
        label=words,
    )


@recipe("step_time", "n_parameters")
def step_breakdown(ds: xr.Dataset) -> Figure:
    """Time of an MD step in neighbor list, model and integrator (us/atom), a panel per backend.

    Steps that were timed as a whole, on a device, are bars of one color.
    """
    _, atoms = step_time(ds)
    backends = ds.backend.values.tolist()
    height = 0.9 + 0.27 * ds.architecture.size
    figure, axes = canvas(TWO_COLUMNS, height, ncols=len(backends), sharey=True, squeeze=False)
    rows = np.arange(ds.architecture.size)
    drawn: dict[str, BarContainer] = {}
    for ax, backend in zip(axes[0], backends, strict=True):
        here = ds.step_time.sel(backend=backend, n_atoms=atoms[backend]).median("repeat")
        left = np.zeros(rows.size)
        total = here.sel(component="total").values
        whole = here.sel(component=list(_PARTS)).isnull().all("component").values
        for part in ("total", *_PARTS):
            look = COMPONENT_LOOKS[part]
            shown = np.where(whole, total, 0) if part == "total" else here.sel(component=part)
            width = np.nan_to_num(np.asarray(shown))
            bars = ax.barh(rows, width, left=left, height=0.62, color=look.color)
            if width.any():
                drawn[look.label] = bars
            left += width
        # Medians of parts need not add up to that of the total, so the number is beside both.
        for row, value, end in zip(rows, total, np.fmax(total, left), strict=True):
            text = f" {value:.3g}" if np.isfinite(value) else " not run"
            ax.annotate(text, (np.nan_to_num(end), row), va="center", fontsize=6.5)
        ax.set_xlim(0, 1.15 * np.nanmax(np.append(total, left)))
        ax.set_title(f"{BACKEND_LOOKS[backend].label}, {atoms[backend]:,} atoms")
        ax.set_xlabel(label(ds.step_time))
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(rows, ds.architecture.values.tolist())
    axes[0, 0].set_ylabel("Architecture")
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4)
    return figure
