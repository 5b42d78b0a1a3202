"""Fig. 2: accuracy against cost, with Pareto fronts."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.claims.statistics import front, over_seeds, step_time
from kdlib.figures.style import (
    BACKEND_LOOKS,
    COMPARED,
    ROLE_LOOKS,
    TWO_COLUMNS,
    canvas,
    frame_points,
    label,
    letter,
    log_ticks,
    recipe,
    role_legend,
    runs,
)


@recipe(
    "force_rmse",
    "step_time",
    "n_parameters",
    optional=("memory_per_atom",),
    labels={"split": ("test",), "role": COMPARED, "component": ("total",)},
)
def fig2_pareto(ds: xr.Dataset) -> Figure:
    """Fig. 2: force error against time per MD step (A) and memory (B), with Pareto fronts.

    Units of the data: eV/Angstrom, us/atom/step, kB/atom.
    """
    figure, (left, right) = canvas(TWO_COLUMNS, 3.1, ncols=2, sharey=True)
    times, atoms = step_time(ds)
    _tradeoff(left, ds, times)
    sizes = ", ".join(f"{BACKEND_LOOKS[b].label}: {n:,} atoms" for b, n in atoms.items())
    left.set_xlabel(label(times, "time per MD step"))
    left.set_ylabel(label(ds.force_rmse, "force RMSE, test"))
    letter(left, "A")
    left.set_title(sizes, fontsize=6.5, color="0.35", loc="right")
    letter(right, "B")
    if "memory_per_atom" in ds:
        _tradeoff(right, ds, ds.memory_per_atom)
        right.set_xlabel(label(ds.memory_per_atom))
    else:
        right.set_axis_off()
        right.text(0.5, 0.5, "memory was not measured", ha="center", transform=right.transAxes)
    role_legend(figure, ds, backends=True)
    return figure


def _tradeoff(ax: Axes, ds: xr.Dataset, cost: xr.DataArray) -> None:
    """Draw error against cost for every role and backend, Pareto fronts as stepped lines."""
    error = ds.force_rmse.sel(split="test")
    frame_points(ax, "y", error.values)
    frame_points(ax, "x", cost.values)
    for backend in cost.backend.values.tolist():
        x = cost.sel(backend=backend)
        for role in error.role.values.tolist():
            look, filled = ROLE_LOOKS[role], backend != "fused"
            y = error.sel(role=role)
            runs(ax, x, y, look, filled=filled)
            if role == "teacher":
                continue
            edge = front(x.values, over_seeds(y)["mean"].values)
            if edge[0].size:
                reach = np.append(edge[0], ax.get_xlim()[1])
                ax.step(
                    reach if filled else edge[0],
                    np.append(edge[1], edge[1][-1]) if filled else edge[1],
                    where="post",
                    color=look.color,
                    linestyle=look.linestyle,
                    linewidth=0.9,
                    alpha=0.8,
                )
    log_ticks(ax, "x")
    log_ticks(ax, "y")
