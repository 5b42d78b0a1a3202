"""Memory of MD per atom, and the number of atoms that a device could hold (section 3.4, Fig. 5 B).

A fresh process for each model and backend runs a few steps at each size, small sizes first. After a
warm-up with few atoms has compiled and loaded everything, and before each size, its peak is reset,
so that the new peak depends on the number of atoms:

- CPU: peak resident set size (``VmHWM``, reset through ``/proc/self/clear_refs``; elsewhere
  ``getrusage``, whose peak covers the life of the process);
- CUDA: peak of torch's allocator.

The memory per atom is the slope of the peak over the sizes. (The paper divides the whole memory of
its device by the largest number of atoms that ran.) The number of atoms that a device can hold is
extrapolated along that slope, or, where MD stays on a CUDA device, found by trying: each try is a
process of its own, whose memory is limited, so that running out of it ends nothing but the try.
"""

import ctypes
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
from kdlib.benchmarks import ondevice
from kdlib.benchmarks.backends import Sizes, contestant, grid
from kdlib.errors import InputError
from kdlib.geometry import cells
from kdlib.geometry.cells import bare
from kdlib.hipnn import Potential
from kdlib.hipnn.calculator import torch_device
from kdlib.hipnn.device import release
from kdlib.md import dynamics, liquid

#: Number of sizes for a slope.
MIN_SIZES = 3
#: Memory of the host that an atom takes while a cell is made and sent to a device, bytes (measured:
#: 320 for the cell alone).
HOST_BYTES = 500
#: No try holds more than this many times the atoms of the estimate, which is too small where it
#: comes from cells that go through the network in one chunk.
MOST = 10.0


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
    device_skin: float = 0.6
    """Skin where MD stays on a device, whose lists cost less, Angstrom."""
    device: str = "auto"
    """``"cpu"``, ``"cuda"`` or ``"auto"``."""
    seed: int = 0
    """Seed for the velocities."""
    tolerance: float = 0.05
    """The search for the largest number of atoms ends when this share more does not fit."""
    memory_share: float = 0.93
    """Largest share of a device's memory that the search may fill."""


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
        ``memory_on_device(architecture, backend)`` is 1 where MD stayed on a device.
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
    ds["memory_on_device"] = (
        ("architecture", "backend"),
        [
            [float(_stays(p, b, start, sizes[b], protocol)) for b in ds.backend.values.tolist()]
            for p in potentials
        ],
    )
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
    stays = _stays(potential, backend, start, numbers, protocol)
    _run(potential, backend, start, numbers[0] if stays else len(start), protocol, stays)
    found = []
    for n_atoms in numbers:
        reset_peak(device)
        _run(potential, backend, start, n_atoms, protocol, stays)
        found.append(peak(device))
    return found


def _stays(
    potential: Potential,
    backend: str,
    start: Atoms,
    numbers: Sequence[int],
    protocol: MemoryProtocol,
) -> bool:
    """Whether MD of all sizes stays on the device: a slope is that of one driver."""
    device, smallest = torch_device(protocol.device), cells.tile(start, min(numbers))
    reason = ondevice.obstacle(potential, backend, smallest, device, protocol.device_skin)
    return reason is None


def _run(
    potential: Potential,
    backend: str,
    start: Atoms,
    n_atoms: int,
    protocol: MemoryProtocol,
    stays: bool,
) -> None:
    p = protocol
    atoms = liquid.enlarged(start, n_atoms, p.temperature, p.seed)
    if stays:
        device = torch_device(p.device)
        ondevice.started(potential, atoms, device, p.device_skin, p.timestep).run(p.n_steps)
        return
    atoms.calc = contestant(potential, backend, p.device, p.skin)
    dynamics.nve(atoms, p.n_steps, p.timestep)


def reset_peak(device: torch.device) -> None:
    """Reset the peak reached so far, where the system allows it."""
    # Return freed memory to the system first. Otherwise a run could use what the warm-up (above all
    # the compilers) freed, and seem to need nothing.
    release()
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
    return (
        fits.where(fits > 0)
        .rename("max_atoms")
        .assign_attrs(
            device_memory=device_memory, found="extrapolated along the measured slope of the memory"
        )
    )


def max_atoms_tried(
    ds: xr.Dataset,
    device_memory: float,
    potentials: Sequence[Potential],
    start: Atoms,
    protocol: MemoryProtocol = MemoryProtocol(),
) -> xr.DataArray:
    """Atoms that fit a device, as :func:`max_atoms`, found by trying where MD stays on CUDA.

    Parameters
    ----------
    ds
        From :func:`memory_per_atom` with the same potentials, start and protocol.
    device_memory
        In GB; a smaller device's own memory, times the protocol's share, replaces it.

    Returns
    -------
    xr.DataArray
        (architecture, backend); the attribute ``found`` says how, ``device_memory`` in how much
        memory. NaN where a try failed for another reason than its memory, which is reported.
    """
    device = torch_device(protocol.device)
    if device.type != "cuda":
        return max_atoms(ds, device_memory)
    limit = ondevice.memory_limit(device, device_memory * 1e9, protocol.memory_share)
    fits = max_atoms(ds, limit / 1e9)
    for potential in potentials:
        for backend in ds.backend.values.tolist():
            where = {"architecture": potential.config.label, "backend": backend}
            guess = float(fits.loc[where])
            if ds.memory_on_device.loc[where] and guess > 0:
                fits.loc[where] = _searched(potential, start, guess, limit, protocol)
    return fits.assign_attrs(
        found=f"where MD stayed on the device: by trying, to {protocol.tolerance:.0%}; elsewhere: "
        f"{fits.attrs['found']}"
    )


def _searched(
    potential: Potential, start: Atoms, guess: float, limit: float, protocol: MemoryProtocol
) -> float:
    label = potential.config.label
    with tempfile.TemporaryDirectory() as folder:
        hipnn.save(potential.module, Path(folder))

        def run(n_atoms: int) -> None:
            progress.line(f"{label}: trying {n_atoms} atoms")
            processes.call(attempt, Path(folder), bare(start), n_atoms, protocol, limit)

        unit = ondevice.unit_near(guess, len(start), protocol.tolerance)
        try:
            return ondevice.largest(run, guess, most_atoms(guess), protocol.tolerance, unit)
        except (RuntimeError, MemoryError) as error:  # the other models can still be measured
            progress.line(f"{label}: no largest number of atoms ({error})")
            return np.nan


def attempt(
    run_dir: Path, start: Atoms, n_atoms: int, protocol: MemoryProtocol, limit: float
) -> None:
    """Run some steps in ``limit`` bytes of a CUDA device, or raise torch.OutOfMemoryError.

    For a process of its own, whose memory stays limited.
    """
    ondevice.limit_memory(torch_device(protocol.device), limit)
    _run(hipnn.load(run_dir), "fused", start, n_atoms, protocol, stays=True)


def most_atoms(guess: float) -> float:
    """Most atoms to try: a multiple of the estimate, and what the host's memory can prepare."""
    return min(MOST * guess, free_memory() / HOST_BYTES)


def free_memory() -> float:
    """Memory available without swapping, bytes; infinite where the system does not say."""
    path = Path("/proc/meminfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return np.inf
