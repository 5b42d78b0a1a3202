"""What an interrupted benchmark has measured: a second run goes on with the rest."""

from pathlib import Path

import xarray as xr

from kdlib import progress, results
from kdlib.benchmarks.side_by_side.table import with_ratios
from kdlib.results.files import provenance

#: What may differ between measurements that stand side by side.
_FREE = {"created"}


class Kept:
    """Measurements of a benchmark that has not ended, in a file beside its result.

    Times compare only if they were taken on one machine by the same code with the same settings.
    So measurements of anything else are not used, and overwritten.

    Parameters
    ----------
    out
        File of the result; ``NAME.part.nc`` lies beside it until it is there.
    settings
        What the times depend on besides machine, code and versions, as text.
    """

    def __init__(self, out: Path, settings: str) -> None:
        self.path = out.with_suffix(".part.nc")
        here = {name: value for name, value in provenance().items() if name not in _FREE}
        self._of = repr((settings, here))

    def read(self, fresh: xr.Dataset) -> xr.Dataset:
        """Return what was measured, or ``fresh`` where there is nothing to go on with."""
        if not self.path.is_file():
            return fresh
        ds = results.load(self.path, "benchmark")
        if ds.attrs.get("measured_for") != self._of:
            progress.line(f"{self.path}: of another machine, version or setting, not used")
            return fresh
        progress.line(f"{self.path}: going on with what it lacks")
        return ds.assign(status=ds.status.astype(object))  # longer texts must fit in

    def write(self, ds: xr.Dataset) -> None:
        """Replace the file as a whole."""
        results.save(with_ratios(ds), self.path, kind="benchmark", measured_for=self._of)

    def remove(self) -> None:
        """Delete the file: the result is written."""
        self.path.unlink(missing_ok=True)
