"""MD that stays on a device, for the benchmarks: where it can run, how long, and how large.

ASE moves atoms on the host, which takes longer than the forces of a small network on a GPU. So the
backend ``"fused"`` is measured in :class:`kdlib.hipnn.device.dynamics.DeviceDynamics` wherever that
can run, and the results say where it did.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms

from kdlib.hipnn import Potential, kernels
from kdlib.hipnn.device import interpreted
from kdlib.hipnn.device import obstacle as without_kernels
from kdlib.results.schema import COMPONENTS

if TYPE_CHECKING:  # needs Triton
    from kdlib.hipnn.device.dynamics import DeviceDynamics


def obstacle(
    potential: Potential, backend: str, atoms: Atoms, device: torch.device, skin: float
) -> str | None:
    """Why ASE has to move the atoms of a benchmark, or None where they stay on the device.

    Parameters
    ----------
    skin
        Range of the neighbor table beyond the cutoff, Angstrom.
    """
    if backend != "fused":
        return f"backend {backend!r} runs under ASE alone"
    if device.type == "cpu" and not interpreted():
        return "on a CPU, ASE takes little of the time"
    reason = kernels.supports(potential.module) or without_kernels(device)
    if reason is not None:
        return reason
    from kdlib.hipnn.device.dynamics import unfit

    return unfit(atoms, potential.config.cutoff, skin)


def started(
    potential: Potential, atoms: Atoms, device: torch.device, skin: float, timestep: float = 1.0
) -> "DeviceDynamics":
    """Dynamics on the device before the first step; skin in Angstrom, timestep in fs."""
    from kdlib.hipnn.device.dynamics import DeviceDynamics

    return DeviceDynamics(potential.module, atoms, timestep, skin=skin, device=device)


def timed_blocks(dynamics: "DeviceDynamics", n_steps: int, repeats: int) -> np.ndarray:
    """Seconds of consecutive blocks of steps, (component, block), as a whole: parts are NaN."""
    seconds = np.full((len(COMPONENTS), repeats), np.nan)
    for block in range(repeats):
        seconds[COMPONENTS.index("total"), block] = dynamics.run(n_steps).seconds.sum()
    return seconds


def memory_limit(device: torch.device, wanted: float, share: float) -> float:
    """Bytes that a run may take: those wanted, but at most a share of a CUDA device's memory."""
    return min(wanted, share * torch.cuda.get_device_properties(device).total_memory)


def limit_memory(device: torch.device, limit: float) -> None:
    """Let this process run out of memory at ``limit`` bytes of a CUDA device."""
    total = torch.cuda.get_device_properties(device).total_memory
    # "cuda" means the current device; the limit asks for its number.
    number = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), number)


def largest(
    run: Callable[[int], object], guess: float, guard: float, tolerance: float, unit: int = 1
) -> int:
    """Find the largest number of atoms that runs, a multiple of ``unit``; 0 if none does.

    Parameters
    ----------
    run
        Runs a number of atoms; raises torch.OutOfMemoryError where they do not fit.
    guess
        Where to start.
    guard
        No larger number is tried.
    tolerance
        The search ends when a number this share above the largest that ran does not fit (or the
        next multiple of the unit does not).
    """
    top = int(guard // unit)
    fits, fails, step = 0, top + 1, tolerance  # in units; nothing has failed yet
    n = min(max(round(guess / unit), 1), top)
    while fits < n < fails:
        if _runs(run, n * unit):
            fits = n
        else:
            fails = n
        if fails > top:
            n = min(top, max(fits + 1, int(fits * (1 + step))))
        elif fits == 0:
            n = min(fails - 1, math.ceil(fails / (1 + step)))
        else:
            n = (fits + fails) // 2 if fails - fits > tolerance * fits else fits
        step *= 2
    return fits * unit


def _runs(run: Callable[[int], object], n_atoms: int) -> bool:
    try:
        run(n_atoms)
    except torch.OutOfMemoryError:
        return False
    return True


def unit_near(guess: float, cell: int, tolerance: float) -> int:
    """Multiple of a cell of ``cell`` atoms whose multiples near ``guess`` tile nearly cubes.

    A number of copies without divisors would be a rod. The multiples are at most ``tolerance`` of
    the guess apart, where the cell is small enough.
    """
    copies = guess / cell
    side = min(math.isqrt(int(tolerance * copies)), int(copies ** (1 / 3)))
    return cell * max(side, 1) ** 2
