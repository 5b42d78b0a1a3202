"""Rules that one variable of a result file has to follow."""

from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Variable:
    """One variable of a result file.

    Attributes
    ----------
    dims
        Dimensions in the order in which they are stored.
    units
        Unit as written to the file; ``"1"`` for pure numbers and ``""`` for text.
    long_name
        What the numbers mean, for axes and for readers of the file.
    optional
        Whether a file of this kind may lack the variable.
    positive
        Whether negative values break a rule.
    timing
        Whether the value depends on the machine and the moment, not only on the inputs.
    """

    dims: tuple[str, ...]
    units: str
    long_name: str
    optional: bool = False
    positive: bool = False
    timing: bool = False


def broken_rule(
    array: xr.DataArray, variable: Variable | None = None, labels: tuple[str, ...] = ()
) -> str:
    """Say which rule a variable breaks, as the end of a sentence; empty if none.

    Parameters
    ----------
    array
        The variable as it is.
    variable
        As it should be; without it only units, name and values are looked at.
    labels
        The only values allowed, if any are given.
    """
    text = _is_text(array)
    if array.dtype.kind not in "iuf" and not text:
        return f"has dtype {array.dtype}, but must hold numbers or text"
    if not array.attrs.get("long_name") or (not text and not array.attrs.get("units")):
        return "must say its units and long_name (schema.describe attaches those of the schema)"
    return (variable and _mismatch(array, variable, text)) or _bad_values(
        array, text, labels, positive=bool(variable and variable.positive)
    )


def _mismatch(array: xr.DataArray, variable: Variable, text: bool) -> str:
    if array.dims != variable.dims:
        return f"has dimensions {array.dims}, but must have {variable.dims}"
    if text != (not variable.units):
        return f"has dtype {array.dtype}, but must hold {'numbers' if text else 'text'}"
    if not text and array.attrs["units"] != variable.units:
        return f"is in {array.attrs['units']!r}, but must be in {variable.units!r}"
    return ""


def _bad_values(array: xr.DataArray, text: bool, labels: tuple[str, ...], *, positive: bool) -> str:
    values = np.ravel(array.values)
    if labels:
        unknown = sorted(set(values.tolist()) - set(labels))
        if unknown:
            return f"holds {unknown[0]!r}, but must be one of {', '.join(labels)}"
    if array.dims == (array.name,) and len(set(values.tolist())) < values.size:
        return "repeats a label, but labels of a dimension must be unique"
    if text:
        return ""
    if np.isinf(values).any():
        return "holds an infinite value, but a missing value is NaN"
    if positive and (values < 0).any():
        return f"holds {float(np.nanmin(values)):.4g}, but must not be negative"
    return ""


def _is_text(array: xr.DataArray) -> bool:
    if array.dtype.kind == "O":
        return all(isinstance(item, str) for item in np.ravel(array.values).tolist())
    return array.dtype.kind in "UT"
