"""Marks shared by figures: seeds as faint points, means with intervals, reference bands."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from kdlib.figures.style import Look
from kdlib.claims.statistics import over_seeds


def runs(ax: Axes, x: xr.DataArray, y: xr.DataArray, look: Look, *, filled: bool = True) -> None:
    """Geometric mean over seeds against x with t-intervals, and every seed as a faint point.

    Parameters
    ----------
    ax
        Where to draw.
    x
        (architecture,) cost or capacity.
    y
        (architecture, seed) error.
    look
        Colour and marker of the role.
    filled
        Open markers if false.
    """
    face = look.color if filled else "white"
    place = _nudged(ax, x.values, look.nudge)
    xs = np.broadcast_to(place[:, None], y.transpose("architecture", "seed").shape)
    ax.scatter(xs, y.values, s=7, color=look.color, alpha=0.3, linewidths=0, zorder=2)
    mean = over_seeds(y)
    kept = np.isfinite(mean["mean"].values) & np.isfinite(x.values)
    mid, low, high = (mean[name].values[kept] for name in ("mean", "low", "high"))
    bars = np.nan_to_num(np.array([mid - low, high - mid]))
    ax.errorbar(
        place[kept],
        mid,
        yerr=bars,
        color=look.color,
        marker=look.marker,
        markerfacecolor=face,
        linestyle="none",
        elinewidth=0.9,
        capsize=1.8,
        zorder=4,
    )


def _nudged(ax: Axes, x: np.ndarray, steps: int) -> np.ndarray:
    """Move positions by steps of 1.3 % of the axis, whose limits are set already."""
    if not steps:
        return x
    low, high = ax.get_xlim()
    return x * (high / low) ** (0.013 * steps)


def line(ax: Axes, x: xr.DataArray, y: xr.DataArray, look: Look, *, filled: bool = True) -> None:
    """Draw the same as `runs`, means joined by a line in the order of x."""
    order = np.argsort(x.values)
    x, y = x.isel(architecture=order), y.isel(architecture=order)
    mean = over_seeds(y)["mean"]
    kept = np.isfinite(mean.values) & np.isfinite(x.values)
    ax.plot(x[kept], mean[kept], color=look.color, linestyle=look.linestyle, zorder=3)
    runs(ax, x, y, look, filled=filled)


def reference(ax: Axes, values: xr.DataArray, look: Look) -> None:
    """Horizontal line at the geometric mean over seeds with its interval as a band."""
    mean = over_seeds(values)
    if not np.isfinite(mean["mean"]):
        return
    ax.axhline(float(mean["mean"]), color=look.color, linewidth=1, zorder=1.5)
    if np.isfinite(mean["low"]):
        ax.axhspan(
            float(mean["low"]), float(mean["high"]), color=look.color, alpha=0.09, linewidth=0
        )


def frame_points(ax: Axes, axis: str, values: np.ndarray, margin: float = 0.12) -> None:
    """Limits of a logarithmic axis from the data points alone.

    With two seeds an interval can span decades; it may run off the axis, the points may not.
    """
    finite = values[np.isfinite(values) & (values > 0)]
    if finite.size:
        low, high = np.log(finite.min()), np.log(finite.max())
        pad = max(margin * (high - low), 0.08)
        getattr(ax, f"set_{axis}lim")(np.exp(low - pad), np.exp(high + pad))
    else:
        getattr(ax, f"set_{axis}lim")(0.1, 1)
