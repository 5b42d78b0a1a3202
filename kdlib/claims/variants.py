"""The title claim under other choices: ratios of students to controls for each protocol."""

import numpy as np
import xarray as xr

from kdlib.claims.index import markdown, unbroken
from kdlib.claims.statistics import Interval, ratio
from kdlib.results.schema import ROLE_NAMES

#: What students are compared with.
OTHERS = ("control", "matched_control")


def compared(ds: xr.Dataset, variant: str, architecture: str, other: str) -> Interval:
    """Force RMSE of students over that of others on the test part, paired by seed.

    ``ds`` holds ``force_rmse(variant, role, architecture, seed, split)``.
    """
    cell = ds.force_rmse.sel(variant=variant, architecture=architecture, split="test")
    return ratio(cell.sel(role="student").values, cell.sel(role=other).values)


def cells(ds: xr.Dataset) -> list[tuple[str, str]]:
    """Variants and architectures that have a pair of student and control."""
    test = ds.force_rmse.sel(split="test")
    pairs = (test.sel(role="student") / test.sel(role=list(OTHERS))).notnull().any(["seed", "role"])
    pairs = pairs.transpose("variant", "architecture")
    return [
        (str(pairs.variant.values[i]), str(pairs.architecture.values[j]))
        for i, j in np.argwhere(pairs.values)
    ]


def variants_table(ds: xr.Dataset) -> str:
    """Return a Markdown table with a row for each protocol and architecture."""
    rows = [("protocol", "student", *(f"over {ROLE_NAMES[other]} [95 %]" for other in OTHERS))]
    for variant, architecture in cells(ds):
        found = (compared(ds, variant, architecture, other) for other in OTHERS)
        rows.append((variant, architecture, *(unbroken(interval.text()) for interval in found)))
    return markdown(rows)
