"""Style of every figure: sizes, fonts, one color and marker per role, labels with units.

Figures are drawn inside `style()`, without pyplot, so that matplotlib's global state stays as it
is. `recipe` declares the variables that a figure needs; only those are stored beside it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter, NullLocator

from kdlib.claims.statistics import over_seeds
from kdlib.errors import InputError
from kdlib.results import schema
from kdlib.results.schema import ROLE_NAMES

#: Widths of a figure in a two-column journal, inch.
ONE_COLUMN, TWO_COLUMNS = 3.35, 7.0

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "kdlib",
}


@dataclass(frozen=True)
class Look:
    """Appearance of one role, backend or phase in every figure."""

    label: str
    """Name in legends."""
    color: str
    """Color from a palette for the color-blind."""
    marker: str = "o"
    """Second signal beside the color, like ``linestyle``, for print in gray."""
    linestyle: str | tuple[int, tuple[int, ...]] = "-"
    nudge: int = 0
    """Steps to the side, so that intervals of roles at one cost do not hide each other."""


#: Okabe & Ito's palette; a marker and a line style of its own for each role.
ROLE_LOOKS = {
    role: Look(ROLE_NAMES[role], *look)
    for role, look in {
        "teacher": ("#000000", "*"),
        "student": ("#0072B2", "o"),
        "control": ("#D55E00", "s", "--", -1),
        "matched_control": ("#E69F00", "^", "-.", 1),
        "same_size_student": ("#56B4E9", "D", (0, (5, 1))),
        "born_again": ("#009E73", "P"),
        "born_again_control": ("#CC79A7", "X", "--"),
        "total_energy_control": ("#8C6D31", "v", ":"),
    }.items()
}
#: Roles in the figures of the paper.
COMPARED = ("teacher", "student", "control", "matched_control")
WEIGHT_NAMES = {
    "weight_energy": "weight of the energy error, w_E",
    "weight_force": "weight of the force error, w_F",
    "weight_atomic_energy": "weight of the atomic-energy error, w_A",
}
EXPERIMENT = Look("experiment", "#6E6E6E", "", ":")
#: Backends are not roles: neutral gray and a color that no role has; filled and open markers.
BACKEND_LOOKS = {
    "stock": Look("stock hippynn", "#4D4D4D", "o"),
    "hippynn": Look("hippynn's layers", "#9E7B3C", "s", "-."),
    "fused": Look("fused kernels", "#882255", "o", "--"),
}
COMPONENT_LOOKS = {
    "total": Look("whole step", "#CC6677"),
    "neighbor_list": Look("neighbor list", "#DDCC77"),
    "model": Look("model", "#44AA99"),
    "integrator": Look("integrator and overhead", "#BBBBBB"),
}
#: Tol's muted palette.
PHASE_LOOKS = {
    "liquid": Look("liquid", "#332288", "o"),
    "melting": Look("melting", "#88CCEE", "D"),
    "fcc": Look("fcc", "#117733", "s"),
    "vacancy": Look("vacancy", "#999933", "v"),
    "bcc": Look("bcc", "#CC6677", "^"),
    "hcp": Look("hcp", "#AA4499", "P"),
}
# Filled markers: points are drawn without edges.
_OTHER_PHASES = (("#777777", "X"), ("#0077BB", "p"), ("#EE7733", "h"), ("#009988", "<"))

_UNITS = {
    "1": "",
    "Angstrom": "Å",
    "eV/Angstrom": "eV/Å",
    "Angstrom^2/fs": "Å²/fs",
    "us/atom/step": "µs/atom/step",
    "g/cm3": "g/cm³",
}
_SCALES = {("eV/atom", "meV/atom"): 1000.0, ("eV", "meV"): 1000.0, ("MB", "GB"): 1e-3}


class Drawing(Figure):
    """A figure that notebooks display without pyplot and its list of open figures."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        with style():
            self.savefig(buffer, format="png", dpi=130)
        return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Apply the package's matplotlib settings and restore the user's afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def canvas(width: float, height: float, **subplots: Any) -> tuple[Figure, Any]:
    """Make a figure (inch) with axes by `Figure.subplots` or, with mosaic, `subplot_mosaic`."""
    figure = Drawing(figsize=(width, height))
    FigureCanvasAgg(figure)
    if "mosaic" in subplots:
        return figure, figure.subplot_mosaic(**subplots)
    return figure, figure.subplots(**subplots)


