"""Figure of a distillation: accuracy, stability and cost of the student against its teacher."""

from itertools import cycle
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from kdlib.figures.style import ROLE_LOOKS, TWO_COLUMNS, canvas, label, letter, recipe

#: Colors of crystals, from Tol's muted palette, unlike those of roles and states.
_CRYSTALS = ("#332288", "#117733", "#882255", "#999933")
_STATES = {"solid": ("#0072B2", "o", "-"), "molten": ("#D55E00", "s", "--")}


@recipe(
    "reference_energy",
    "predicted_energy",
    "frame_molten",
    "reference_force",
    "predicted_force",
    "sample_molten",
    "round_force_rmse",
    "curve",
    "energy_change",
    "survived",
    "md_temperature",
    "trajectory_molten",
    "step_time",
    "md_memory",
    optional=("reference_atomic", "predicted_atomic", "g", "rdf_error", "rdf_floor"),
)
def distilled(ds: xr.Dataset) -> Figure:
    """Parity of energies, forces and atomic energies, error by round, E(V), stability, cost, g(r).

    The data come from :func:`kdlib.distill.report.report`; attribute ``target`` is in eV/Angstrom.
    """
    panels = {
        "energies": _energies, "forces": _forces, "atomic": _atomic,
        "rounds": _rounds, "survival": _survival, "conservation": _conservation,
        "curves": _curves, "structure": _structure, "times": _times, "memories": _memories,
    }  # fmt: skip
    names = list(panels)
    mosaic = [[[names[:3], names[3:6]]], [[names[6:]]]]  # two rows of three, one of four
    figure, axes = canvas(TWO_COLUMNS, 7.0, mosaic=mosaic, height_ratios=(2, 1))
    for (name, draw), text in zip(panels.items(), "ABCDEFGHIJ", strict=True):
        draw(axes[name], ds)
        letter(axes[name], text)
    return figure


def _points(
    ax: Axes, molten: xr.DataArray, x: np.ndarray, y: np.ndarray, marker: str = "", **look: Any
) -> None:
    """Draw solid and molten points, each in its color and, unless one is given, its marker."""
    for value, (state, (color, own, _)) in zip((0.0, 1.0), _STATES.items(), strict=True):
        chosen = (molten == value).values
        ax.plot(x[chosen], y[chosen], marker or own, color=color, label=state, **look)


def _energies(ax: Axes, ds: xr.Dataset) -> None:
    middle = float(ds.reference_energy.mean())
    teacher, student = (
        1000 * (ds[f"{who}_energy"].values - middle) for who in ("reference", "predicted")
    )
    _points(ax, ds.frame_molten, teacher, student, markersize=3.5, alpha=0.7, markeredgewidth=0)
    _diagonal(ax, teacher)
    _name(ax, "energy − mean", "meV/atom")
    ax.legend(loc="upper left")


def _forces(ax: Axes, ds: xr.Dataset) -> None:
    teacher, student = ds.reference_force.values, ds.predicted_force.values
    _points(ax, ds.sample_molten, teacher, student, ".", markersize=1.5, alpha=0.5, rasterized=True)
    _diagonal(ax, teacher)
    _name(ax, "force component", "eV/Å")
    ax.legend(loc="upper left", markerscale=5)


def _atomic(ax: Axes, ds: xr.Dataset) -> None:
    if "reference_atomic" not in ds:
        _instead(ax, "the teacher gives\nno atomic energies")
        return
    ax.plot(
        ds.reference_atomic, ds.predicted_atomic, ".", markersize=1.5, color="0.35", alpha=0.5,
        rasterized=True,
    )  # fmt: skip
    _diagonal(ax, ds.reference_atomic.values)
    _name(ax, "atomic energy − mean", "eV")


def _name(ax: Axes, what: str, unit: str) -> None:
    """Name the compared quantity and the axes."""
    _above(ax, what)
    ax.set_xlabel(f"Teacher ({unit})")
    ax.set_ylabel(f"Student ({unit})")


def _above(ax: Axes, words: str) -> None:
    """Write above the panel what does not fit on an axis."""
    ax.set_title(words, fontsize=7, loc="right")


def _diagonal(ax: Axes, values: np.ndarray) -> None:
    ends = [values.min(), values.max()]
    ax.plot(ends, ends, color="black", linewidth=0.6, zorder=0)


