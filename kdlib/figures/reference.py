"""Figure of the DFT data: how accurate the labels are, and what active learning found."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.figures.recipe import recipe
from kdlib.figures.style import TWO_COLUMNS, canvas, label, letter, phase_look

_BEFORE, _AFTER = "#D55E00", "#0072B2"


@recipe(
    "force_difference",
    "force_rms",
    "phase",
    optional=("disagreement", "error_before", "error_after", "n_labelled"),
)
def reference(ds: xr.Dataset) -> Figure:
    """Accuracy of labels (A), and by round of active learning: disagreement (B), error (C).

    Points in B are trajectories, bars their quartiles.

    Parameters
    ----------
    ds
        ``force_difference(frame, variant)``, ``force_rms(frame)``, eV/Angstrom, and ``phase``;
        ``disagreement(round, trajectory)``, ``error_before(round)``, ``error_after(round)``,
        eV/Angstrom.
    """
    names = ["accuracy"] + ["disagreement", "error"] * ("disagreement" in ds)
    figure, axes = canvas(TWO_COLUMNS, 2.6, mosaic=[names])
    _accuracy(axes["accuracy"], ds)
    if "disagreement" in ds:
        _disagreement(axes["disagreement"], ds.disagreement)
        _error(axes["error"], ds)
    for name, text in zip(names, "ABC", strict=False):
        letter(axes[name], text)
    return figure


def _accuracy(ax: Axes, ds: xr.Dataset) -> None:
    difference = ds.force_difference.sel(variant="converged")
    for phase in dict.fromkeys(ds.phase.values.tolist()):
        here, look = (ds.phase == phase).values, phase_look(phase)
        ax.plot(
            ds.force_rms.values[here], difference.values[here], color=look.color,
            marker=look.marker, linestyle="none", label=look.label,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="RMS force component (eV/Å)")
    ax.set_ylabel("RMS difference to converged PBE (eV/Å)")
    ax.legend(loc="best", fontsize=6)


def _disagreement(ax: Axes, found: xr.DataArray) -> None:
    rounds = found["round"].values
    for number in rounds:
        values = found.sel(round=number).dropna("trajectory").values
        spread = np.random.default_rng(0).uniform(-0.2, 0.2, values.size)
        ax.scatter(number + spread, values, s=6, color="0.5", alpha=0.5, linewidths=0)
        low, mid, high = np.quantile(values, (0.25, 0.5, 0.75))
        ax.errorbar(number, mid, [[mid - low], [high - mid]], color="black", marker="o", capsize=3)
    ax.set_yscale("log")
    ax.set_xticks(rounds)
    ax.set_xlim(rounds.min() - 0.6, rounds.max() + 0.6)
    ax.set_xlabel("Round")
    ax.set_ylabel(label(found, "largest disagreement"))


def _error(ax: Axes, ds: xr.Dataset) -> None:
    rounds = ds["round"].values
    for name, words, color, marker in (
        ("error_before", "before training on them", _BEFORE, "s"),
        ("error_after", "after", _AFTER, "o"),
    ):
        ax.plot(rounds, ds[name], color=color, marker=marker, label=words)
    ax.set_xticks(rounds)
    ax.set_xlim(rounds.min() - 0.6, rounds.max() + 0.6)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("Round")
    ax.set_ylabel("Force RMSE on the frames found (eV/Å)")
    ax.legend(loc="best", fontsize=6)