def phase_look(phase: str) -> Look:
    """Look of a phase; that of an unknown phase follows from its name."""
    if phase in PHASE_LOOKS:
        return PHASE_LOOKS[phase]
    color, marker = _OTHER_PHASES[sum(phase.encode()) % len(_OTHER_PHASES)]
    return Look(phase, color, marker)


def in_units(array: xr.DataArray, units: str) -> xr.DataArray:
    """Array in another unit, e.g. energies per atom in meV; InputError if no factor is known."""
    found = array.attrs.get("units")
    if found == units:
        return array
    if (found, units) not in _SCALES:
        raise InputError(
            f"variable {array.name!r} is in {found!r} and cannot be drawn in {units!r}"
        )
    return (array * _SCALES[found, units]).assign_attrs(array.attrs, units=units)


def label(array: xr.DataArray, words: str = "") -> str:
    """Axis label with its unit; the words default to the variable's long name."""
    unit = array.attrs["units"]
    words = words or array.attrs["long_name"]
    unit = _UNITS.get(unit, unit)
    words = words if words.startswith("g(r)") else words[0].upper() + words[1:]
    return f"{words} ({unit})" if unit else words


def letter(ax: Axes, text: str) -> None:
    """Panel letter above the upper left corner."""
    ax.set_title(text, loc="left", fontweight="bold", fontsize=9)


def log_ticks(ax: Axes, axis: str) -> None:
    """Make an axis logarithmic with plain numbers as ticks, whatever its range."""
    getattr(ax, f"set_{axis}scale")("log")
    low, high = getattr(ax, f"get_{axis}lim")()
    if high / low < 2.5:
        found = MaxNLocator(5).tick_values(low, high)
    else:
        steps = (1, 2, 5) if high / low < 300 else (1,)
        steps = (1, 1.5, 2, 3, 4, 6, 8) if high / low < 10 else steps
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        found = np.array([step * 10.0**decade for decade in decades for step in steps])
    ticks = [float(tick) for tick in found if low <= tick <= high]
    chosen = getattr(ax, f"{axis}axis")
    chosen.set_major_locator(FixedLocator(ticks))
    chosen.set_major_formatter(FixedFormatter([_plain(tick) for tick in ticks]))
    chosen.set_minor_formatter(NullFormatter())
    if high / low < 2.5:
        chosen.set_minor_locator(NullLocator())


def _plain(number: float) -> str:
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if number >= factor * 0.9999:
            return f"{number / factor:.4g}{suffix}"
    return f"{number:.4g}"


