"""What the package keeps about its DFT data, beside the frames themselves."""

from importlib import resources

import xarray as xr

from kdlib import results
from kdlib.errors import InputError

#: Name -> what it is; each is a NetCDF file beside the frames.
RECORDS = {
    "accuracy": "labels against tighter DFT",
    "physics": "crystals, elastic constants and vacancy by DFT",
    "active": "rounds of active learning",
}


def record(name: str) -> xr.Dataset | None:
    """One of the records, or None where the package does not hold it.

    Parameters
    ----------
    name
        A key of :data:`RECORDS`.
    """
    if name not in RECORDS:
        raise InputError(f"{name}: none of the records {', '.join(RECORDS)}")
    path = resources.files("kdlib") / "data" / f"al-pbe-{name}.nc"
    if not path.is_file():
        return None
    with resources.as_file(path) as file:
        return results.load(file)
