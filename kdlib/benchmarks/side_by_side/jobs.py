"""What one process of the side-by-side benchmark does: an MD run, or some epochs of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from ase import Atoms

from kdlib import datasets
from kdlib.training import roles
from kdlib.md import dynamics
from kdlib import hipnn
from kdlib.md import liquid
from kdlib.hipnn.calculator import HipnnCalculator
from kdlib.benchmarks.backends import contestant
from kdlib.hipnn import HipnnConfig
from kdlib.training.loop import Loop
from kdlib.training.loop import TrainingConfig
from kdlib.benchmarks.memory import peak
from kdlib.benchmarks.memory import reset_peak
from kdlib.hipnn.stock import StockCalculator

#: Steps of the small liquid that compile everything; TorchScript recompiles in its first calls.
SMALL_STEPS = 10
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class MdJob:
    """NVE of one contestant at one size."""

    run_dir: Path
    """Folder of the saved potential."""
    backend: str
    """A name in :data:`kdlib.benchmarks.backends.BACKENDS`."""
    start: Atoms
    """Small liquid that is repeated."""
    n_atoms: int
    """Atoms of the run."""
    skin: float
    """Of the neighbour list, Angstrom (the stock calculator applies it twice)."""
    n_steps: int
    """Steps of each block."""
    repeats: int
    """Blocks at most."""
    warmup_steps: int
    """Steps at this size before the clock starts; 0 times the very first call, list included."""
    budget: float
    """No block starts after so many seconds of blocks."""
    temperature: float
    """Of the velocities at the start, K."""
    timestep: float
    """In fs."""


@dataclass(frozen=True)
class MdResult:
    """What was measured.

    Attributes
    ----------
    seconds
        (component, repeat) of each block.
    builds
        Builds of the neighbour list in all blocks.
    peak
        Peak memory of the process, bytes.
    """

    seconds: np.ndarray
    builds: int
    peak: float


def md(job: MdJob) -> MdResult:
    """Run NVE in blocks, after a short run of the small liquid has compiled and loaded all."""
    potential = hipnn.load(job.run_dir)
    small = liquid.tile(job.start, len(job.start), job.temperature, seed=0)
    small.calc = contestant(potential, job.backend, "cpu", job.skin)
    dynamics.nve(small, SMALL_STEPS, job.timestep)
    del small
    reset_peak(_CPU)
    atoms = liquid.tile(job.start, job.n_atoms, job.temperature, seed=0)
    atoms.calc = contestant(potential, job.backend, "cpu", job.skin)
    if job.warmup_steps == 0:
        return MdResult(_first_call(atoms), 1, peak(_CPU))
    dynamics.nve(atoms, job.warmup_steps, job.timestep)
    before, blocks = _builds(atoms.calc), []
    while len(blocks) < job.repeats and np.sum(blocks, axis=0, initial=0.0).max() < job.budget:
        blocks.append(dynamics.nve(atoms, job.n_steps, job.timestep).seconds.values)
    return MdResult(np.transpose(blocks), _builds(atoms.calc) - before, peak(_CPU))


def _first_call(atoms: Atoms) -> np.ndarray:
    """Seconds of one force call with its neighbour list, (component, 1)."""
    started = perf_counter()
    atoms.get_forces()
    total = perf_counter() - started
    timings = atoms.calc.timings
    return np.array([[total], [timings["neighbor_list"]], [timings["model"]], [0.0]])


def _builds(calculator: HipnnCalculator | StockCalculator) -> int:
    if isinstance(calculator, HipnnCalculator):
        return calculator.neighbor_list.n_builds
    return calculator.nl.nupdates


@dataclass(frozen=True)
class TrainJob:
    """Epochs of one model on the embedded data."""

    config: HipnnConfig
    """Architecture."""
    role: str
    """In :data:`kdlib.training.roles.ROLES`; decides which terms the loss has."""
    backend: str
    """``"hippynn"`` (stock layers) or ``"fused"``."""
    batch_size: int
    """Frames per optimizer step."""
    n_epochs: int
    """Epochs; a first one is run and discarded in addition."""
    dataset: str = "al-pbe"
    """Name or path of the reference data."""


def epochs(job: TrainJob) -> np.ndarray:
    """Seconds of every epoch (training pass and validation) after the first."""
    loop = _loop(job)
    for _ in range(job.n_epochs + 1):
        loop.run_epoch()
    return np.diff([row["seconds"] for row in loop.rows])


def brief_training(job: TrainJob, run_dir: Path) -> None:
    """Save a potential that has seen a few epochs: no good model, but one whose liquid holds."""
    loop = _loop(job)
    for _ in range(job.n_epochs):
        loop.run_epoch()
    hipnn.save(loop.best_module(), run_dir)


def _loop(job: TrainJob) -> Loop:
    frames = datasets.load(job.dataset)
    role = roles.role(job.role)
    # Any labels cost the same.
    labels: Sequence[np.ndarray] | None = (
        [np.zeros(len(atoms)) for atoms in frames] if role.learns_from_teacher else None
    )
    total = job.n_epochs + 1
    settings = TrainingConfig(batch_size=job.batch_size, max_epochs=total, backend=job.backend)
    split = datasets.split(frames)
    return Loop(job.config, settings, role.schedule(total), frames, split, labels)
