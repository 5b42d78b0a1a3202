"""Parity of the teacher, and its atomic energies."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdlib.figures.style import (
    ROLE_LOOKS,
    TWO_COLUMNS,
    by_phase,
    canvas,
    in_units,
    label,
    letter,
    ordered_phases,
    phase_look,
    recipe,
)


@recipe(
    "reference_energy",
    "predicted_energy",
    "reference_force",
    "predicted_force",
    "atomic_energy",
    "coordination",
    "atom_phase",
    optional=("frame_phase", "atomic_energy_other"),
)
def parity(ds: xr.Dataset) -> Figure:
    """Parity of the teacher on test frames, and its atomic energies by phase and coordination.

    Units of the data: energies per frame eV/atom, force components eV/Angstrom, atomic energies eV.
    """
    figure, axes = canvas(TWO_COLUMNS, 5.2, mosaic=[["A", "B"], ["C", "D"]])
    _energies(axes["A"], ds)
    _forces(axes["B"], ds)
    _atomic_by_phase(axes["C"], ds)
    _atomic_by_coordination(axes["D"], ds)
    for name, ax in axes.items():
        letter(ax, name)
    handles, names = axes["D"].get_legend_handles_labels()
    if names:  # a small test part may lack five atoms of equal coordination
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 8))
    return figure


def _energies(ax: Axes, ds: xr.Dataset) -> None:
    x, y = ds.reference_energy, ds.predicted_energy
    if "frame_phase" in ds:
        by_phase(ax, x, y, ds.frame_phase)
    else:
        ax.scatter(x, y, s=7, color=ROLE_LOOKS["teacher"].color, alpha=0.5, linewidths=0)
    both = np.concatenate([x.values, y.values])
    pad = 0.05 * np.ptp(both)
    ax.set(xlim=(both.min() - pad, both.max() + pad), ylim=(both.min() - pad, both.max() + pad))
    ax.axline((float(x[0]), float(x[0])), slope=1, color="0.3", linewidth=0.7, zorder=0)
    ax.set_xlabel(label(x, "reference energy"))
    ax.set_ylabel(label(y, "predicted energy"))
    difference = in_units((y - x).assign_attrs(units="eV/atom"), "meV/atom")
    _note(ax, f"RMSE {float(np.sqrt((difference**2).mean())):.2f} meV/atom\n{x.size} cells")
    inset = ax.inset_axes((0.62, 0.16, 0.36, 0.3))
    inset.hist(difference, bins=21, color=ROLE_LOOKS["teacher"].color, alpha=0.7)
    inset.set_xlabel("Error (meV/atom)", fontsize=6, labelpad=1)
    inset.tick_params(labelsize=6)
    inset.set_yticks([])
    inset.spines["left"].set_visible(False)
    inset.grid(False)


def _forces(ax: Axes, ds: xr.Dataset) -> None:
    x, y = ds.reference_force, ds.predicted_force
    bound = float(np.nanmax(np.abs([x.values, y.values])))
    cells = ax.hexbin(
        x.values,
        y.values,
        gridsize=70,
        extent=(-bound, bound, -bound, bound),
        norm=LogNorm(),
        cmap="cividis",
        mincnt=1,
        linewidths=0,
        rasterized=True,
    )
    ax.figure.colorbar(cells, ax=ax, label="Force components per cell", pad=0.02)
    ax.axline((0, 0), slope=1, color="0.3", linewidth=0.7)
    ax.set_xlabel(label(x, "reference force"))
    ax.set_ylabel(label(y, "predicted force"))
    rmse = float(np.sqrt(((y - x) ** 2).mean()))
    _note(ax, f"RMSE {rmse:.3f} eV/Å\n{x.size:,} components")


def _atomic_by_phase(ax: Axes, ds: xr.Dataset) -> None:
    phases = ordered_phases(ds.atom_phase)
    groups = [ds.atomic_energy.values[(ds.atom_phase == p).values] for p in phases]
    boxes = ax.boxplot(
        groups,
        orientation="horizontal",
        whis=(1, 99),
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "white", "linewidth": 1.2},
        tick_labels=phases,
    )
    for box, name in zip(boxes["boxes"], phases, strict=True):
        box.set(facecolor=phase_look(name).color, linewidth=0.6)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(label(ds.atomic_energy))
    ax.set_ylabel("Phase")


def _atomic_by_coordination(ax: Axes, ds: xr.Dataset) -> None:
    """Draw median and 10-90 % range of atomic energies by coordination, phases side by side."""
    phases = ordered_phases(ds.atom_phase)
    shifts = np.linspace(-0.28, 0.28, len(phases)) if len(phases) > 1 else np.zeros(1)
    for name, shift in zip(phases, shifts, strict=True):
        look, here = phase_look(name), (ds.atom_phase == name).values
        count, energy = ds.coordination.values[here].round(), ds.atomic_energy.values[here]
        sizes = np.array([n for n in np.unique(count) if (count == n).sum() >= 5])
        if not sizes.size:
            continue
        low, middle, high = np.array(
            [np.quantile(energy[count == n], (0.1, 0.5, 0.9)) for n in sizes]
        ).T
        ax.errorbar(
            sizes + shift,
            middle,
            yerr=(middle - low, high - middle),
            color=look.color,
            marker=look.marker,
            markersize=3.5,
            linestyle="none",
            elinewidth=0.8,
            label=look.label,
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(label(ds.coordination))
    ax.set_ylabel(label(ds.atomic_energy))


def _note(ax: Axes, text: str) -> None:
    ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=7)
