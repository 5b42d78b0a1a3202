"""Training time per epoch: hippynn's layers against our kernels, on one thread.

Energy conservation of the fused kernels: the total energy along NVE of the small liquid.
"""

from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from ase import Atoms

from kdlib import hipnn, processes, progress
from kdlib.benchmarks.side_by_side.plan import BenchProtocol, TrainJob, epochs
from kdlib.hipnn import HipnnConfig
from kdlib.md import dynamics, liquid


def side_by_side(
    ds: xr.Dataset,
    configs: dict[str, tuple[HipnnConfig, str]],
    protocol: BenchProtocol,
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
    """
    runs = [
        (label, backend, size)
        for label in configs
        for backend in ("hippynn", "fused")
        for size in protocol.batch_sizes
    ]
    with progress.bar(total=len(runs), desc="training", unit="run") as bar:
        for label, backend, size in runs:
            bar.set_description_str(f"training {label} {backend}, batches of {size}")
            job = TrainJob(*configs[label], backend, size, protocol.n_epochs)
            where = {"architecture": label, "backend": backend, "batch_size": size}
            ds["epoch_time"].loc[where] = processes.call(epochs, job, threads=1)
            seconds = float(ds.epoch_time.sel(where).median())
            progress.line(f"{label} {backend}, batches of {size}: {seconds:.3g} s per epoch")
            bar.update()


@dataclass(frozen=True)
class NveJob:
    """NVE of one potential, after some time in a thermostat."""

    run_dir: Path
    """Folder of the saved potential."""
    start: Atoms
    """Small liquid."""
    rest_steps: int
    """Steps of Langevin dynamics first: the liquid comes from another potential."""
    n_steps: int
    """Steps of NVE."""
    temperature: float
    """Of the thermostat, K."""
    timestep: float
    """In fs."""


def nve(job: NveJob) -> xr.Dataset:
    """Series of :func:`kdlib.md.dynamics.nve`, on the fused kernels."""
    atoms = liquid.tile(job.start, len(job.start), job.temperature, seed=0)
    atoms.calc = hipnn.load(job.run_dir).calculator(device="cpu", backend="fused")
    dynamics.nvt(
        atoms, job.temperature, job.rest_steps, job.timestep, thermostat="langevin", relaxation=100
    )
    return dynamics.nve(atoms, job.n_steps, job.timestep, sample_every=job.n_steps // 1000 or 1)


def along_nve(
    run_dirs: dict[str, Path],
    start: Atoms,
    protocol: BenchProtocol,
) -> xr.Dataset:
    """Change of the total energy with time, and its drift, of every potential.

    Parameters
    ----------
    run_dirs
        Architecture -> folder of a saved potential.
    start
        Small equilibrated liquid.
    protocol
        What is run.

    Returns
    -------
    xarray.Dataset
        ``total_energy(architecture, time)``, eV/atom, from its first value on, and
        ``energy_drift(architecture)``, eV/atom/ps.
    """
    p, found = protocol, {}
    with progress.bar(total=len(run_dirs), desc="energy conservation", unit="run") as bar:
        for label, run_dir in run_dirs.items():
            bar.set_description_str(f"{label}, NVE of {len(start)} atoms")
            job = NveJob(run_dir, start, p.rest_steps, p.nve_steps, p.temperature, p.timestep)
            ds = processes.call(nve, job, threads=p.n_threads)
            energy = (ds.total_energy - ds.total_energy[0]).assign_attrs(ds.total_energy.attrs)
            found[label] = xr.Dataset({"total_energy": energy, "energy_drift": ds.energy_drift})
            progress.line(f"{label}: {float(ds.energy_drift):.2g} eV/atom/ps")
            bar.update()
    architecture = xr.Variable("architecture", list(found))
    return xr.concat(found.values(), architecture, combine_attrs="override")
