"""Side by side on a GPU: our kernels and hippynn's, on the same device in the same run.

A device is often available for minutes only. So the benchmark is a list of blocks of at most about
two minutes, and the file is rewritten after each: an interrupted run loses one block. A block that
fails leaves its error in the file and does not stop the others.

- ``md``: NVE in :class:`kdlib.hipnn.device.dynamics.DeviceDynamics`, tables rebuilt when needed:
  time per step and atom, and the peak of the allocator.
- ``stock``: hippynn's own calculator, driven by ASE, lists rebuilt when needed; where its neighbor
  list would take minutes, single calls of hippynn's layers over a list that is not timed.
- ``picosecond``: 48,000 atoms over 1000 steps of 1 fs, as the paper's speed measurement.
- ``largest``: the largest number of atoms that takes some steps, found by trying from the slope of
  the peak on; each try is a process of its own.
- ``training``: optimizer steps on 64 cells, of 130 atoms or from a file: ours captured, hippynn's
  not.
- ``profile``: time of a step by kernel.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, hipnn, processes, progress
from kdlib.benchmarks import memory, ondevice
from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.hipnn.calculator import HipnnCalculator, stock_calculator, torch_device
from kdlib.hipnn.device import release
from kdlib.md import liquid
from kdlib.results.files import provenance
from kdlib.training.config import TrainingConfig
from kdlib.training.loop import Loop
from kdlib.training.losses import LossWeights, WeightSchedule

#: Number of atoms -> cubic cells of four atoms along each axis.
CELLS = {500: (5, 5, 5), 4000: (10, 10, 10), 48000: (20, 20, 30), 500000: (50, 50, 50)}
#: Cubic cells along each axis of the first try for the largest number, 10 million atoms.
SIDE = 136
_WEIGHTS = LossWeights(energy=1.0, force=10.0)


@dataclass(frozen=True)
class GpuProtocol:
    """Settings of the benchmark."""

    sizes: tuple[int, ...] = (500, 4000, 48000, 500000)
    """Numbers of atoms, keys of :data:`CELLS`."""
    n_steps: int = 300
    """Timed steps of 1 fs."""
    warmup_steps: int = 100
    """Steps before the timed ones."""
    stock_sizes: tuple[int, ...] = (500, 4000)
    """Sizes for hippynn's own calculator, whose neighbor list takes 1 ms per atom."""
    stock_steps: int = 20
    """Steps of ASE's velocity Verlet with hippynn's calculator."""
    layer_sizes: tuple[int, ...] = (500, 4000, 48000)
    """Sizes at which single calls of hippynn's layers are timed."""
    picosecond: int = 48000
    """Atoms of the run over 1000 steps; 0: none."""
    largest: bool = True
    """Whether the largest number of atoms is tried."""
    device_memory: float = 48.0
    """Memory that the largest number of atoms may take, GB: the paper's card has as much."""
    memory_share: float = 0.93
    """Largest share of the device's own memory that it may take."""
    tolerance: float = 0.05
    """The search for it ends when this share more does not fit."""
    batch_size: int = 64
    """Cells of a batch."""
    training_cell: tuple[int, int, int] = (3, 3, 4)
    """Cubic cells of four atoms along each axis of a training cell."""
    training_atoms: int = 130
    """Atoms that are left in it."""
    cells: str = ""
    """File of labeled cells for the trainings, taken in its order, as
    :func:`kdlib.datasets.load` reads it; empty: generated cells, equal in size."""
    n_batches: int = 8
    """Batches of an epoch."""
    n_epochs: int = 5
    """Timed epochs of training steps, after one that compiles."""
    skin: float = 0.6
    """Skin of our neighbor table, Angstrom."""


#: A trial for a CPU with Triton's interpreter.
TINY = GpuProtocol(
    sizes=(500,), n_steps=1, warmup_steps=1, stock_sizes=(500,), stock_steps=1, layer_sizes=(500,),
    picosecond=0, largest=False, batch_size=1, training_cell=(2, 2, 1), training_atoms=14,
    n_batches=1, n_epochs=1,
)  # fmt: skip


