"""Fig. 1: the workflow from DFT data to the student, and the network that all models share."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from kdlib.claims.paper import WEIGHTS
from kdlib.figures.style import ROLE_LOOKS, TWO_COLUMNS, WEIGHT_NAMES, canvas, recipe

_GRAY = "0.35"
_DATA = (1.5, 24, 18, 24.5)
_TEACHER = (30, 33.5, 19, 15)
_LABELS = (58.5, 33.5, 15, 15)
_STUDENT = (83, 36, 15.5, 12.5)
_CONTROL = (83, 21.5, 15.5, 12.5)

Box = tuple[float, float, float, float]


def schematic_data(
    weights: Mapping[str, Sequence[float]] = WEIGHTS,
    teacher: str = "128-40-4",
    student: str = "16-8-1",
) -> xr.Dataset:
    """Dataset of the numbers in Fig. 1.

    Parameters
    ----------
    weights
        Role (teacher, student, control) -> (w_E, w_F, w_A); by default those of appendix A.1.
    teacher, student
        Architectures as features-sensitivities-atom layers; by default the paper's.
    """
    table = np.array([weights[role] for role in WEIGHTS], dtype=float)
    ds = xr.Dataset(
        {
            name: ("role", table[:, column], {"units": "1", "long_name": words})
            for column, (name, words) in enumerate(WEIGHT_NAMES.items())
        },
        {"role": ("role", list(WEIGHTS), {"long_name": "role of the model"})},
    )
    size = {"long_name": "features-sensitivities-atom layers"}
    ds["architecture"] = ("role", [teacher, student, student], size)
    return ds.assign_attrs(kind="figure")


@recipe(*WEIGHT_NAMES, "architecture")
def fig1_schematic(ds: xr.Dataset) -> Figure:
    """Fig. 1: DFT data, teacher, atomic energies, student and control; below, the HIP-NN block."""
    figure, ax = canvas(TWO_COLUMNS, 3.5)
    ax.set(xlim=(0, 100), ylim=(0, 49.5), aspect="equal")
    ax.set_axis_off()
    _draw_data(ax)
    _draw_labels(ax)
    for role, box in (("teacher", _TEACHER), ("student", _STUDENT), ("control", _CONTROL)):
        _draw_model(ax, box, role, str(ds.architecture.sel(role=role).values))
    _draw_flow(ax, ds)
    _draw_network(ax)
    return figure


def _frame(ax: Axes, box: Box, color: str, title: str, face: str = "white") -> None:
    x, y, width, height = box
    ax.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=1",
            edgecolor=color,
            facecolor=face,
            linewidth=1.2,
        )
    )
    ax.text(x + width / 2, y + height - 1, title, ha="center", va="top", color=color, weight="bold")


def _arrow(ax: Axes, *points: tuple[float, float], color: str = _GRAY) -> None:
    """Arrow along a polyline."""
    x, y = zip(*points, strict=True)
    ax.plot(x[:-1], y[:-1], color=color, linewidth=1.2, solid_capstyle="butt")
    ax.annotate(
        "",
        points[-1],
        points[-2],
        arrowprops={"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0, "lw": 1.2},
    )


def _cluster(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Atom positions of a small disordered cell in a box, and a random number per atom."""
    rng = np.random.default_rng(5)
    x, y, width, height = box
    sites = np.array([(i + 0.5 * (j % 2), 0.87 * j) for j in range(4) for i in range(4)])
    sites = (sites - sites.mean(axis=0)) / np.ptp(sites, axis=0).max()
    sites = sites + rng.normal(scale=0.03, size=sites.shape)
    center = np.array([x + width / 2, y + height / 2])
    return center + sites * 0.8 * min(width, height), rng.normal(size=len(sites))


def _draw_data(ax: Axes) -> None:
    _frame(ax, _DATA, _GRAY, "DFT data")
    x, y, width, height = _DATA
    sites, _ = _cluster((x, y + 5.5, width, height - 8))
    rng = np.random.default_rng(8)
    for site in sites:
        ax.add_patch(Circle(site, 0.95, facecolor="0.75", edgecolor="0.4", linewidth=0.5))
        angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(1.6, 3.0)
        end = site + size * np.array([np.cos(angle), np.sin(angle)])
        look = {"arrowstyle": "->", "color": "0.2", "lw": 0.7, "mutation_scale": 6, "shrinkA": 0}
        ax.annotate("", end, site, arrowprops=look)
    words = r"$\{\mathbf{R}_i, Z_i\} \rightarrow \{E, \mathbf{F}_i\}$"
    ax.text(x + width / 2, y + 2.2, words, ha="center", va="center", fontsize=8)


def _draw_labels(ax: Axes) -> None:
    _frame(ax, _LABELS, _GRAY, "atomic energies")
    x, y, width, height = _LABELS
    sites, energies = _cluster((x, y + 2.4, width, height - 4.6))
    norm = Normalize(-2, 2)
    for site, energy in zip(sites, energies, strict=True):
        color = colormaps["viridis"](norm(energy))
        ax.add_patch(Circle(site, 0.85, facecolor=color, edgecolor="0.3", linewidth=0.4))
    words = r"$\varepsilon_i^{\mathcal{T}}$, one per atom"
    ax.text(x + width / 2, y + 1.7, words, ha="center", va="center", fontsize=7)


