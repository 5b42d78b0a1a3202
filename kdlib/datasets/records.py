"""Records about the DFT data that the package holds beside the frames."""

from importlib import resources

import xarray as xr

from kdlib import results
from kdlib.errors import InputError

#: Name -> file beside the frames, in full: a step that names a file depends on its content.
RECORDS = {
    "accuracy": "al-pbe-accuracy.nc",  # labels against tighter DFT
    "physics": "al-pbe-physics.nc",  # crystals, elastic constants and vacancy by DFT
    "active": "al-pbe-active.nc",  # rounds of active learning and what they did to the error
}


def record(name: str) -> xr.Dataset | None:
    """Record by its name in :data:`RECORDS`; None if the package does not hold it."""
    if name not in RECORDS:
        raise InputError(f"{name}: none of the records {', '.join(RECORDS)}")
    path = resources.files("kdlib") / "datasets" / "data" / RECORDS[name]
    if not path.is_file():
        return None
    with resources.as_file(path) as file:
        return results.load(file)
