"""Memory of MD per atom, and the number of atoms that a device could hold (section 3.4, Fig. 5 B).

A fresh process for each model and backend runs a few steps at each size, small sizes first. After a
warm-up with few atoms has compiled and loaded everything, and before each size, its peak is reset,
so that the new peak depends on the number of atoms:

- CPU: peak resident set size (``VmHWM``, reset through ``/proc/self/clear_refs``; elsewhere
  ``getrusage``, whose peak covers the life of the process);
- CUDA: peak of torch's allocator.

The memory per atom is the slope of the peak over the sizes. (The paper divides the whole memory of
its device by the largest number of atoms that ran.)
"""

import ctypes
import gc
import resource
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from ase import Atoms

from kdlib import hipnn, processes, progress
from kdlib.benchmarks.backends import Sizes, contestant, grid
from kdlib.errors import InputError
from kdlib.geometry.cells import bare
from kdlib.hipnn import Potential
from kdlib.hipnn.calculator import torch_device
from kdlib.md import dynamics, liquid

#: Number of sizes for a slope.
MIN_SIZES = 3


@dataclass(frozen=True)
class MemoryProtocol:
    """Settings of the runs whose peak memory is measured."""

    n_steps: int = 3
    """Steps of NVE at each size, after the first build of the neighbor list."""
    timestep: float = 1.0
    """Time step, fs."""
    temperature: float = 1200.0
    """Temperature of the velocities, K."""
    skin: float = 1.0
    """Skin of the neighbor list, Angstrom; more skin is more pairs."""
    device: str = "auto"
    """``"cpu"``, ``"cuda"`` or ``"auto"``."""
    seed: int = 0
    """Seed for the velocities."""


def memory_per_atom(
    potentials: Sequence[Potential],
    sizes: Sizes,
    start: Atoms,
    protocol: MemoryProtocol = MemoryProtocol(),
    workers: int = 1,
) -> xr.Dataset:
    """Peak memory of an MD run at several sizes, and its slope.

    Parameters
    ----------
    potentials
        One per architecture. Memory does not depend on the values of the weights.
    sizes
        Backend -> at least three numbers of atoms, multiples of the number of ``start``; large
        enough that the memory of the atoms exceeds the rest of the warm-up.
    start
        Small liquid that is repeated to every size.
    workers
        Number of parallel processes; peaks are independent as long as memory suffices.

    Returns
    -------
    xr.Dataset
        ``peak_memory(architecture, backend, n_atoms)`` in MB and
        ``memory_per_atom(architecture, backend)`` in kB/atom (1 MB = 1000 kB = 10^6 bytes).
    """
    if few := [name for name, numbers in sizes.items() if len(set(numbers)) < MIN_SIZES]:
        raise InputError(f"memory per atom of {few[0]!r}: a slope needs {MIN_SIZES} sizes")
    ds = grid(potentials, sizes)
    shape = tuple(ds.sizes[dim] for dim in ("architecture", "backend", "n_atoms"))
    peak = xr.DataArray(np.full(shape, np.nan), ds.coords, ("architecture", "backend", "n_atoms"))
    # Every task has its own process, with as many threads as a run would have here.
    fresh = processes.pool(workers, tasks_per_process=1, threads=processes.threads())
    with tempfile.TemporaryDirectory() as folder, fresh as pool:
        futures: dict[Future, dict] = {}
        for potential in potentials:
            label = potential.config.label
            hipnn.save(potential.module, Path(folder) / label)
            for backend, numbers in sizes.items():
                ordered = sorted(set(numbers))
                job = pool.submit(
                    peak_bytes, Path(folder) / label, backend, bare(start), ordered, protocol
                )
                futures[job] = {"architecture": label, "backend": backend, "n_atoms": ordered}
        _collect(futures, peak)
    ds["peak_memory"] = peak / 1e6
    slopes = peak.polyfit("n_atoms", 1, skipna=True).polyfit_coefficients.sel(degree=1, drop=True)
    ds["memory_per_atom"] = slopes / 1e3
    return ds


def _collect(futures: dict[Future, dict], peak: xr.DataArray) -> None:
    with progress.bar(total=len(futures), desc="peak memory", unit="run") as bar:
        try:
            for future in as_completed(futures):
                peak.loc[futures[future]] = future.result()
                bar.update()
        except BrokenExecutor as error:
            sizes = max(run["n_atoms"][-1] for run in futures.values())
            raise MemoryError(
                f"a process died while its memory was measured, up to {sizes} atoms: choose "
                "smaller sizes or fewer workers"
            ) from error


def peak_bytes(
    run_dir: Path, backend: str, start: Atoms, numbers: Sequence[int], protocol: MemoryProtocol
) -> list[float]:
    """Peak memory of this process, or of the CUDA allocator, for each number of atoms; bytes.

    The warm-up runs ``start``. The numbers must ascend: a peak that cannot be reset can only rise.
    """
    potential = hipnn.load(run_dir)
    device = torch_device(protocol.device)
    _run(potential, backend, start, len(start), protocol)
    found = []
    for n_atoms in numbers:
        reset_peak(device)
        _run(potential, backend, start, n_atoms, protocol)
        found.append(peak(device))
    return found


def _run(
    potential: Potential, backend: str, start: Atoms, n_atoms: int, protocol: MemoryProtocol
) -> None:
    atoms = liquid.enlarged(start, n_atoms, protocol.temperature, protocol.seed)
    atoms.calc = contestant(potential, backend, protocol.device, protocol.skin)
    dynamics.nve(atoms, protocol.n_steps, protocol.timestep)


def reset_peak(device: torch.device) -> None:
    """Reset the peak reached so far, where the system allows it."""
    # Return freed memory to the system first. Otherwise a run could use what the warm-up (above all
    # the compilers) freed, and seem to need nothing.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc only
        trim(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak(device: torch.device) -> float:
    """Peak since :func:`reset_peak`, bytes."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        if found:
            return float(found[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def max_atoms(ds: xr.Dataset, device_memory: float) -> xr.DataArray:
    """Atoms that fit a device (GB, 10^9 bytes), extrapolated from :func:`memory_per_atom`.

    The result is (architecture, backend). The paper's A6000 has 48 GB.
    """
    slope = ds.memory_per_atom * 1e3
    fixed = (ds.peak_memory * 1e6 - slope * ds.n_atoms).mean("n_atoms")
    fits = np.floor((device_memory * 1e9 - fixed) / slope)
    return fits.where(fits > 0).rename("max_atoms").assign_attrs(device_memory=device_memory)


def free_memory() -> float:
    """Memory available without swapping, bytes; infinite where the system does not say."""
    path = Path("/proc/meminfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return np.inf
