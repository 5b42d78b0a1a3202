"""Table 1: the Born-Again schedule of loss weights."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from kdlib.figures.style import ONE_COLUMN, ROLE_LOOKS, WEIGHT_NAMES, canvas, recipe


class Weights(Protocol):
    """Loss weights of one stage."""

    energy: float
    force: float
    atomic_energy: float


class Schedule(Protocol):
    """First epoch and weights of each stage, as in :class:`kdlib.training.WeightSchedule`."""

    stages: Sequence[tuple[int, Weights]]


def schedule_data(schedule: Schedule, n_epochs: int = 500) -> xr.Dataset:
    """Dataset of a schedule such as `kdlib.training.losses.TABLE_1`, which ends at ``n_epochs``."""
    weights = np.array([[w.energy, w.force, w.atomic_energy] for _, w in schedule.stages])
    first = [start for start, _ in schedule.stages]
    ds = xr.Dataset(
        {
            name: ("epoch", weights[:, column], {"units": "1", "long_name": words})
            for column, (name, words) in enumerate(WEIGHT_NAMES.items())
        },
        {"epoch": ("epoch", first, {"units": "1", "long_name": "first epoch of a stage"})},
    )
    return ds.assign_attrs(kind="figure", n_epochs=n_epochs)


@recipe("weight_atomic_energy", "weight_force", "weight_energy", "epoch")
def table1_schedule(ds: xr.Dataset) -> Figure:
    """Table 1 as a plot of `schedule_data`: weights of the Born-Again loss against the epoch."""
    figure, axes = canvas(ONE_COLUMN, 3.0, nrows=3, sharex=True)
    start = ds.epoch.values.astype(float)
    end = max(float(ds.attrs["n_epochs"]), start[-1] + 1)
    look = ROLE_LOOKS["born_again"]
    rows = (
        ("weight_atomic_energy", "$w_A$"),
        ("weight_force", "$w_F$"),
        ("weight_energy", "$w_E$"),
    )
    for ax, (name, symbol) in zip(axes, rows, strict=True):
        weight = ds[name].values
        ax.stairs(weight, np.append(start, end), baseline=None, color=look.color, linewidth=1.6)
        for left, right, value in zip(start, np.append(start[1:], end), weight, strict=True):
            ax.annotate(
                f"{value:g}",
                ((left + right) / 2, value),
                xytext=(0, 2.5),
                textcoords="offset points",
                ha="center",
                fontsize=6.5,
            )
        ax.set_ylim(-0.08 * weight.max(), 1.32 * weight.max())
        ax.set_ylabel(symbol)
    axes[-1].set_xlabel("Epoch")
    axes[-1].set_xlim(0, end)
    return figure
