"""Figure of the DFT data: how accurate the labels are, and what active learning found."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.figures.style import TWO_COLUMNS, canvas, label, letter, log_ticks, phase_look, recipe

#: Gray level and marker of an ensemble, by the number of rounds that it was trained on.
_ENSEMBLES = (("0.7", "s"), ("0.4", "D"), ("0.0", "o"), ("0.0", "^"))
#: Relative widths of the panels.
_WIDTHS = {"accuracy": 1.0, "disagreement": 0.8, "error": 1.3}


@recipe(
    "force_difference",
    "force_rms",
    "phase",
    optional=("disagreement", "error", "n_labelled", "traded_error"),
)
def reference(ds: xr.Dataset) -> Figure:
    """Accuracy of labels (A); active learning: disagreement by round (B), error of ensembles (C).

    Points in B are labeled frames, bars their quartiles. Markers in C are means over the members of
    an ensemble on frames that it was not trained on; bars reach from the best to the worst member.
    The open marker is the control with as many frames as there were without active learning.

    Parameters
    ----------
    ds
        ``force_difference(frame, variant)``, ``force_rms(frame)``, eV/Angstrom, and ``phase``;
        ``disagreement(round, trajectory)``, ``error(training, member, evaluated)`` and
        ``traded_error(member, evaluated)``, eV/Angstrom.
    """
    names = ["accuracy", *[name for name in ("disagreement", "error") if name in ds]]
    figure, axes = canvas(
        TWO_COLUMNS, 3.1, mosaic=[names], width_ratios=[_WIDTHS[name] for name in names]
    )
    _accuracy(axes["accuracy"], ds)
    if "disagreement" in ds:
        _disagreement(axes["disagreement"], ds.disagreement)
    if "error" in ds:
        _error(axes["error"], ds.error, ds.get("traded_error"))
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
    for axis in "xy":
        log_ticks(ax, axis)
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
    log_ticks(ax, "y")
    ax.set_xticks(rounds)
    ax.set_xlim(rounds.min() - 0.6, rounds.max() + 0.6)
    ax.set_xlabel("Round")
    ax.set_ylabel(label(found, "disagreement on labeled frames"))


def _error(ax: Axes, found: xr.DataArray, traded: xr.DataArray | None) -> None:
    found = found.dropna("evaluated", how="all")
    places = np.arange(found.sizes["evaluated"])
    trainings = found.training.values.tolist()
    n_shown = len(trainings) + (traded is not None)
    for k, last in enumerate(trainings):
        color, marker = _ENSEMBLES[min(k, len(_ENSEMBLES) - 1)]
        here = found.sel(training=last).transpose("member", "evaluated").values
        at = places + 0.18 * (k - (n_shown - 1) / 2)
        words = {0: "without active learning", 1: "with round 1"}.get(last, f"with rounds 1-{last}")
        _interval(ax, at, here, color=color, fmt=marker, label=words)
    if traded is not None:
        here = traded.sel(evaluated=found.evaluated).transpose("member", "evaluated").values
        at = places + 0.18 * (n_shown - 1) / 2
        words = "with all rounds, as many frames as without"
        _interval(ax, at, here, color="0.4", fmt="o", markerfacecolor="white", label=words)
    log_ticks(ax, "y")
    ax.set_xticks(places, [_wrapped(name) for name in found.evaluated.values.tolist()], fontsize=5)
    ax.set_ylabel(label(found, "force RMSE on unseen frames"))
    ax.set_xlabel("Frames")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=6)


def _interval(ax: Axes, at: np.ndarray, values: np.ndarray, **look: str) -> None:
    mean = values.mean(axis=0)
    reach = [mean - values.min(axis=0), values.max(axis=0) - mean]
    ax.errorbar(at, mean, reach, capsize=3, **look)


def _wrapped(name: str) -> str:
    return name.replace(" ", "\n")