@dataclass
class _Record:
    """Results so far, saved after every block."""

    path: Path
    found: dict = field(default_factory=dict)

    def block(self, name: str, work: Callable[[], object]) -> None:
        """Run a block and save its result or its error."""
        began = time.perf_counter()
        try:
            self.found[name] = work()
        except Exception as error:
            # The next block may still work, and the results of the others must not be lost.
            text, kept = f"{type(error).__name__}: {str(error)[:500]}", self.found.get(name)
            self.found[name] = {**kept, "ended": text} if kept else {"error": text}
        self.found[name + " seconds"] = time.perf_counter() - began
        self.save()
        progress.line(f"{name}: {time.perf_counter() - began:.0f} s")
        release()

    def keep(self, name: str, result: object) -> None:
        """Save what a block has found so far."""
        self.found[name] = result
        self.save()

    def save(self) -> None:
        """Write the file."""
        text = json.dumps(self.found, indent=1, default=float) + "\n"
        with replacing(self.path) as part:
            part.write_text(text, encoding="utf-8")


def run(
    out: str | Path,
    potentials: Mapping[str, Potential],
    protocol: GpuProtocol = GpuProtocol(),
    device: str = "cuda",
) -> dict:
    """Measure everything and return the content of the file: the device, and each block by name.

    Parameters
    ----------
    out
        JSON file, rewritten after every block;
        :func:`kdlib.benchmarks.side_by_side.gpu_table.dataset` makes a result of it.
    potentials
        Architecture -> potential that keeps a liquid of aluminum together.
    device
        ``"cuda"``, or ``"cpu"`` with Triton's interpreter.
    """
    where = torch_device(device)
    frames = training_cells(protocol.batch_size * (protocol.n_batches + 1), protocol)
    record = _Record(Path(out))
    record.found |= {
        "device": torch.cuda.get_device_name() if where.type == "cuda" else "cpu, interpreted",
        "torch": str(torch.__version__),
        "protocol": asdict(protocol) | {"cells": Path(protocol.cells).name},
        "provenance": provenance(),
        "cells": {
            "file": Path(protocol.cells).name,
            "number": len(frames),
            "mean_atoms": float(np.mean([len(atoms) for atoms in frames])),
        },
    }
    for label, potential in potentials.items():
        for n in protocol.sizes:
            record.block(f"md {label} {n}", lambda p=potential, n=n: md(p, n, protocol, where))
        record.block(
            f"training {label}", lambda p=potential: training(p.config, frames, protocol, where)
        )
        if protocol.picosecond:
            n = protocol.picosecond
            record.block(
                f"picosecond {label}", lambda p=potential, n=n: picosecond(p, n, protocol, where)
            )
    for label, potential in potentials.items():
        for n in protocol.layer_sizes:
            record.block(f"layers {label} {n}", lambda p=potential, n=n: layers(p, n, where))
        for n in protocol.stock_sizes:
            record.block(
                f"stock {label} {n}", lambda p=potential, n=n: stock(p, n, protocol, where)
            )
        if where.type == "cuda":
            n = max(protocol.sizes)
            record.block(
                f"profile {label} {n}", lambda p=potential, n=n: profile(p, n, protocol, where)
            )
    if protocol.largest:
        for label, potential in potentials.items():
            name = f"largest {label}"
            small = record.found[f"md {label} {max(protocol.sizes)}"]
            record.block(
                name,
                lambda p=potential, name=name, small=small: largest(
                    p, small, protocol, lambda result: record.keep(name, result)
                ),
            )
    return record.found


def start(n_atoms: int) -> Atoms:
    """Rattled crystal at the density of the liquid, which melts within a picosecond."""
    cells = CELLS.get(n_atoms)
    if cells is None:
        side = round((n_atoms / 4) ** (1 / 3))
        cells = (side, side, side)
    return liquid.liquid_aluminum(cells, seed=0)


def md(potential: Potential, n_atoms: int, protocol: GpuProtocol, device: torch.device) -> dict:
    """Time per step and atom of our dynamics, and the peak memory per atom."""
    return _timed(potential, start(n_atoms), protocol, device)


