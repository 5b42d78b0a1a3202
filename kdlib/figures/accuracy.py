"""Figures of accuracy: against cost (Fig. 2), against capacity (Fig. 3), and Born-Again."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdlib.claims.statistics import front, over_seeds, ratio, step_time
from kdlib.figures.style import (
    BACKEND_LOOKS,
    ROLE_LOOKS,
    TWO_COLUMNS,
    canvas,
    frame_points,
    in_units,
    label,
    letter,
    line,
    log_ticks,
    recipe,
    reference,
    runs,
)

_COMPARED = ("teacher", "student", "control", "matched_control")
_BORN_AGAIN = ("teacher", "same_size_student", "born_again", "born_again_control")


@recipe(
    "force_rmse",
    "step_time",
    "n_parameters",
    optional=("memory_per_atom",),
    labels={"split": ("test",), "role": _COMPARED, "component": ("total",)},
)
def fig2_pareto(ds: xr.Dataset) -> Figure:
    """Fig. 2: force error against time per MD step (A) and memory (B), with Pareto fronts.

    Parameters
    ----------
    ds
        Accuracy and speed, combined: ``force_rmse`` (eV/Angstrom), ``step_time`` (us/atom/step),
        ``memory_per_atom`` (kB/atom).
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
    _legend(figure, ds, backends=True)
    return figure


def _tradeoff(ax: Axes, ds: xr.Dataset, cost: xr.DataArray) -> None:
    """Error against cost for every role and backend; a stepped line is the Pareto front."""
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


@recipe(
    "force_rmse",
    "energy_rmse",
    "n_parameters",
    optional=("rdf_error", "rdf_floor", "rdf_floor_teachers"),
    labels={"split": ("test",), "role": _COMPARED},
)
def fig3_capacity(ds: xr.Dataset) -> Figure:
    """Fig. 3: force error (A), energy error (B) and g(r) error (C) against model size.

    Parameters
    ----------
    ds
        Accuracy and g(r), combined: ``force_rmse`` (eV/Angstrom), ``energy_rmse`` (eV/atom),
        ``rdf_error`` (Angstrom), ``rdf_floor`` (Angstrom).
    """
    figure, axes = canvas(TWO_COLUMNS, 2.6, ncols=3)
    test = ds.sel(split="test")
    _against_size(axes[0], test, test.force_rmse, "force RMSE, test")
    _against_size(axes[1], test, in_units(test.energy_rmse, "meV/atom"), "energy RMSE, test")
    measured = "rdf_error" in ds and bool(ds.rdf_error.notnull().any())
    if measured:
        _against_size(axes[2], test, ds.rdf_error, "g(r) error vs teacher")
        _floor(axes[2], ds)
    else:
        axes[2].set_axis_off()
        axes[2].text(0.5, 0.5, "g(r) was not measured", ha="center", transform=axes[2].transAxes)
    for ax, text in zip(axes, "ABC", strict=True):
        letter(ax, text)
    _legend(figure, ds, floor=measured and "rdf_floor" in ds)
    return figure


def _against_size(ax: Axes, ds: xr.Dataset, error: xr.DataArray, words: str) -> None:
    frame_points(ax, "y", error.values)
    frame_points(ax, "x", ds.n_parameters.values.astype(float))
    for role in error.role.values.tolist():
        values = error.sel(role=role)
        if not values.notnull().any():  # the teacher has no error against itself
            continue
        if role == "teacher":
            reference(ax, _largest(values), ROLE_LOOKS[role])
            runs(ax, ds.n_parameters, values, ROLE_LOOKS[role])
        else:
            line(ax, ds.n_parameters, values, ROLE_LOOKS[role])
    ax.set_xlabel("Trainable parameters")
    ax.set_ylabel(label(error, words))
    log_ticks(ax, "x")
    log_ticks(ax, "y")


def _largest(values: xr.DataArray) -> xr.DataArray:
    """Values over seeds of the largest architecture that has any."""
    present = values.notnull().any([d for d in values.dims if d != "architecture"])
    return values.isel(architecture=int(present.values.nonzero()[0][-1]))


def _floor(ax: Axes, ds: xr.Dataset) -> None:
    """Shade what cannot be told from noise; open the axis down to it."""
    floors = [float(ds[n]) for n in ("rdf_floor", "rdf_floor_teachers") if n in ds]
    floors = [floor for floor in floors if np.isfinite(floor)]
    if not floors:
        return
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.8 * min(floors)), max(high, 1.2 * max(floors)))
    ax.axhspan(ax.get_ylim()[0], floors[0], color="0.5", alpha=0.2, linewidth=0, zorder=0)
    if len(floors) > 1:
        ax.axhline(floors[1], color="0.4", linestyle=":", linewidth=1, zorder=1)
    log_ticks(ax, "y")


@recipe("force_rmse", "energy_rmse", labels={"split": ("test",), "role": _BORN_AGAIN})
def born_again(ds: xr.Dataset) -> Figure:
    """Born-Again students beside their teacher, the static student and their own control.

    Grey lines join runs of one seed; the percentage is the paired change against the teacher.

    Parameters
    ----------
    ds
        Accuracy with ``force_rmse`` (eV/Angstrom) and ``energy_rmse`` (eV/atom).
    """
    figure, axes = canvas(TWO_COLUMNS, 2.9, ncols=2)
    name = str(_largest(ds.force_rmse.sel(role=["teacher"])).architecture.values)
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


def _legend(figure: Figure, ds: xr.Dataset, *, backends: bool = False, floor: bool = False) -> None:
    """One legend below the panels."""
    handles: list[Line2D | Patch] = [
        Line2D(
            [], [], color=look.color, marker=look.marker, linestyle=look.linestyle, label=look.label
        )
        for role in ds.role.values.tolist()
        for look in [ROLE_LOOKS[role]]
    ]
    if backends:
        for backend in ds.backend.values.tolist():
            look = BACKEND_LOOKS[backend]
            handle = Line2D([], [], color="0.3", marker="o", linestyle="none", label=look.label)
            handle.set_markerfacecolor("white" if backend == "fused" else "0.3")
            handles.append(handle)
    if floor:
        handles.append(Patch(color="0.5", alpha=0.2, label="noise floor"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
