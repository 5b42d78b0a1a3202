"""Training time per epoch: hippynn's layers against our kernels, on one thread."""

import xarray as xr

from kdlib import isolation
from kdlib.benchmarks.side_by_side.jobs import TrainJob
from kdlib.benchmarks.side_by_side.jobs import epochs
from kdlib.benchmarks.side_by_side.plan import BenchProtocol
from kdlib.hipnn import HipnnConfig
from kdlib.progress import Reporter


def side_by_side(
    ds: xr.Dataset,
    configs: dict[str, tuple[HipnnConfig, str]],
    protocol: BenchProtocol,
    reporter: Reporter | None = None,
) -> None:
    """Fill in seconds per epoch of training on one thread.

    Parameters
    ----------
    ds
        From :func:`empty`; changed in place.
    configs
        Architecture -> configuration and role.
    protocol
        What is run.
    reporter
        Shows a bar over trainings.
    """
    runs = [
        (label, backend, size)
        for label in configs
        for backend in ("hippynn", "fused")
        for size in protocol.batch_sizes
    ]
    with (reporter or Reporter()).bar(len(runs), "training", "run") as bar:
        for label, backend, size in runs:
            bar.label(f"training {label} {backend}, batches of {size}")
            job = TrainJob(*configs[label], backend, size, protocol.n_epochs)
            where = {"architecture": label, "backend": backend, "batch_size": size}
            ds["epoch_time"].loc[where] = isolation.call(epochs, job, threads=1)
            seconds = float(ds.epoch_time.sel(where).median())
            bar.line(f"{label} {backend}, batches of {size}: {seconds:.3g} s per epoch")
            bar.update()