def runs(ax: Axes, x: xr.DataArray, y: xr.DataArray, look: Look, *, filled: bool = True) -> None:
    """Draw the geometric mean over seeds with t-intervals, and every seed as a faint point.

    ``x(architecture)`` is a cost or capacity, ``y(architecture, seed)`` an error.
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
    """Move positions by steps of 1.3 % of the axis, whose limits must be set before."""
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
    """Draw a horizontal line at the geometric mean over seeds, with its interval as a band."""
    mean = over_seeds(values)
    if not np.isfinite(mean["mean"]):
        return
    ax.axhline(float(mean["mean"]), color=look.color, linewidth=1, zorder=1.5)
    if np.isfinite(mean["low"]):
        ax.axhspan(
            float(mean["low"]), float(mean["high"]), color=look.color, alpha=0.09, linewidth=0
        )


def frame_points(ax: Axes, axis: str, values: np.ndarray, margin: float = 0.12) -> None:
    """Set limits of a logarithmic axis from the data points alone.

    With two seeds an interval can span decades; it may leave the axes, the points may not.
    """
    finite = values[np.isfinite(values) & (values > 0)]
    if finite.size:
        low, high = np.log(finite.min()), np.log(finite.max())
        pad = max(margin * (high - low), 0.08)
        getattr(ax, f"set_{axis}lim")(np.exp(low - pad), np.exp(high + pad))
    else:
        getattr(ax, f"set_{axis}lim")(0.1, 1)


def largest(values: xr.DataArray) -> xr.DataArray:
    """Values over seeds of the largest architecture that has any."""
    present = values.notnull().any([d for d in values.dims if d != "architecture"])
    return values.isel(architecture=int(present.values.nonzero()[0][-1]))


def role_legend(
    figure: Figure, ds: xr.Dataset, *, backends: bool = False, floor: bool = False
) -> None:
    """Draw one legend below the panels."""
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
        words = "teachers' interval; noise floor of g(r)"
        handles.append(Patch(color="0.5", alpha=0.2, label=words))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))


def ordered_phases(names: xr.DataArray) -> list[str]:
    """Phases that occur, the known ones in a fixed order first."""
    present = set(names.values.tolist())
    return [p for p in PHASE_LOOKS if p in present] + sorted(present - set(PHASE_LOOKS))


def by_phase(ax: Axes, x: xr.DataArray, y: xr.DataArray, phase: xr.DataArray) -> None:
    """Plot one variable against another, with a color and a marker for each phase."""
    for name in ordered_phases(phase):
        look, here = phase_look(name), (phase == name).values
        ax.scatter(
            x.values[here],
            y.values[here],
            s=7,
            color=look.color,
            marker=look.marker,
            alpha=0.65,
            linewidths=0,
            label=look.label,
            rasterized=True,
        )
    ax.set_xlabel(label(x))
    ax.set_ylabel(label(y))


Draw = Callable[[xr.Dataset], Figure]
_GRID = ("role", "architecture", "seed")


def recipe(
    *needs: str,
    optional: tuple[str, ...] = (),
    labels: Mapping[str, tuple[str, ...]] | None = None,
    narrow: Callable[[xr.Dataset], xr.Dataset] = lambda ds: ds,
) -> Callable[[Draw], Draw]:
    """Decorate a drawing function to select its data first and draw in the common style.

    Its attribute ``select`` reduces a Dataset to the data that are drawn.

    Parameters
    ----------
    *needs
        Required variables.
    optional
        Variables drawn if present.
    labels
        Labels to keep along a dimension, e.g. ``{"split": ("test",)}``; absent ones are ignored.
    narrow
        Further reduction, e.g. to one architecture. It must be idempotent.
    """

    def select(ds: xr.Dataset) -> xr.Dataset:
        for name in needs:
            if name not in ds.variables:
                source = ds.encoding.get("source", "dataset")
                raise InputError(f"{source}: variable {name!r} is missing for this figure")
        ds = ds[[name for name in (*needs, *optional) if name in ds.variables]]
        for dim, wanted in (labels or {}).items():
            if dim in ds.dims:
                present = ds[dim].values.tolist()
                ds = ds.sel({dim: [name for name in wanted if name in present]})
        return schema.describe(narrow(_without_empty(ds)), "figure")

    def decorate(draw: Draw) -> Draw:
        @wraps(draw)
        def drawn(ds: xr.Dataset) -> Figure:
            with style():
                figure = draw(select(ds))
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # the layout is found once; saving only paints
            return figure

        drawn.select = select  # type: ignore[attr-defined]
        return drawn

    return decorate


def _without_empty(ds: xr.Dataset) -> xr.Dataset:
    """Drop roles, architectures, seeds and epochs that no variable has a value for."""
    for dim in (*_GRID, "epoch"):
        if dim in ds.dims:
            data = [v for v in ds.data_vars.values() if dim in v.dims and v.dtype.kind == "f"]
            if data:
                others = [v.notnull().any([d for d in v.dims if d != dim]) for v in data]
                kept = xr.concat(others, "variable").any("variable")
                ds = ds.isel({dim: kept.values.nonzero()[0]})
    return ds
