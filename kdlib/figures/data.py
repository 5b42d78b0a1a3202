"""Figure of the data's coverage."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.figures.style import (
    TWO_COLUMNS,
    by_phase,
    canvas,
    label,
    letter,
    ordered_phases,
    phase_look,
    recipe,
)

_PART_COLORS = {
    "train": "#4D4D4D",
    "valid": "#999999",
    "test": "#CCCCCC",
    "compressed": "#DDCC77",
    "transfer": "#882255",
}


@recipe(
    "energy",
    "force_rms",
    "density",
    "frame_phase",
    "part",
    "n_atoms",
    optional=("temperature", "g", "r"),
)
def data(ds: xr.Dataset) -> Figure:
    """Coverage of the data: energy and force against density, sizes of the parts, g(r) by phase.

    Parameters
    ----------
    ds
        Data: per frame ``energy`` (eV/atom), ``force_rms`` (eV/Angstrom), ``density`` (g/cm3),
        ``temperature`` (K), phase and part; ``g`` by phase.
    """
    figure, axes = canvas(TWO_COLUMNS, 5.0, mosaic=[["A", "B"], ["C", "D"]])
    space = ds.density if ds.density.notnull().any() else ds.n_atoms  # molecules have no density
    x = ds.temperature if "temperature" in ds else space
    by_phase(axes["A"], space, ds.energy, ds.frame_phase)
    axes["A"].set_ylabel(label(ds.energy, "energy"))
    by_phase(axes["B"], x, ds.force_rms, ds.frame_phase)
    axes["B"].set_ylabel(label(ds.force_rms, "RMS force component"))
    _parts(axes["C"], ds)
    if "g" in ds:
        _structures(axes["D"], ds)
    else:
        axes["D"].hist(ds.n_atoms.values, color="0.4")
        axes["D"].set(xlabel="Atoms in the cell", ylabel="Frames")
    for name, ax in axes.items():
        letter(ax, name)
    handles, names = axes["A"].get_legend_handles_labels()
    columns = min(len(names), 8)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, markerscale=1.6)
    return figure


def _parts(ax: Axes, ds: xr.Dataset) -> None:
    phases = ordered_phases(ds.frame_phase)
    left = np.zeros(len(phases))
    for part, color in _PART_COLORS.items():
        here = ds.part == part
        counts = np.array([int((here & (ds.frame_phase == p)).sum()) for p in phases])
        if counts.any():
            words = f"{part}: {int(counts.sum())} frames"
            ax.barh(phases, counts, left=left, height=0.65, color=color, label=words)
        left = left + counts
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Frames")
    ax.set_ylabel("Phase")
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.36))  # beside the short bars


def _structures(ax: Axes, ds: xr.Dataset) -> None:
    """g(r) of each phase, one above the other."""
    step = max(2.0, float(np.ceil(0.6 * ds.g.max())))
    phases = ordered_phases(ds.phase)
    for level, name in enumerate(reversed(phases)):
        look = phase_look(name)
        g = ds.g.sel(phase=name)
        ax.plot(ds.r, g + step * level, color=look.color, linewidth=1)
        ax.axhline(step * level + 1, color="0.85", linewidth=0.5, zorder=0)
        ax.annotate(
            look.label,
            (1, step * level + 1),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            color=look.color,
            fontsize=6.5,
        )
    ax.set_xlabel(label(ds.r))
    ax.set_ylabel(f"g(r), offset by {step:g} per phase")
