"""Look of every figure: sizes, fonts, one colour and marker per role, labels with units.

Nothing here touches matplotlib's global state: figures are drawn inside `style()`, as objects of
their own, without pyplot.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter, NullLocator

from kdlib.errors import InputError
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
    """How one role, backend or phase appears in every figure.

    Attributes
    ----------
    label
        Name in legends.
    color
        From palettes that stay apart for the colour-blind.
    marker, linestyle
        Second signal beside the colour, for print in grey.
    nudge
        Steps to the side, so that intervals of roles at one cost do not hide each other.
    """

    label: str
    color: str
    marker: str = "o"
    linestyle: str | tuple[int, tuple[int, ...]] = "-"
    nudge: int = 0


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
        "shuffled": ("#999999", "<", ":"),
        "gauge_shifted": ("#5E4FA2", ">", ":"),
    }.items()
}
EXPERIMENT = Look("experiment", "#6E6E6E", "", ":")
#: Backends are no roles: neutral grey and a colour that no role has; filled and open markers.
BACKEND_LOOKS = {
    "stock": Look("stock hippynn", "#4D4D4D", "o"),
    "hippynn": Look("hippynn's layers", "#9E7B3C", "s", "-."),
    "fused": Look("fused kernels", "#882255", "o", "--"),
}
COMPONENT_LOOKS = {
    "neighbor_list": Look("neighbour list", "#DDCC77"),
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
    """A figure that shows itself in a notebook, without pyplot and its list of open figures."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        with style():
            self.savefig(buffer, format="png", dpi=130)
        return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Draw and save under the package's settings of matplotlib; they are restored afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def canvas(width: float, height: float, **subplots: Any) -> tuple[Figure, Any]:
    """Make a figure with its axes.

    Parameters
    ----------
    width, height
        Size, inch.
    **subplots
        Arguments of `Figure.subplots` or, with ``mosaic``, of `Figure.subplot_mosaic`.
    """
    figure = Drawing(figsize=(width, height))
    FigureCanvasAgg(figure)
    if "mosaic" in subplots:
        return figure, figure.subplot_mosaic(**subplots)
    return figure, figure.subplots(**subplots)


def phase_look(phase: str) -> Look:
    """Look of a phase; one of another dataset gets one that follows from its name."""
    if phase in PHASE_LOOKS:
        return PHASE_LOOKS[phase]
    color, marker = _OTHER_PHASES[sum(phase.encode()) % len(_OTHER_PHASES)]
    return Look(phase, color, marker)


def in_units(array: xr.DataArray, units: str) -> xr.DataArray:
    """Array in another unit, e.g. energies per atom in meV.

    Raises
    ------
    InputError
        No factor is known between the two.
    """
    found = array.attrs.get("units")
    if found == units:
        return array
    if (found, units) not in _SCALES:
        raise InputError(
            f"variable {array.name!r} is in {found!r} and cannot be drawn in {units!r}"
        )
    return (array * _SCALES[found, units]).assign_attrs(array.attrs, units=units)


def label(array: xr.DataArray, words: str = "") -> str:
    """Axis label: what and in which unit; the words default to the variable's long name."""
    unit = array.attrs["units"]
    words = words or array.attrs["long_name"]
    unit = _UNITS.get(unit, unit)
    words = words if words.startswith("g(r)") else words[0].upper() + words[1:]
    return f"{words} ({unit})" if unit else words


def letter(ax: Axes, text: str) -> None:
    """Panel letter above the upper left corner."""
    ax.set_title(text, loc="left", fontweight="bold", fontsize=9)


def log_ticks(ax: Axes, axis: str) -> None:
    """Logarithmic axis whose ticks are plain numbers, whatever its range."""
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
