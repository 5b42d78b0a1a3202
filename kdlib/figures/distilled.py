"""Figure of a distillation: what the student is worth, against its teacher."""

from itertools import cycle

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.figures.recipe import recipe
from kdlib.figures.style import ROLE_LOOKS, TWO_COLUMNS, canvas, label, letter

#: Colours of crystals, from Tol's muted palette, none of them a role's or a state's.
_CRYSTALS = ("#332288", "#117733", "#882255", "#999933")
_STATES = {"solid": ("#0072B2", "o", "-"), "molten": ("#D55E00", "s", "--")}


@recipe(
    "reference_force",
    "predicted_force",
    "sample_molten",
    "round_force_rmse",
    "curve",
    "energy_change",
    "step_time",
    optional=("reference_atomic", "predicted_atomic", "g", "rdf_error", "rdf_floor"),
)
def distilled(ds: xr.Dataset) -> Figure:
    """Parity of forces and atomic energies, error by round, E(V), NVE, time (and g(r)).

    Parameters
    ----------
    ds
        From :func:`kdlib.distill.report.report`; attribute ``target`` (eV/Angstrom).
    """
    last = "g" if "g" in ds else "time"
    mosaic = [["force", "atomic", "round"], ["curve", "energy", last]]
    figure, axes = canvas(TWO_COLUMNS, 4.8, mosaic=mosaic)
    _forces(axes["force"], ds)
    _atomic(axes["atomic"], ds)
    _rounds(axes["round"], ds)
    _curves(axes["curve"], ds)
    _energy(axes["energy"], ds)
    (_structure if last == "g" else _times)(axes[last], ds)
    for name, text in zip(axes, "ABCDEF", strict=True):
        letter(axes[name], text)
    return figure


def _forces(ax: Axes, ds: xr.Dataset) -> None:
    for value, (state, (color, _, _)) in zip((0.0, 1.0), _STATES.items(), strict=True):
        chosen = (ds.sample_molten == value).values
        ax.plot(
            ds.reference_force.values[chosen], ds.predicted_force.values[chosen], ".",
            markersize=1.5, color=color, alpha=0.5, label=state, rasterized=True,
        )  # fmt: skip
    _diagonal(ax, ds.reference_force.values)
    ax.set_xlabel("Teacher's force component (eV/Å)")
    ax.set_ylabel("Student's force component (eV/Å)")
    ax.legend(loc="upper left", markerscale=5)


def _atomic(ax: Axes, ds: xr.Dataset) -> None:
    if "reference_atomic" not in ds:
        ax.text(0.5, 0.5, "the teacher gives\nno atomic energies", ha="center", va="center",
                transform=ax.transAxes)  # fmt: skip
        ax.set_axis_off()
        return
    ax.plot(
        ds.reference_atomic, ds.predicted_atomic, ".", markersize=1.5, color="0.35", alpha=0.5,
        rasterized=True,
    )  # fmt: skip
    _diagonal(ax, ds.reference_atomic.values)
    ax.set_xlabel("Teacher's atomic energy − mean (eV)")
    ax.set_ylabel("Student's atomic energy − mean (eV)")


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
    ax.set_ylabel("Force RMSE on fresh frames (eV/Å)")
    ax.legend(loc="best")


def _curves(ax: Axes, ds: xr.Dataset) -> None:
    names = ds.structure.values.tolist()
    for name, color in zip(names, cycle(_CRYSTALS), strict=False):
        here = ds.curve.sel(structure=name) * 1000
        ax.plot(ds.ratio, here.sel(model="teacher"), "o", color=color, markerfacecolor="none",
                label=f"{name}, teacher")  # fmt: skip
        ax.plot(ds.ratio, here.sel(model="student"), color=color, label=f"{name}, student")
    ax.set_xlabel("Volume / given volume")
    ax.set_ylabel("Energy above the lowest (meV/atom)")
    ax.legend(loc="upper center")


def _energy(ax: Axes, ds: xr.Dataset) -> None:
    for state, (color, _, line) in _STATES.items():
        if state in ds.state.values:
            change = ds.energy_change.sel(state=state) * 1000
            if change.notnull().any():
                ax.plot(ds.time, change, color=color, linestyle=line, label=state, linewidth=0.8)
    ax.set_xlabel("Time of NVE (ps)")
    ax.set_ylabel("Change of total energy (meV/atom)")
    if ax.lines:
        ax.legend(loc="best")
    else:
        ax.text(0.5, 0.5, "no run lasted", ha="center", va="center", transform=ax.transAxes)


def _times(ax: Axes, ds: xr.Dataset) -> None:
    models = ds.step_time.model.values.tolist()
    values = ds.step_time.values * 1000
    known = values[np.isfinite(values)]
    ax.bar(models, values, color=[ROLE_LOOKS[name].color for name in models], width=0.55)
    if known.size:
        ax.set_yscale("log")
        ax.set_ylim(known.min() / 3, known.max() * 4)
    ax.set_xlim(-0.6, len(models) - 0.4)
    for k, value in enumerate(values):
        if np.isfinite(value):
            words = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            ax.text(k, value * 1.15, words, ha="center", va="bottom")
        else:
            across = ax.get_xaxis_transform()
            ax.text(k, 0.05, "not timed", ha="center", va="bottom", transform=across)
    ax.set_xlabel("Potential")
    ax.set_ylabel("Time per MD step (µs/atom/step)")


def _structure(ax: Axes, ds: xr.Dataset) -> None:
    for name, line in (("teacher", "-"), ("student", "--")):
        look = ROLE_LOOKS[name]
        ax.plot(ds.r, ds.g.sel(model=name), color=look.color, linestyle=line, label=look.label)
    words = f"error {float(ds.rdf_error):.2f} Å, floor {float(ds.rdf_floor):.2f} Å"
    ax.set_title(words, fontsize=7, loc="right")
    ax.set_xlabel(label(ds.r))
    ax.set_ylabel("g(r)")
    ax.legend(loc="best")
