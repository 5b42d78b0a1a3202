"""Every figure of the paper as a function from a Dataset to a figure.

Each function is called by the name of its file, draws in the common style and needs nothing but
the Dataset; `save` stores that Dataset beside the picture, so that `redraw` can make all pictures
again in seconds, without models.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from kdlib import results
from kdlib.errors import InputError
from kdlib.figures.benchmark import benchmark
from kdlib.figures.benchmark_gpu import benchmark_gpu
from kdlib.figures.born_again import born_again
from kdlib.figures.claims import claims
from kdlib.figures.cost_accuracy import cost_accuracy, cost_accuracy_data
from kdlib.figures.crystals import crystals
from kdlib.figures.data import data
from kdlib.figures.distilled import distilled
from kdlib.figures.fig1_schematic import fig1_schematic, schematic_data
from kdlib.figures.fig2_pareto import fig2_pareto
from kdlib.figures.fig3_capacity import fig3_capacity
from kdlib.figures.fig4_dynamics import fig4_dynamics
from kdlib.figures.fig5_cost import fig5_cost, step_breakdown
from kdlib.figures.parity import parity
from kdlib.figures.rdf import rdf
from kdlib.figures.reference import reference
from kdlib.figures.robustness import robustness
from kdlib.figures.style import ROLE_LOOKS, style
from kdlib.figures.table1_schedule import schedule_data, table1_schedule
from kdlib.files import locked, replacing
from kdlib.results import schema

__all__ = [
    "REDRAW",
    "ROLE_LOOKS",
    "benchmark",
    "benchmark_gpu",
    "born_again",
    "claims",
    "cost_accuracy",
    "cost_accuracy_data",
    "crystals",
    "data",
    "distilled",
    "fig1_schematic",
    "fig2_pareto",
    "fig3_capacity",
    "fig4_dynamics",
    "fig5_cost",
    "parity",
    "publish",
    "rdf",
    "redraw",
    "reference",
    "robustness",
    "save",
    "schedule_data",
    "schematic_data",
    "step_breakdown",
    "style",
    "table1_schedule",
]

#: Name of a figure's files -> the function that draws it.
REDRAW: dict[str, Callable[[xr.Dataset], Figure]] = {
    draw.__name__: draw
    for draw in (
        fig1_schematic,
        fig2_pareto,
        fig3_capacity,
        fig4_dynamics,
        fig5_cost,
        table1_schedule,
        born_again,
        rdf,
        parity,
        data,
        step_breakdown,
        claims,
        benchmark,
        benchmark_gpu,
        cost_accuracy,
        crystals,
        reference,
        robustness,
        distilled,
    )
}


def save(figure: Figure, ds: xr.Dataset, folder: str | os.PathLike[str], name: str) -> list[Path]:
    """Write the figure ``REDRAW[name](ds)`` as PNG (300 dpi) and SVG, with its data as NetCDF.

    The files go to ``figures`` in the results folder; their paths are returned. The data are the
    part of ``ds`` that the figure uses.
    """
    if name not in REDRAW:
        raise InputError(f"unknown figure {name!r}; known are {', '.join(sorted(REDRAW))}")
    target = Path(folder) / "figures"
    drawn = REDRAW[name].select(ds)  # type: ignore[attr-defined]
    data_path = results.save(drawn, target / f"{name}.nc", kind="figure", figure=name)
    return [*_paint(figure, target / name), data_path]


def publish(
    folder: str | os.PathLike[str],
    found: Mapping[str, xr.Dataset] | None = None,
    drawn: Mapping[str, tuple[Figure, xr.Dataset]] | None = None,
    **about: Any,
) -> None:
    """Write all that a notebook has to show: its result files, and its figures with their data.

    Parameters
    ----------
    folder
        Results folder.
    found
        File name -> Dataset. Its kind is the one that the name begins with, as in
        ``accuracy_teacher.nc``, or else the one in its attributes, or else ``series``.
    drawn
        Name of a figure -> the figure, and the Dataset that it was drawn from.
    about
        Attributes of every result file on its origin, e.g. ``profile`` and ``split_sha256``.
    """
    for name, ds in (found or {}).items():
        named = next((kind for kind in schema.KINDS if name.startswith(kind)), "")
        kind = named or str(ds.attrs.get("kind", "series"))
        results.save(ds, Path(folder) / name, kind=kind, **about)
    for name, (figure, ds) in (drawn or {}).items():
        save(figure, ds, folder, name)


def redraw(folder: str | os.PathLike[str], only: str = "") -> list[Path]:
    """Redraw the figures of a results folder, or ``only`` one, from the NetCDF files beside them.

    Returns the paths of the pictures.
    """
    target = Path(folder) / "figures"
    paths = [target / f"{only}.nc"] if only else sorted(target.glob("*.nc"))
    if not paths or not paths[0].is_file():
        raise InputError(f"{target}: holds no {only or 'figure'}.nc to draw from")
    written = []
    with locked(folder):
        for path in paths:
            if path.stem not in REDRAW:
                raise InputError(f"{path}: no function draws a figure of this name")
            written += _paint(REDRAW[path.stem](results.load(path, "figure")), target / path.stem)
    return written


def _paint(figure: Figure, stem: Path) -> list[Path]:
    """Write PNG and SVG whole or not at all, the same bytes for the same data."""
    written = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        path = stem.with_suffix(suffix)
        with replacing(path) as part, style():
            figure.savefig(part, format=suffix[1:], dpi=300, metadata=metadata)
            if suffix == ".svg":
                text = part.read_text(encoding="utf-8")
                part.write_text(_with_numbered_clips(text), encoding="utf-8")
        written.append(path)
    return written


def _with_numbered_clips(svg: str) -> str:
    """Text of a picture whose clip paths are named in order.

    matplotlib names them by the last bits of their boxes, which the solver of the layout does not
    always repeat.
    """
    names: dict[str, str] = {}
    return re.sub(
        r'(?<=[#"])p[0-9a-f]{10}(?=[")])',
        lambda found: names.setdefault(found[0], f"clip{len(names)}"),
        svg,
    )
