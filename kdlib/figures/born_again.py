"""Born-Again students beside their teacher (section 3.5)."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.claims.statistics import ratio
from kdlib.figures.style import (
    ROLE_LOOKS,
    TWO_COLUMNS,
    canvas,
    frame_points,
    in_units,
    label,
    largest,
    letter,
    log_ticks,
    recipe,
    runs,
)

_BORN_AGAIN = ("teacher", "same_size_student", "born_again", "born_again_control")


@recipe("force_rmse", "energy_rmse", labels={"split": ("test",), "role": _BORN_AGAIN})
def born_again(ds: xr.Dataset) -> Figure:
    """Born-Again students beside their teacher, the static student and their own control.

    Gray lines join runs of one seed; the percentage is the paired change against the teacher. Units
    of the data: eV/Angstrom, eV/atom.
    """
    figure, axes = canvas(TWO_COLUMNS, 2.9, ncols=2)
    name = str(largest(ds.force_rmse.sel(role=["teacher"])).architecture.values)
    test = ds.sel(split="test", architecture=name)
    _paired(axes[0], test.force_rmse, "force RMSE, test")
    _paired(axes[1], in_units(test.energy_rmse, "meV/atom"), "energy RMSE, test")
    for ax, text in zip(axes, "AB", strict=True):
        letter(ax, text)
    return figure


def _paired(ax: Axes, error: xr.DataArray, words: str) -> None:
    roles = error.role.values.tolist()
    place = np.arange(len(roles))
    error = error.transpose("role", "seed")
    ax.plot(place, error.values, color="0.75", linewidth=0.7, zorder=1)
    frame_points(ax, "y", error.values, margin=0.25)
    names = []
    for x, role in zip(place, roles, strict=True):
        look = ROLE_LOOKS[role]
        values = error.sel(role=role)
        at = xr.DataArray([float(x)], dims="architecture")
        runs(ax, at, values.expand_dims("architecture"), look)
        change = ratio(values.values, error.sel(role="teacher").values).map(lambda q: 100 * (q - 1))
        text = look.label.replace(" ", "\n", 1)
        if role != "teacher" and np.isfinite(change.value):
            digits = 1 if np.nanmax(np.abs(change[:3])) < 20 else 0
            percent = f"\n{change.value:+.{digits}f} %"
            if np.isfinite(change.low):
                percent += f"\n[{change.low:+.{digits}f}, {change.high:+.{digits}f}]"
            text += percent.replace("-", "−")
        names.append(text)
    log_ticks(ax, "y")
    ax.set_xticks(place, names)
    ax.set_xlim(-0.5, len(roles) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("Paired change against the teacher [95 % interval]", fontsize=7)
    ax.set_ylabel(label(error, words))
