"""Fig. 3: accuracy against capacity."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.figures.style import (
    COMPARED,
    ROLE_LOOKS,
    TWO_COLUMNS,
    canvas,
    frame_points,
    in_units,
    label,
    largest,
    letter,
    line,
    log_ticks,
    recipe,
    reference,
    role_legend,
    runs,
)


@recipe(
    "force_rmse",
    "energy_rmse",
    "n_parameters",
    optional=("rdf_error", "rdf_floor", "rdf_floor_teachers"),
    labels={"split": ("test",), "role": COMPARED},
)
def fig3_capacity(ds: xr.Dataset) -> Figure:
    """Fig. 3: force error (A), energy error (B) and g(r) error (C) against model size.

    Units of the data: eV/Angstrom, eV/atom, Angstrom.
    """
    figure, axes = canvas(TWO_COLUMNS, 2.6, ncols=3)
    test = ds.sel(split="test")
    _against_size(axes[0], test, test.force_rmse, "force RMSE, test")
    _against_size(axes[1], test, in_units(test.energy_rmse, "meV/atom"), "energy RMSE, test")
    measured = "rdf_error" in ds and bool(ds.rdf_error.notnull().any())
    if measured:
        _against_size(axes[2], test, ds.rdf_error, "g(r) error vs teacher")
        _floor(axes[2], ds)
    else:
        axes[2].set_axis_off()
        axes[2].text(0.5, 0.5, "g(r) was not measured", ha="center", transform=axes[2].transAxes)
    for ax, text in zip(axes, "ABC", strict=True):
        letter(ax, text)
    role_legend(figure, ds, floor=measured and "rdf_floor" in ds)
    return figure


def _against_size(ax: Axes, ds: xr.Dataset, error: xr.DataArray, words: str) -> None:
    frame_points(ax, "y", error.values)
    frame_points(ax, "x", ds.n_parameters.values.astype(float))
    for role in error.role.values.tolist():
        values = error.sel(role=role)
        if not values.notnull().any():  # the teacher has no error against itself
            continue
        if role == "teacher":
            reference(ax, largest(values), ROLE_LOOKS[role])
            runs(ax, ds.n_parameters, values, ROLE_LOOKS[role])
        else:
            line(ax, ds.n_parameters, values, ROLE_LOOKS[role])
    ax.set_xlabel("Trainable parameters")
    ax.set_ylabel(label(error, words))
    log_ticks(ax, "x")
    log_ticks(ax, "y")


def _floor(ax: Axes, ds: xr.Dataset) -> None:
    """Shade errors below the noise floor and extend the axis down to it."""
    floors = [float(ds[n]) for n in ("rdf_floor", "rdf_floor_teachers") if n in ds]
    floors = [floor for floor in floors if np.isfinite(floor)]
    if not floors:
        return
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.8 * min(floors)), max(high, 1.2 * max(floors)))
    ax.axhspan(ax.get_ylim()[0], floors[0], color="0.5", alpha=0.2, linewidth=0, zorder=0)
    if len(floors) > 1:
        ax.axhline(floors[1], color="0.4", linestyle=":", linewidth=1, zorder=1)
    log_ticks(ax, "y")
