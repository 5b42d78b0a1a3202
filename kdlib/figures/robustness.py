"""The title claim under other choices than the run's."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.claims.variants import OTHERS, cells, compared
from kdlib.figures.style import ROLE_LOOKS, TWO_COLUMNS, canvas, letter, recipe
from kdlib.results.schema import ROLE_NAMES

#: Height of a row and of all else, inch.
_ROW, _REST = 0.24, 0.9


@recipe("force_rmse", labels={"split": ("test",), "role": ("student", *OTHERS)})
def robustness(ds: xr.Dataset) -> Figure:
    """Test force RMSE of students over controls (A) and matched controls (B) for each protocol.

    Markers are geometric means over seeds with 95 % t-intervals, faint points single seeds; below
    1 the student is better.
    """
    rows = cells(ds)
    figure, axes = canvas(TWO_COLUMNS, _REST + _ROW * len(rows), ncols=2, sharey=True)
    for ax, other, text in zip(axes, OTHERS, "AB", strict=True):
        for place, (variant, architecture) in enumerate(rows):
            _row(ax, ds, place, variant, architecture, other)
        ax.axvline(1.0, color="0.3", linewidth=0.8, zorder=1)
        ax.set_xlabel(f"Students' force RMSE over the {ROLE_NAMES[other]}s'")
        ax.grid(axis="y", visible=False)
        letter(ax, text)
    for place, (before, here) in enumerate(zip(rows, rows[1:], strict=False)):
        if before[0] != here[0]:
            for ax in axes:
                ax.axhline(place + 0.5, color="0.85", linewidth=0.6, zorder=0)
    axes[0].set_yticks(range(len(rows)), [f"{variant}, {size}" for variant, size in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _row(ax: Axes, ds: xr.Dataset, place: int, variant: str, architecture: str, other: str) -> None:
    """Draw one comparison: the seeds, and their mean with its interval."""
    look = ROLE_LOOKS[other]
    cell = ds.force_rmse.sel(variant=variant, architecture=architecture, split="test")
    pairs = cell.sel(role="student") / cell.sel(role=other)
    ax.scatter(pairs, np.full(pairs.size, place), s=9, color=look.color, alpha=0.35, linewidths=0)
    mean, low, high, _ = compared(ds, variant, architecture, other)
    bars = np.nan_to_num([[mean - low], [high - mean]])
    ax.errorbar(mean, place, xerr=bars, color=look.color, marker=look.marker, capsize=2, zorder=4)
