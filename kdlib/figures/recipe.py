"""What a figure needs of a Dataset, so that only that is stored beside it."""

from collections.abc import Callable, Mapping
from functools import wraps

import xarray as xr
from matplotlib.figure import Figure

from kdlib.results import schema
from kdlib.errors import InputError
from kdlib.figures.style import style

Draw = Callable[[xr.Dataset], Figure]
_GRID = ("role", "architecture", "seed")


def recipe(
    *needs: str,
    optional: tuple[str, ...] = (),
    labels: Mapping[str, tuple[str, ...]] | None = None,
    narrow: Callable[[xr.Dataset], xr.Dataset] = lambda ds: ds,
) -> Callable[[Draw], Draw]:
    """Make a drawing function select its data first and draw in the common style.

    Parameters
    ----------
    *needs
        Variables without which there is no figure.
    optional
        Variables drawn if they are there.
    labels
        Labels to keep along a dimension, e.g. ``{"split": ("test",)}``; absent ones are ignored.
    narrow
        Further reduction, e.g. to one architecture. Must change nothing the second time.

    Returns
    -------
    A decorator. The decorated function takes any Dataset that holds the variables; its attribute
    ``select`` reduces a Dataset to what is drawn.
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
                figure.set_layout_engine("none")  # found once; saving only paints
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
