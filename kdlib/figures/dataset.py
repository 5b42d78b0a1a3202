"""Figures of the data: what it covers, and how the teacher reproduces it."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdlib.figures.style import (
    PHASE_LOOKS,
    ROLE_LOOKS,
    TWO_COLUMNS,
    canvas,
    in_units,
    label,
    letter,
    phase_look,
    recipe,
)

_PART_COLORS = {"train": "#4D4D4D", "valid": "#999999", "test": "#CCCCCC", "transfer": "#882255"}


def _phases(names: xr.DataArray) -> list[str]:
    """Phases that occur, the known ones in a fixed order first."""
    present = set(names.values.tolist())
    return [p for p in PHASE_LOOKS if p in present] + sorted(present - set(PHASE_LOOKS))


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
    _by_phase(axes["A"], space, ds.energy, ds.frame_phase)
    axes["A"].set_ylabel(label(ds.energy, "energy"))
    _by_phase(axes["B"], x, ds.force_rms, ds.frame_phase)
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


def _by_phase(ax: Axes, x: xr.DataArray, y: xr.DataArray, phase: xr.DataArray) -> None:
    for name in _phases(phase):
        look, here = phase_look(name), (phase == name).values
        ax.scatter(
            x.values[here],
            y.values[here],
            s=7,
            color=look.color,
            marker=look.marker,
            alpha=0.65,
            linewidths=0,
            label=look.label,
            rasterized=True,
        )
    ax.set_xlabel(label(x))
    ax.set_ylabel(label(y))


def _parts(ax: Axes, ds: xr.Dataset) -> None:
    phases = _phases(ds.frame_phase)
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
    phases = _phases(ds.phase)
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

    Parameters
    ----------
    ds
        Parity: energies per frame (eV/atom), force components (eV/Angstrom), atomic energies (eV).
    """
    figure, axes = canvas(TWO_COLUMNS, 5.2, mosaic=[["A", "B"], ["C", "D"]])
    _energies(axes["A"], ds)
    _forces(axes["B"], ds)
    _atomic_by_phase(axes["C"], ds)
    _atomic_by_coordination(axes["D"], ds)
    for name, ax in axes.items():
        letter(ax, name)
    handles, names = axes["D"].get_legend_handles_labels()
    if names:  # a small test part may have no five atoms of equal coordination
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 8))
    return figure


def _energies(ax: Axes, ds: xr.Dataset) -> None:
    x, y = ds.reference_energy, ds.predicted_energy
    if "frame_phase" in ds:
        _by_phase(ax, x, y, ds.frame_phase)
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
    phases = _phases(ds.atom_phase)
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
    """Median and 10-90 % range of the atomic energies at each coordination, phases side by side."""
    phases = _phases(ds.atom_phase)
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
