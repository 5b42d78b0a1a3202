"""Figure of the liquid's structure: g(r) of models and experiment."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.claims.statistics import over_seeds
from kdlib.figures.style import (
    COMPARED,
    EXPERIMENT,
    ONE_COLUMN,
    ROLE_LOOKS,
    canvas,
    label,
    letter,
    recipe,
)


def _teacher_and_smallest(ds: xr.Dataset) -> xr.Dataset:
    """Keep the teacher's architecture and the smallest student's, where differences show most."""
    present = ds.rdf_error.notnull() | ds.g.notnull().any("r")
    wanted = []
    for role, position in (("teacher", -1), ("student", 0)):
        if role in ds.role.values:
            found = present.sel(role=role).any("seed").values.nonzero()[0]
            wanted += [int(found[position])] if found.size else []
    return ds.isel(architecture=sorted(set(wanted))) if wanted else ds


@recipe(
    "g",
    "r",
    "rdf_error",
    "rdf_floor",
    "n_parameters",
    optional=("g_experiment",),
    labels={"role": COMPARED},
    narrow=_teacher_and_smallest,
)
def rdf(ds: xr.Dataset) -> Figure:
    """g(r) of the liquid (A) and its difference from each model's own teacher (B).

    Students and controls are those of the smallest architecture. The band in B is the noise floor,
    the integrated difference (Angstrom) between pieces of one run, divided by the range of the
    integral: attributes ``r_min`` and ``r_max``, 2-8 Angstrom by default.
    """
    figure, (top, bottom) = canvas(ONE_COLUMN, 4.1, nrows=2, sharex=True, height_ratios=(1.35, 1))
    r = ds.r.values
    if "g_experiment" in ds:
        look = EXPERIMENT
        top.plot(r, ds.g_experiment, color=look.color, linestyle=look.linestyle, label=look.label)
    teacher = _of_role(ds.g, "teacher")
    for role in ds.role.values.tolist():
        g, look = _of_role(ds.g, role), ROLE_LOOKS[role]
        if not g.notnull().any():  # e.g. the liquid became unphysical
            continue
        text = look.label
        if role != "teacher":
            error = over_seeds(_of_role(ds.rdf_error, role))["mean"]
            text += f", error {float(error):.3f} Å" if np.isfinite(error) else ""
            _difference(bottom, r, g - teacher, role)
        top.plot(r, g.mean("seed"), color=look.color, linestyle=look.linestyle, label=text)
    low, high = float(ds.attrs.get("r_min", 2.0)), float(ds.attrs.get("r_max", 8.0))
    floor = float(ds.rdf_floor) / (high - low)
    bottom.axhspan(-floor, floor, color="0.5", alpha=0.25, linewidth=0, label="noise floor")
    bottom.axhline(0, color=ROLE_LOOKS["teacher"].color, linewidth=0.9)
    top.set_ylabel("g(r)")
    bottom.set_ylabel("g(r) − own teacher's")
    bottom.set_xlabel(label(ds.r))
    bottom.set_xlim(low, high)
    smallest = ds.architecture.values[0]
    top.legend(loc="upper right", fontsize=6.5, title=f"students: {smallest}", title_fontsize=6.5)
    bottom.legend(loc="lower right", fontsize=6.5)
    letter(top, "A")
    letter(bottom, "B")
    return figure


def _of_role(array: xr.DataArray, role: str) -> xr.DataArray:
    """Values of one role over seeds, at the only architecture kept for it."""
    return array.sel(role=role).isel(architecture=-1 if role == "teacher" else 0)


def _difference(ax: Axes, r: np.ndarray, difference: xr.DataArray, role: str) -> None:
    look = ROLE_LOOKS[role]
    ax.plot(r, difference.transpose("r", "seed"), color=look.color, linewidth=0.4, alpha=0.35)
    ax.plot(r, difference.mean("seed"), color=look.color, linestyle=look.linestyle)