def _draw_model(ax: Axes, box: Box, role: str, architecture: str) -> None:
    """Draw a frame with a small network, wide and deep for the teacher."""
    look = ROLE_LOOKS[role]
    _frame(ax, box, look.color, look.label)
    x, y, width, height = box
    features, sensitivities, layers = architecture.split("-")[:3]
    shape = [3, 6, 6, 6, 6, 1] if role == "teacher" else [3, 3, 1]
    columns = np.linspace(x + 0.2 * width, x + 0.8 * width, len(shape))
    middle, step = y + 0.5 * height, 1.25 if role == "teacher" else 1.5
    nodes = [
        [(column, middle + step * (k - (n - 1) / 2)) for k in range(n)]
        for column, n in zip(columns, shape, strict=True)
    ]
    for left, right in zip(nodes, nodes[1:], strict=False):
        for a in left:
            for b in right:
                ax.plot(*zip(a, b, strict=True), color=look.color, linewidth=0.3, alpha=0.5)
    for node in [n for column in nodes for n in column]:
        ax.add_patch(Circle(node, 0.42, color=look.color, linewidth=0))
    plural = "s" if layers != "1" else ""
    words = f"{features} features, {sensitivities} sens.,\n{layers} atom layer{plural}"
    ax.text(x + width / 2, y + 0.6, words, ha="center", va="bottom", fontsize=5.8, color=look.color)


def _draw_flow(ax: Axes, ds: xr.Dataset) -> None:
    """Arrows with the weights of each loss term."""

    def weights(role: str) -> str:
        energy, force = (float(ds[f"weight_{n}"].sel(role=role)) for n in ("energy", "force"))
        return f"$w_E={energy:g}$, $w_F={force:g}$"

    def caption(x: float, y: float, text: str, color: str) -> None:
        ax.text(x, y, text, ha="center", va="bottom", fontsize=6.5, color=color)

    student, control = ROLE_LOOKS["student"].color, ROLE_LOOKS["control"].color
    right, middle = _DATA[0] + _DATA[2], _TEACHER[1] + _TEACHER[3] / 2
    _arrow(ax, (right, middle), (_TEACHER[0], middle))
    caption((right + _TEACHER[0]) / 2, middle + 0.6, weights("teacher").replace(", ", "\n"), _GRAY)
    _arrow(ax, (_TEACHER[0] + _TEACHER[2], middle), (_LABELS[0], middle))
    caption((_TEACHER[0] + _TEACHER[2] + _LABELS[0]) / 2, middle + 0.6, "predicts", _GRAY)
    upper = _STUDENT[1] + 0.6 * _STUDENT[3]
    _arrow(ax, (_LABELS[0] + _LABELS[2], upper), (_STUDENT[0], upper), color=student)
    w_a = float(ds.weight_atomic_energy.sel(role="student"))
    caption((_LABELS[0] + _LABELS[2] + _STUDENT[0]) / 2, upper + 0.6, f"$w_A={w_a:g}$", student)
    lower, turn = 30.2, _LABELS[0] + _LABELS[2] + 5
    _arrow(
        ax,
        (right, lower),
        (turn, lower),
        (turn, _STUDENT[1] + 2.5),
        (_STUDENT[0], _STUDENT[1] + 2.5),
        color=student,
    )
    caption(51, lower + 0.5, f"same data: {weights('student')}", student)
    bottom = _CONTROL[1] + 0.45 * _CONTROL[3]
    _arrow(ax, (right, bottom), (_CONTROL[0], bottom), color=control)
    caption(51, bottom + 0.5, f"same data, no labels: {weights('control')}", control)


def _draw_network(ax: Axes) -> None:
    """Draw the HIP-NN block, the network of every model above."""
    ax.add_patch(
        FancyBboxPatch(
            (1.5, 1),
            97,
            15.5,
            boxstyle="round,pad=0,rounding_size=1",
            facecolor="0.965",
            edgecolor="none",
        )
    )
    ax.text(3, 15.4, "HIP-NN, for every model", weight="bold", va="top", color=_GRAY)
    blocks = (
        (14.5, "input", "species (one-hot)\npair vectors $\\mathbf{r}_{ij}$"),
        (23, "interaction layer", r"$\sum_j s_\nu(r_{ij})\,[1,\ \hat{\mathbf{r}}_{ij}]\,z_j$"
         "\nmessages from neighbors"),
        (17, "atom layers", "dense, with shortcut\n$\\times\\ n$"),
        (12.5, "readout", "$\\varepsilon_i$ linear in\nthe features"),
        (14.5, "energy, forces", "$E=\\sum_i \\varepsilon_i$\n"
         "$\\mathbf{F}_i=-\\partial E/\\partial\\mathbf{r}_i$"),
    )  # fmt: skip
    x, gap = 3.0, 3.0
    for number, (width, title, words) in enumerate(blocks):
        _frame(ax, (x, 2.2, width, 10.6), _GRAY, title)
        ax.text(x + width / 2, 5.9, words, ha="center", va="center", fontsize=6.8)
        if number:
            _arrow(ax, (x - gap, 7.5), (x, 7.5))
        x += width + gap
