"""Settings of the side-by-side benchmark, and the Dataset that it fills."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from kdlib import processes
from kdlib.benchmarks.memory import MIN_SIZES
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig
from kdlib.results.schema import COMPONENTS

#: In LAMMPS: a classical potential with threads, and with ranks; our pair style on one rank, and
#: with ranks.
IN_LAMMPS = ("lammps", "lammps_ranks", "pair_style_1", "pair_style")
CONTESTANTS = ("stock", "stock_best", "hippynn", "fused", *IN_LAMMPS)
#: Contestants with hippynn's layers, whose tensors are pairs times sensitivities.
LAYERED = ("stock", "stock_best", "hippynn")


@dataclass(frozen=True)
class BenchProtocol:
    """Settings; the defaults are the full benchmark."""

    sizes: tuple[int, ...] = (500, 4000, 48000, 256000)
    """Numbers of atoms, multiples of the small liquid's 500 (5 x 5 x 5 cubic cells)."""
    n_steps: int = 50
    """Steps of 1 fs of each block; about two rebuilds at a skin of 1 Angstrom."""
    repeats: int = 6
    """Number of blocks for median and quartiles."""
    warmup_steps: int = 5
    """Steps at full size before the first block."""
    budget: float = 100.0
    """Seconds after which a run begins no further block; in LAMMPS it has two at least."""
    longest_block: float = 600.0
    """A run whose block would take longer (s) is extrapolated."""
    memory_share: float = 0.8
    """A run that would need a larger share of the free memory is extrapolated."""
    skin: float = 1.0
    """Skin of our calculator's neighbor list, and hippynn's default for its own, Angstrom."""
    stock_skins: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """Candidates for the best skin of the stock calculator, tried at the smallest size."""
    lammps_skin: float = 1.0
    """Skin of LAMMPS, Angstrom."""
    n_cells: int = 5
    """Cubic cells of four atoms along each axis of the small liquid."""
    melt_steps: int = 250
    """Steps of 2 fs for each of melting, quenching and equilibration, under EMT."""
    temperature: float = 1200.0
    """Temperature of the velocities at the start, K."""
    timestep: float = 1.0
    """Time step, fs."""
    threads: int = 0
    """Threads of each MD run; 0 for all cores."""
    memory_sizes: tuple[int, ...] = (48000, 96000, 192000)
    """Numbers of atoms for the slope of the peak memory."""
    layered_memory_sizes: tuple[int, ...] = (1000, 2000, 4000)
    """The same for hippynn's layers, which need much more."""
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64)
    """Frames per optimizer step of the timed epochs; the last is the paper's."""
    n_epochs: int = 5
    """Number of timed epochs."""
    rest_steps: int = 1000
    """Steps in a thermostat before ``nve_steps``."""
    nve_steps: int = 10_000
    """Steps of NVE for the conservation of energy."""

    def __post_init__(self) -> None:
        counts = (
            self.n_steps, self.repeats, self.warmup_steps, self.n_epochs, self.rest_steps,
            self.nve_steps,
        )  # fmt: skip
        if min(counts) < 1 or not self.sizes or not self.stock_skins:
            raise InputError("benchmark: sizes, skins, steps, repeats and epochs must be positive")
        small = 4 * self.n_cells**3
        for n in (*self.sizes, *self.memory_sizes, *self.layered_memory_sizes):
            if n < 1 or n % small:
                raise InputError(f"benchmark: {n} atoms are not a multiple of {small}")
        for sizes in (self.memory_sizes, self.layered_memory_sizes):
            if len(set(sizes)) < MIN_SIZES:
                raise InputError(f"benchmark: memory per atom needs {MIN_SIZES} sizes")

    @property
    def n_threads(self) -> int:
        """Threads of each MD run."""
        return self.threads or processes.cores()


FULL = BenchProtocol()
#: Checks in some minutes that everything works; its numbers mean little.
QUICK = BenchProtocol(
    sizes=(500,),
    melt_steps=20,
    n_steps=5,
    repeats=2,
    budget=20.0,
    stock_skins=(1.0,),
    memory_sizes=(2000, 4000, 6000),
    layered_memory_sizes=(500, 1000, 1500),
    batch_sizes=(16,),
    n_epochs=1,
    rest_steps=20,
    nve_steps=100,
)


def empty(configs: Sequence[HipnnConfig], protocol: BenchProtocol) -> xr.Dataset:
    """Benchmark without results, every number NaN, every status ``not run``."""
    sizes = sorted(protocol.sizes)
    coords = {
        "architecture": [config.label for config in configs],
        "contestant": list(CONTESTANTS),
        "n_atoms": sizes,
        "component": list(COMPONENTS),
        "repeat": range(protocol.repeats),
        "backend": ["hippynn", "fused"],
        "batch_size": list(protocol.batch_sizes),
        "epoch": range(1, protocol.n_epochs + 1),
    }
    run = ("architecture", "contestant", "n_atoms")
    shapes = {
        "step_time": (*run, "component", "repeat"),
        "n_builds": run,
        "skin": run[:2],
        "memory_per_atom": run[:2],
        "first_call_n_atoms": run[:2],
        "first_call_time": run[:2],
        "epoch_time": ("architecture", "backend", "batch_size", "epoch"),
    }
    ds = xr.Dataset(coords=coords)
    for name, dims in shapes.items():
        ds[name] = (dims, np.full([ds.sizes[dim] for dim in dims], np.nan))
    ds["status"] = (run, np.full([ds.sizes[dim] for dim in run], "not run", dtype=object))
    return ds


def record(
    ds: xr.Dataset, where: Mapping[str, object], seconds: np.ndarray, builds: int, n_steps: int
) -> None:
    """Enter blocks of steps into :func:`empty` as us/atom/step.

    Parameters
    ----------
    where
        Labels of the run, including ``n_atoms``.
    seconds
        (component, repeat), s; missing repeats stay NaN.
    builds
        Builds of the neighbor list in all blocks.
    """
    blocks = seconds.shape[1]
    times = np.full((len(COMPONENTS), ds.sizes["repeat"]), np.nan)
    times[:, :blocks] = seconds * 1e6 / (int(str(where["n_atoms"])) * n_steps)
    ds["step_time"].loc[where] = times
    ds["n_builds"].loc[where] = 100 * builds / (blocks * n_steps)
    ds["status"].loc[where] = "measured"
