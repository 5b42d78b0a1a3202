"""Time per MD step of a potential (section 3.4 of the paper).

The contestants, `backend` in the results, are those of :mod:`kdlib.benchmarks.backends`. ASE drives
them, except where MD can stay on a device (:mod:`kdlib.benchmarks.ondevice`). Run nothing else on
the machine meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib import progress, results
from kdlib.benchmarks import ondevice
from kdlib.benchmarks.backends import Sizes, contestant, grid
from kdlib.errors import DynamicsError, InputError
from kdlib.hipnn import Potential
from kdlib.hipnn.calculator import torch_device
from kdlib.md import dynamics, liquid
from kdlib.results.schema import COMPONENTS


@dataclass(frozen=True)
class TimingProtocol:
    """Settings of the timed runs, NVE by velocity Verlet."""

    n_steps: int = 1000
    """Steps of each repeat, enough for several rebuilds of the neighbor list (at 1200 K, the
    fastest of a few hundred atoms moves half a skin of 1 Angstrom in some 20 fs)."""
    warmup_steps: int = 20
    """Steps before the timing, to compile kernels and fill caches."""
    repeats: int = 3
    """Number of consecutive runs, each timed separately."""
    timestep: float = 1.0
    """Time step, fs."""
    temperature: float = 1200.0
    """Temperature of the velocities at the start, K."""
    skin: float = 1.0
    """Skin of the neighbor list, Angstrom (the stock calculator applies it twice)."""
    device_skin: float = 0.6
    """Skin where MD stays on a device, whose lists cost less, Angstrom."""
    device: str = "auto"
    """``"cpu"``, ``"cuda"`` or ``"auto"``."""
    seed: int = 0
    """Seed for the velocities."""

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.warmup_steps < 1 or self.repeats < 1:
            raise InputError("TimingProtocol: steps, warm-up and repeats must be positive")


def time_per_step(
    potentials: Sequence[Potential],
    sizes: Sizes,
    start: Atoms,
    protocol: TimingProtocol = TimingProtocol(),
) -> xr.Dataset:
    """Time of an MD step per atom, split into neighbor list, model and integrator.

    Parameters
    ----------
    potentials
        One per architecture.
    sizes
        Backend -> numbers of atoms, multiples of the number of ``start``. Combinations that are
        not listed are NaN, and so are models whose run explodes.
    start
        Small equilibrated liquid that is repeated to every size.

    Returns
    -------
    xr.Dataset
        ``step_time(architecture, backend, n_atoms, component, repeat)``, us/atom/step. The
        integrator is the remainder of the total: velocity Verlet and ASE's overhead.
        ``time_on_device(architecture, backend, n_atoms)`` is 1 where MD stayed on a device, whose
        steps are timed as a whole (the parts are NaN), and 0 where ASE moved the atoms.
    """
    ds = grid(potentials, sizes)
    ds = ds.assign_coords(component=list(COMPONENTS), repeat=range(protocol.repeats))
    dims = ("architecture", "backend", "n_atoms", "component", "repeat")
    times = xr.DataArray(np.full([ds.sizes[dim] for dim in dims], np.nan), ds.coords, dims)
    stayed = times.isel(component=0, repeat=0, drop=True).copy()
    runs = [(p, backend, n) for p in potentials for backend, ns in sizes.items() for n in ns]
    with progress.bar(total=len(runs), desc="step time", unit="run") as bar:
        for potential, backend, n in runs:
            label = potential.config.label
            bar.set_description_str(f"{label} {backend} {n}")
            atoms = liquid.enlarged(start, n, protocol.temperature, protocol.seed)
            where = {"architecture": label, "backend": backend, "n_atoms": n}
            try:
                seconds, on_device = _seconds(potential, backend, atoms, protocol)
                times.loc[where] = seconds * 1e6 / (n * protocol.n_steps)
                stayed.loc[where] = on_device
            except DynamicsError as error:
                progress.line(f"{label} {backend} {n} atoms: not timed ({error})")
            bar.update()
    return ds.assign(step_time=times, time_on_device=stayed)


def _seconds(
    potential: Potential, backend: str, atoms: Atoms, protocol: TimingProtocol
) -> tuple[np.ndarray, bool]:
    """Seconds of each repeat, (component, repeat), and whether MD stayed on the device."""
    p, device = protocol, torch_device(protocol.device)
    if ondevice.obstacle(potential, backend, atoms, device, p.device_skin) is None:
        run = ondevice.started(potential, atoms, device, p.device_skin, p.timestep)
        run.run(p.warmup_steps)
        return ondevice.timed_blocks(run, p.n_steps, p.repeats), True
    atoms.calc = contestant(potential, backend, p.device, p.skin)
    dynamics.nve(atoms, p.warmup_steps, p.timestep)
    return timed_blocks(atoms, p.n_steps, p.timestep, p.repeats), False


def timed_blocks(
    atoms: Atoms, n_steps: int, timestep: float, repeats: int, budget: float = np.inf
) -> np.ndarray:
    """Seconds of consecutive blocks of NVE, (component, block); timestep in fs.

    Parameters
    ----------
    atoms
        Configuration with velocities and a warm calculator: kernels compiled, neighbor list built.
        Advanced in place.
    repeats
        Largest number of blocks.
    budget
        No block starts after this many seconds of blocks.
    """
    blocks: list[np.ndarray] = []
    while len(blocks) < repeats and np.sum(blocks, axis=0, initial=0.0).max() < budget:
        blocks.append(dynamics.nve(atoms, n_steps, timestep).seconds.values)
    return np.transpose(blocks)


def recorded(folder: str | Path) -> tuple[xr.Dataset | None, str]:
    """Find the benchmark of a results folder, or the shipped one; with a sentence on its origin."""
    own, shipped = (
        place / "benchmark.nc" for place in (Path(folder), results.project_root() / "figures")
    )
    path = own if own.is_file() else shipped
    if not path.is_file():
        return None, f"no benchmark in {folder}: kdlib bench makes one"
    ds = results.load(path)
    made = f"measured on {ds.attrs['created'][:10]} on {ds.attrs['cpu_model']}"
    if path == own:
        return ds, f"benchmark of this folder, {made}"
    return (
        ds,
        f"not of this run: the benchmark that ships with kdlib, {made}; kdlib bench makes one",
    )
