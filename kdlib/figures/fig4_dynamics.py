"""Fig. 4: learning curves of students and controls."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.claims.statistics import log_binned, over_seeds, t_interval
from kdlib.figures.style import (
    ROLE_LOOKS,
    TWO_COLUMNS,
    canvas,
    frame_points,
    label,
    letter,
    log_ticks,
    recipe,
)

_COMPARED = ("student", "control", "matched_control")


def _one_architecture(ds: xr.Dataset) -> xr.Dataset:
    """Keep the largest architecture with a student and a control, as the paper shows one."""
    if "architecture" not in ds.dims:
        return ds
    present = (
        ds.force_rmse.notnull().any(["seed", "split", "epoch"]).transpose("architecture", "role")
    )
    both = present.values.all(axis=1)
    position = int((both if both.any() else present.values.any(axis=1)).nonzero()[0][-1])
    return ds.isel(architecture=[position]).dropna("epoch", how="all", subset=["force_rmse"])


@recipe(
    "force_rmse",
    "n_parameters",
    labels={"split": ("train", "valid"), "role": _COMPARED},
    narrow=_one_architecture,
)
def fig4_dynamics(ds: xr.Dataset) -> Figure:
    """Fig. 4: training (A) and validation (B) force error per epoch, and their ratio (C).

    Thin lines are seeds, thick ones their geometric mean over the epochs that all seeds reached.
    ``force_rmse`` is in eV/Angstrom.
    """
    figure, axes = canvas(TWO_COLUMNS, 2.7, ncols=3, width_ratios=(1, 1, 1.1))
    curves = ds.force_rmse.isel(architecture=0)
    parts = [("train", "training"), ("valid", "validation")]
    for ax, (part, word) in zip(axes, parts, strict=False):
        _learning(ax, curves.sel(split=part))
        ax.set_ylabel(label(curves, f"force RMSE, {word}"))
        ax.set_xlabel("Epoch")
    _ratios(axes[2], curves.sel(split="valid"))
    for ax, text in zip(axes, "ABC", strict=True):
        letter(ax, text)
    size = f"{ds.architecture.values[0]}, {int(ds.n_parameters[0]):,} parameters"
    axes[0].set_title(size, fontsize=6.5, color="0.35", loc="right")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), handlelength=3)
    return figure


def _learning(ax: Axes, curves: xr.DataArray) -> None:
    epoch = curves.epoch.values + (1 - curves.epoch.values[0])
    frame_points(ax, "y", curves.values)
    for role in curves.role.values.tolist():
        look, values = ROLE_LOOKS[role], curves.sel(role=role).transpose("seed", "epoch")
        ax.plot(epoch, values.values.T, color=look.color, linewidth=0.5, alpha=0.35)
        mean = over_seeds(values)
        seeds = values.notnull().any("epoch").sum()
        common = mean["mean"].where(mean["n"] == seeds)
        ax.plot(
            epoch,
            common,
            color=look.color,
            linestyle=look.linestyle,
            linewidth=1.7,
            label=look.label,
        )
    ax.set_xlim(1, max(epoch[-1], 2))
    log_ticks(ax, "x")
    log_ticks(ax, "y")


def _ratios(ax: Axes, curves: xr.DataArray) -> None:
    """Draw the student's validation error over each control's at equal epoch, paired by seed."""
    student = np.log(curves.sel(role="student"))
    ax.axhline(1, color="0.3", linewidth=0.8)
    for role in [name for name in curves.role.values.tolist() if name != "student"]:
        look = ROLE_LOOKS[role]
        logs = log_binned(student - np.log(curves.sel(role=role))).transpose("seed", "epoch")
        logs = logs.dropna("epoch")
        if not logs.size:
            continue
        ax.plot(logs.epoch, np.exp(logs.T), color=look.color, linewidth=0.5, alpha=0.35)
        factor = t_interval(logs.mean("epoch")).map(np.exp)
        words = f"÷ {look.label}: {factor.value:.2f}"
        if np.isfinite(factor.low):
            words += f" [{factor.low:.2f}, {factor.high:.2f}]"
        mean = np.exp(logs.mean("seed"))
        style = {"color": look.color, "linestyle": look.linestyle, "linewidth": 1.5}
        ax.plot(logs.epoch, mean, label=words, **style)
        ax.axhline(factor.value, color=look.color, linewidth=0.6, alpha=0.6)
    ax.set_xlim(1, max(curves.epoch.size, 2))
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.35 * (high - low))
    ax.set_xlabel("Epoch")
    ax.set_ylabel("Ratio of validation force RMSE")
    ax.legend(loc="upper left", title="student", fontsize=6, title_fontsize=6, alignment="left")
    log_ticks(ax, "x")