def _timed(potential: Potential, atoms: Atoms, protocol: GpuProtocol, device: torch.device) -> dict:
    memory.reset_peak(device)
    dynamics = ondevice.started(potential, atoms, device, protocol.skin)
    del atoms
    dynamics.run(protocol.warmup_steps)
    before = dynamics.n_builds
    ds = dynamics.run(protocol.n_steps, max(protocol.n_steps // 10, 1))
    seconds = float(ds.seconds.sum()) / protocol.n_steps
    total = ds.total_energy.values
    return {
        "n_atoms": dynamics.n_atoms,
        "us_per_atom_step": seconds / dynamics.n_atoms * 1e6,
        "ms_per_step": seconds * 1e3,
        "builds": dynamics.n_builds - before,
        "peak_bytes": _peak(device),
        "peak_bytes_per_atom": _peak(device) / dynamics.n_atoms,
        "temperature": float(ds.temperature[-1]),
        "energy_change": float(total[-1] - total[0]),
    }


def picosecond(
    potential: Potential, n_atoms: int, protocol: GpuProtocol, device: torch.device
) -> dict:
    """Seconds for 1000 steps of 1 fs, with everything but the capture."""
    dynamics = ondevice.started(potential, start(n_atoms), device, protocol.skin)
    dynamics.run(1)
    ds = dynamics.run(1000, 100)
    return {
        "n_atoms": dynamics.n_atoms,
        "seconds": float(ds.seconds.sum()),
        "builds": dynamics.n_builds,
        "temperature": float(ds.temperature[-1]),
        "energy_drift": float(ds.energy_drift),
    }


def layers(potential: Potential, n_atoms: int, device: torch.device) -> dict:
    """Time per atom of one force call of hippynn's layers, without its neighbor list."""
    memory.reset_peak(device)
    atoms = start(n_atoms)
    atoms.calc = HipnnCalculator(potential, device=device.type, backend="hippynn")
    seconds = []
    for _ in range(5):
        atoms.positions[0, 0] += 1e-3
        before = atoms.calc.timings["model"]
        atoms.get_forces()
        seconds.append(atoms.calc.timings["model"] - before)
    return {
        "us_per_atom": float(np.median(seconds[2:])) / n_atoms * 1e6,
        "peak_bytes_per_atom": _peak(device) / n_atoms,
    }


def stock(potential: Potential, n_atoms: int, protocol: GpuProtocol, device: torch.device) -> dict:
    """Time per step and atom of hippynn's own calculator in ASE's velocity Verlet."""
    from kdlib.md import dynamics

    atoms = start(n_atoms)
    atoms.calc = stock_calculator(potential, device=device.type)
    dynamics.nve(atoms, 2)
    ds = dynamics.nve(atoms, protocol.stock_steps)
    seconds = ds.seconds / protocol.stock_steps / n_atoms * 1e6
    parts = zip(ds.component.values.tolist(), seconds.values.tolist(), strict=True)
    return {"us_per_atom_step": dict(parts)}


def training_cells(n: int, protocol: GpuProtocol) -> list[Atoms]:
    """Cells from the protocol's file, or of equally many atoms with arbitrary labels.

    All labels cost the same.
    """
    if protocol.cells:
        found = datasets.load(protocol.cells)
        if len(found) < n:
            raise InputError(
                f"{protocol.cells}: holds {len(found)} cells, but the benchmark trains on {n}"
            )
        return found[:n]
    frames = []
    for k in range(n):
        rng = np.random.default_rng(k)
        atoms = bulk("Al", a=4.15, cubic=True) * protocol.training_cell
        extra = len(atoms) - protocol.training_atoms
        del atoms[rng.choice(len(atoms), extra, replace=False).tolist()]
        atoms.positions += rng.normal(scale=0.2, size=atoms.positions.shape)
        labels = {"energy": float(rng.normal()), "forces": rng.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info["frame"] = k
        frames.append(atoms)
    return frames


def training(
    config: HipnnConfig, frames: list[Atoms], protocol: GpuProtocol, device: torch.device
) -> dict:
    """Time per optimizer step of a training with our kernels, and with hippynn's layers."""
    return {
        backend: _training(config, frames, backend, protocol, device)
        for backend in ("fused", "hippynn")
    }


def _training(
    config: HipnnConfig,
    frames: list[Atoms],
    backend: str,
    protocol: GpuProtocol,
    device: torch.device,
) -> dict:
    memory.reset_peak(device)
    n = protocol.batch_size * protocol.n_batches
    split = SimpleNamespace(train=np.arange(n), valid=np.arange(n, len(frames)))
    settings = TrainingConfig(batch_size=protocol.batch_size, backend=backend, device=device.type)
    loop = Loop(config, settings, WeightSchedule.constant(_WEIGHTS), frames, split)
    loop.run_epoch()
    steps, epochs = [], []
    for _ in range(protocol.n_epochs):
        began = time.perf_counter()
        loop._pass(_WEIGHTS)
        steps.append((time.perf_counter() - began) / protocol.n_batches)
        began = time.perf_counter()
        loop.run_epoch()
        epochs.append(time.perf_counter() - began)
    return {
        "ms_per_step": float(np.median(steps)) * 1e3,
        "seconds_per_epoch": float(np.median(epochs)),
        "peak_bytes": _peak(device),
        "loss": loop.rows[-1]["loss"],
    }


def profile(
    potential: Potential,
    n_atoms: int,
    protocol: GpuProtocol,
    device: torch.device,
    n_steps: int = 5,
) -> dict:
    """Milliseconds per step of each kernel, and of a build of the table."""
    dynamics = ondevice.started(potential, start(n_atoms), device, protocol.skin)
    dynamics.run(20)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as steps:
        dynamics.run(n_steps)
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as build:
        dynamics.rebuild()
        torch.cuda.synchronize()
    return {"step": _by_kernel(steps, n_steps), "build": _by_kernel(build, 1)}


def _by_kernel(profiled: torch.profiler.profile, n: int) -> dict[str, float]:
    rows = {e.key[:100]: e.self_device_time_total / 1e3 / n for e in profiled.key_averages()}
    return dict(sorted(rows.items(), key=lambda row: -row[1])[:16])


def largest(
    potential: Potential,
    small: Mapping[str, float],
    protocol: GpuProtocol,
    keep: Callable[[dict], None] = lambda result: None,
) -> dict:
    """Find the largest number of atoms that runs, from the slope of the peak since ``small``.

    ``small`` is a result of :func:`md`; ``keep`` gets the result so far after each try, since a try
    may take half a minute.
    """
    device, label = torch.device("cuda"), potential.config.label
    room = ondevice.memory_limit(device, protocol.device_memory * 1e9, protocol.memory_share)
    runs: list[dict] = []
    result = {"room": room, "runs": runs}
    with tempfile.TemporaryDirectory() as folder:
        hipnn.save(potential.module, Path(folder))

        def run(n_atoms: int) -> None:
            progress.line(f"{label}: trying {n_atoms} atoms")
            cells = (side, side, n_atoms // (4 * side**2))
            runs.append(processes.call(attempt, Path(folder), cells, protocol, room))
            runs.sort(key=lambda one: one["n_atoms"])
            keep(result)

        side = SIDE
        run(4 * side**3)
        first = runs[0]
        slope = (first["peak_bytes"] - small["peak_bytes"]) / (first["n_atoms"] - small["n_atoms"])
        result["bytes_per_atom"] = slope
        guess = first["n_atoms"] + (room - first["peak_bytes"]) / slope
        side = int((guess / 4) ** (1 / 3))
        try:
            ondevice.largest(
                run, guess, memory.most_atoms(guess), protocol.tolerance, unit=4 * side**2
            )
        except (RuntimeError, MemoryError) as error:  # what ran is kept
            result["ended"] = f"{type(error).__name__}: {str(error)[:500]}"
    return result


def attempt(
    run_dir: Path, cells: tuple[int, int, int], protocol: GpuProtocol, limit: float
) -> dict:
    """As ``md``, over some steps of a crystal in ``limit`` bytes of a CUDA device.

    For a process of its own, whose memory stays limited.
    """
    device = torch.device("cuda")
    ondevice.limit_memory(device, limit)
    short = replace(protocol, n_steps=4, warmup_steps=2)
    return _timed(hipnn.load(run_dir), liquid.liquid_aluminum(cells, seed=0), short, device)


def _peak(device: torch.device) -> float:
    """Peak of the allocator since the last reset, bytes; NaN on the CPU, which has none."""
    return memory.peak(device) if device.type == "cuda" else math.nan
