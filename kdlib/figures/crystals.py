"""Figure of properties that no training used: DFT against models."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.figures.style import (
    COMPARED,
    PHASE_LOOKS,
    ROLE_LOOKS,
    TWO_COLUMNS,
    canvas,
    letter,
    recipe,
)

_SHOWN = {"teacher": "-", "student": "--"}


@recipe(
    "energy",
    "volume",
    "reference_energy",
    "value",
    "reference_value",
    optional=("converged_value",),
    labels={"role": COMPARED},
)
def crystals(ds: xr.Dataset) -> Figure:
    """Energy against volume of three crystals (A), and deviations of models from DFT (B).

    Energies are relative to the lowest of fcc. The reference is DFT at the settings of the labels;
    B also shows converged DFT. Faint points in B are models, markers their means.

    Parameters
    ----------
    ds
        ``energy(role, architecture, seed, structure, ratio)`` and ``reference_energy(structure,
        ratio)``, eV/atom; ``volume(ratio)``, Angstrom^3/atom; ``value(role, architecture, seed,
        quantity)``, ``reference_value(quantity)`` and possibly ``converged_value(quantity)``.
    """
    figure, (left, right) = canvas(TWO_COLUMNS, 3.0, ncols=2, width_ratios=(1, 1.15))
    _curves(left, ds)
    _deviations(right, ds)
    letter(left, "A")
    letter(right, "B")
    return figure


def _curves(ax: Axes, ds: xr.Dataset) -> None:
    reference = (ds.reference_energy - ds.reference_energy.sel(structure="fcc").min()) * 1000
    own = ds.energy - ds.energy.sel(structure="fcc").min("ratio")
    for structure in ds.structure.values.tolist():
        look = PHASE_LOOKS[structure]
        ax.plot(
            ds.volume, reference.sel(structure=structure), color=look.color, marker=look.marker,
            linestyle="none",
        )  # fmt: skip
        for role, line in _SHOWN.items():
            if role in ds.role.values:
                mean = own.sel(role=role, structure=structure).mean(["architecture", "seed"])
                ax.plot(ds.volume, mean * 1000, color=look.color, linestyle=line, linewidth=1)
    handles = [
        Line2D([], [], color=PHASE_LOOKS[s].color, marker=PHASE_LOOKS[s].marker, linestyle="none",
               label=f"{s}, DFT")
        for s in ds.structure.values.tolist()
    ]  # fmt: skip
    handles += [
        Line2D([], [], color="0.3", linestyle=line, label=f"{ROLE_LOOKS[role].label}s, mean")
        for role, line in _SHOWN.items()
        if role in ds.role.values
    ]
    ax.legend(handles=handles, loc="upper center", fontsize=6)
    ax.set_xlabel("Volume (Å³/atom)")
    ax.set_ylabel("Energy above fcc (meV/atom)")


def _deviations(ax: Axes, ds: xr.Dataset) -> None:
    deviation = 100 * (ds.value / ds.reference_value - 1)
    names = ds.quantity.values.tolist()
    roles = ds.role.values.tolist()
    for k, role in enumerate(roles):
        look = ROLE_LOOKS[role]
        here = deviation.sel(role=role).stack(model=("architecture", "seed"))
        rows = np.arange(len(names)) + 0.17 * (k - (len(roles) - 1) / 2)
        spots = np.broadcast_to(rows[:, None], here.transpose("quantity", "model").shape)
        ax.scatter(
            here.transpose("quantity", "model").values, spots, s=6, color=look.color, alpha=0.3,
            linewidths=0,
        )  # fmt: skip
        ax.plot(
            here.mean("model"), rows, color=look.color, marker=look.marker, linestyle="none",
            label=look.label,
        )  # fmt: skip
    if "converged_value" in ds:
        off = 100 * (ds.converged_value / ds.reference_value - 1)
        ax.plot(off, range(len(names)), "x", color="0.4", label="DFT, converged")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xscale("symlog", linthresh=10)
    ticks = [-100, -30, -10, -5, 0, 5, 10, 30, 100]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    words = [f"{name}\n({ds.reference_value.sel(quantity=name).item():.3g})" for name in names]
    ax.set_yticks(range(len(names)), words, fontsize=6)
    ax.invert_yaxis()
    ax.set_xlabel("Deviation from DFT (%)")
    ax.set_ylabel("Property of fcc")
    ax.legend(loc="best", fontsize=6)