def _rounds(ax: Axes, ds: xr.Dataset) -> None:
    numbers = ds["round"].values
    for state, (color, marker, line) in _STATES.items():
        values = ds.round_force_rmse.sel(state=state)
        ax.plot(numbers, values, color=color, marker=marker, linestyle=line, label=state)
    if "target" in ds.attrs:
        ax.axhline(float(ds.attrs["target"]), color="0.4", linestyle=":", label="target")
    ticks = [str(number) for number in numbers[:-1]] + ["final"]
    ax.set_xticks(numbers, ticks)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("Round")
    ax.set_ylabel("Force RMSE (eV/Å)")
    _above(ax, "fresh frames")
    ax.legend(loc="best")


def _curves(ax: Axes, ds: xr.Dataset) -> None:
    names = ds.structure.values.tolist()
    for name, color in zip(names, cycle(_CRYSTALS), strict=False):
        here = ds.curve.sel(structure=name) * 1000
        ax.plot(ds.ratio, here.sel(model="teacher"), "o", color=color, markerfacecolor="none",
                label=f"{name}, teacher")  # fmt: skip
        ax.plot(ds.ratio, here.sel(model="student"), color=color, label=f"{name}, student")
    ax.set_xlabel("Volume / given volume")
    ax.set_ylabel("Energy (meV/atom)")
    _above(ax, "above the lowest")
    ax.legend(loc="upper center")


def _conservation(ax: Axes, ds: xr.Dataset) -> None:
    for state, (color, _, line) in _STATES.items():
        if state in ds.state.values:
            change = ds.energy_change.sel(state=state) * 1000
            if change.notnull().any():
                ax.plot(ds.time, change, color=color, linestyle=line, label=state, linewidth=0.8)
    ax.set_xlabel("Time of NVE (ps)")
    ax.set_ylabel("Energy change (meV/atom)")
    if ax.lines:
        ax.legend(loc="best")
    else:
        ax.text(0.5, 0.5, "no run lasted", ha="center", va="center", transform=ax.transAxes)


def _survival(ax: Axes, ds: xr.Dataset) -> None:
    temperature, share = ds.md_temperature.values, 100 * ds.survived.values
    _points(
        ax, ds.trajectory_molten, temperature, share, markersize=4, alpha=0.7, markeredgewidth=0
    )
    ax.set_ylim(-5, 105)
    ax.set_xlabel("Temperature of MD (K)")
    ax.set_ylabel("Physical part of the run (%)")
    ax.legend(loc="center left")


def _times(ax: Axes, ds: xr.Dataset) -> None:
    _bars(ax, 1000 * ds.step_time)
    ax.set_ylabel("Time of MD (µs/atom/step)")


def _memories(ax: Axes, ds: xr.Dataset) -> None:
    _bars(ax, ds.md_memory)
    ax.set_ylabel("Memory of MD (MB)")


def _bars(ax: Axes, costs: xr.DataArray) -> None:
    """Draw a cost of teacher and student on a logarithmic axis."""
    models = costs.model.values.tolist()
    known = costs.values[costs.values > 0]
    ax.bar(models, costs.values, color=[ROLE_LOOKS[name].color for name in models], width=0.6)
    if known.size:
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())  # the bars carry their values
        ax.set_ylim(known.min() / 3, known.max() * 4)
    ax.set_xlim(-0.6, len(models) - 0.4)
    for k, value in enumerate(costs.values):
        if value > 0:
            words = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            ax.text(k, value * 1.15, words, ha="center", va="bottom")
        else:
            words = "0" if value == 0 else "not\nmeasured"
            ax.text(k, 0.05, words, ha="center", va="bottom", transform=ax.get_xaxis_transform())
    ax.set_xlabel("Potential")


def _instead(ax: Axes, words: str) -> None:
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()


def _structure(ax: Axes, ds: xr.Dataset) -> None:
    if "g" not in ds:
        _instead(ax, "g(r): on request\n(--rdf-ps)")
        return
    for name, line in (("teacher", "-"), ("student", "--")):
        look = ROLE_LOOKS[name]
        ax.plot(ds.r, ds.g.sel(model=name), color=look.color, linestyle=line, label=look.label)
    words = f"error {float(ds.rdf_error):.2f} Å\nfloor {float(ds.rdf_floor):.2f} Å"
    ax.text(0.97, 0.74, words, ha="right", va="top", transform=ax.transAxes)
    ax.set_xlabel(label(ds.r))
    ax.set_ylabel("g(r)")
    ax.legend(loc="upper right")
