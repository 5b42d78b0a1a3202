"""Many trainings: tasks over roles, architectures and seeds, through any executor.

A finished training is recognized by its hash and not repeated. Trainings of a worker process that
dies are sent again; an interrupted one resumes from its checkpoint.

Whether trainings reach their floor is checked by siblings of twice the epochs. Those of half the
epochs cost less and tell less: where the second half of a training gains hardly anything, neither
would twice its epochs.

On CUDA devices the worker processes share them evenly, and without a number of workers there is one
for each device. Workers on one device take turns and share its memory, of which a finished training
keeps nothing.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xarray as xr
from ase import Atoms

from kdlib import processes, progress
from kdlib.datasets import Split, species
from kdlib.errors import InputError, Unfinished, WorkerKilled
from kdlib.files import locked, replacing, tidied
from kdlib.hipnn import HipnnConfig, Potential
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.calculator import torch_device
from kdlib.hipnn.device import release
from kdlib.hipnn.network import soft_min
from kdlib.training.accuracy import evaluate, joined_parts
from kdlib.training.config import TrainingConfig
from kdlib.training.losses import WeightSchedule
from kdlib.training.roles import role as role_named
from kdlib.training.runs import Run, fit, is_finished, load_run, run_key

#: How often trainings are sent again after the death of a worker process.
MAX_RESTARTS = 3
INDEX = "index.json"
#: Frames of all tasks, or those of each seed.
Frames = Sequence[Atoms] | Mapping[int, Sequence[Atoms]]


@dataclass(frozen=True)
class Task:
    """One training."""

    role: str
    """Name in :data:`kdlib.training.roles.ROLES`."""
    config: HipnnConfig
    training: TrainingConfig
    times: float = 1.0
    """Epochs over those of the task whose sibling this is; 1: it is no sibling."""

    @property
    def schedule(self) -> WeightSchedule:
        """Loss weights of the role over these epochs."""
        return role_named(self.role).schedule(self.training.max_epochs)

    @property
    def name(self) -> str:
        """Role, architecture and seed."""
        kind = f"_x{self.times:g}" if self.times != 1 else ""
        return f"{self.role}_{self.config.label}_s{self.training.seed}{kind}"

    def sibling(self, times: float) -> "Task":
        """The same training with so many times the epochs, over which its schedules are scaled."""
        epochs = int(times * self.training.max_epochs)
        if not checked_times(times) or not epochs:
            raise InputError(f"{self.name}: half of one epoch is no training, so floor_check can "
                             "only be 2")  # fmt: skip
        return replace(self, training=replace(self.training, max_epochs=epochs), times=times)


def checked_times(floor_check: float) -> float:
    """The setting ``floor_check`` of a profile.

    Raises
    ------
    InputError
        It is none of 0, 0.5 and 2.
    """
    if floor_check not in (0, 0.5, 2):
        raise InputError(f"floor_check: must be 2 or 0.5 (times the epochs), or 0, got "
                         f"{floor_check!r}")  # fmt: skip
    return floor_check


def configs(architectures: Iterable[Sequence[int]], frames: Sequence[Atoms]) -> list[HipnnConfig]:
    """Configurations of these sizes for the species and the distances of the data.

    A size is what a profile's ``architectures`` list: features, sensitivities and atom layers.
    """
    known = {"species": species(frames), "soft_min": soft_min(frames)}
    return [HipnnConfig(*numbers, **known) for numbers in architectures]


def size(config: HipnnConfig) -> str:
    """Size of a configuration, ``"16-8-1"``, whatever its species: how a profile names it."""
    return HipnnConfig(config.n_features, config.n_sensitivities, config.n_atom_layers).label


def tasks(
    roles: Sequence[str],
    configs: Sequence[HipnnConfig],
    settings: TrainingConfig,
    seeds: Sequence[int],
    epochs: Mapping[str, int] | None = None,
) -> list[Task]:
    """Every role at every architecture with every seed, which replaces that of ``settings``.

    ``epochs`` replaces ``max_epochs`` at some architectures, which it names as ``"16-8-1"``: small
    networks need more epochs to reach their floor. All roles of an architecture have equally many.

    Raises
    ------
    InputError
        ``epochs`` names an architecture that is not trained, or its number is not whole.
    """
    epochs = epochs or {}
    sizes = [size(config) for config in configs]
    for name, count in epochs.items():
        if name not in sizes:
            raise InputError(f"epochs: {name!r} is none of the architectures {', '.join(sizes)}")
        if type(count) is not int:
            raise InputError(f"epochs: those of {name} must be a whole number, got {count!r}")
    by_size = {name: replace(settings, max_epochs=count) for name, count in epochs.items()}
    return [
        Task(role_named(role).name, config, replace(by_size.get(name, settings), seed=seed))
        for config, name in zip(configs, sizes, strict=True)
        for role in roles
        for seed in seeds
    ]


def run(
    todo: Sequence[Task],
    frames: Frames,
    split: Split,
    folder: str | Path,
    executor: Executor | None = None,
    workers: int | None = None,
    *,
    floor_check: float = 0.0,
    listed: bool = True,
) -> list[Run]:
    """Train every unfinished task; results are in the order of the tasks.

    Parameters
    ----------
    frames, split
        Data of all tasks; if roles learn from teachers, frames with atomic energies by seed, so
        that the student of seed s learns from the teacher of seed s.
    folder
        Results folder; runs are stored in its ``runs``.
    executor
        By default ``workers`` spawned processes of one thread each, which share CUDA devices.
    workers
        Processes of the default executor; by default one per core, or per CUDA device if the
        trainings run there.
    floor_check
        The first seed of each role and architecture is trained with so many times the epochs, too
        (2 or 0.5), which gives these runs their ``floor_gain``; 0: it is not.
    listed
        Whether :func:`load` finds these trainings, in the place of earlier ones of their names.

    Raises
    ------
    InputError
        Before any training: a task has no frames, or they lack what its loss needs; or another
        command works in the folder.
    WorkerKilled
        Worker processes died again and again; the finished trainings are kept.
    Unfinished
        Memory of a CUDA device ran out; the finished trainings are kept.
    """
    siblings = _siblings(todo, floor_check) if floor_check else {}
    every = [*todo, *siblings.values()]
    with locked(folder):
        home = tidied(folder) / "runs"
        folders = {task.name: home / _folder_name(task, frames, split) for task in every}
        runs = _run(every, frames, split, folders, executor, workers)
        if listed:
            _register(home, folders)
    others = dict(zip(siblings, runs[len(todo) :], strict=True))
    return [
        _checked(found, others.get(task.name), floor_check)
        for task, found in zip(todo, runs, strict=False)
    ]


def _siblings(todo: Sequence[Task], times: float) -> dict[str, Task]:
    """Sibling of the first task of each role and architecture, by the name of that task."""
    first: dict[tuple[str, str], Task] = {}
    for task in todo:
        first.setdefault((task.role, task.config.label), task)
    return {task.name: task.sibling(times) for task in first.values()}


def _checked(found: Run, sibling: Run | None, times: float) -> Run:
    """Run with the gain of the longer one of it and its sibling, if it has one."""
    if sibling is None:
        return found
    shorter, longer = (found, sibling) if times > 1 else (sibling, found)
    return replace(found, floor_gain=1 - longer.valid_force_rmse / shorter.valid_force_rmse)


def _run(
    todo: Sequence[Task],
    frames: Frames,
    split: Split,
    folders: Mapping[str, Path],
    executor: Executor | None,
    workers: int | None,
) -> list[Run]:
    started = time.perf_counter()
    waiting = [task for task in todo if not is_finished(folders[task.name])]
    with progress.bar(total=len(todo), desc="trainings", unit="run") as bar:
        bar.update(len(todo) - len(waiting))
        for _ in range(MAX_RESTARTS + 1):
            if not waiting:
                break
            devices = _devices(waiting)
            count = min(workers or devices or processes.cores(), len(waiting))
            own = nullcontext(executor) if executor else processes.pool(count, devices=devices)
            with own as pool:
                for task in _finished(pool, waiting, frames, split, folders):
                    waiting = [other for other in waiting if other is not task]
                    bar.update()
                    progress.line(_line(task, folders[task.name], time.perf_counter() - started))
    if waiting:
        names = ", ".join(task.name for task in waiting)
        raise WorkerKilled(
            f"worker processes died {MAX_RESTARTS + 1} times, perhaps because memory ran out; "
            f"unfinished are {names}: repeat the command, which resumes them"
        )
    return [load_run(folders[task.name]) for task in todo]


def _devices(todo: Sequence[Task]) -> int:
    """CUDA devices to share; 0 where no training leaves the choice of one open."""
    found = {torch_device(task.training.device) for task in todo}
    return torch.cuda.device_count() if torch.device("cuda") in found else 0


def load(folder: str | Path, role: str, architecture: str, seed: int) -> Potential:
    """Potential from the latest sweep that trained it."""
    home = Path(folder) / "runs"
    name = f"{role}_{architecture}_s{seed}"
    index = (
        json.loads((home / INDEX).read_text(encoding="utf-8")) if (home / INDEX).exists() else {}
    )
    if name not in index:
        raise InputError(f"{home}: no finished run {name!r}; run the notebook that trains it")
    return load_run(home / index[name]).potential


def augmented(
    runs: Sequence[Run], seeds: Sequence[int], frames: Sequence[Atoms]
) -> dict[int, list[Atoms]]:
    """Frames with the atomic energies of each teacher, by its seed (eq. 4).

    The teachers share the pairs of the frames.
    """
    pairs = runs[0].potential.joined(frames, max_atoms=1)
    return {s: run.potential.augment(frames, pairs) for s, run in zip(seeds, runs, strict=True)}


def accuracy(done: Sequence[Task], runs: Sequence[Run], frames: Frames, split: Split) -> xr.Dataset:
    """Errors of every run on every part of the data, over role, architecture and seed.

    Frames as for :func:`run`: where they carry atomic energies, a run is compared with its teacher.
    """
    cells: list[xr.Dataset] = []
    joined: dict[tuple, dict[str, list[Batch]]] = {}  # of the positions, which all seeds share
    for task, finished in zip(done, runs, strict=True):
        chosen, kind = _frames_of(task, frames), (task.config.cutoff, task.config.dtype)
        if kind not in joined:
            joined[kind] = joined_parts(finished.potential, chosen, split)
        ds = evaluate(finished.potential, chosen, split, joined[kind])
        ds["n_epochs"] = finished.history.sizes["epoch"]
        ds["best_epoch"] = finished.history.attrs["best_epoch"]
        ds["training_time"] = float(finished.history.seconds[-1])
        cells.append(_cell(ds, task, finished))
    return xr.combine_by_coords(cells, combine_attrs="drop").assign_attrs(
        kind="accuracy", **_settings(done)
    )


def history(done: Sequence[Task], runs: Sequence[Run]) -> xr.Dataset:
    """Histories of all runs; NaN after the last epoch of each."""
    cells = [
        _cell(finished.history.drop_attrs(), task, finished)
        for task, finished in zip(done, runs, strict=True)
    ]
    cells = xr.align(*cells, join="outer", exclude=["role", "architecture", "seed"])
    return xr.combine_by_coords(cells).assign_attrs(kind="history", **_settings(done))


def _settings(done: Sequence[Task]) -> dict[str, object]:
    """Attributes of a result file: settings that all runs share."""
    first, *others = [
        task.training.attrs | {name: getattr(task.config, name) for name in ("cusp_reg", "resnet")}
        for task in done
    ]
    return {k: v for k, v in first.items() if all(other[k] == v for other in others)}


def _cell(ds: xr.Dataset, task: Task, finished: Run) -> xr.Dataset:
    """Dataset of one run as a cell of the grid role x architecture x seed."""
    config = task.config
    grid = {"role": task.role, "architecture": config.label, "seed": task.training.seed}
    ds = ds.assign(floor_gain=finished.floor_gain)
    ds = ds.expand_dims({name: [value] for name, value in grid.items()})
    counts = finished.potential.counts
    return ds.assign_coords({name: ("architecture", [n]) for name, n in counts.items()})


def _frames_of(task: Task, frames: Frames) -> Sequence[Atoms]:
    """Frames of a task: those of all tasks, or those of its seed."""
    if not isinstance(frames, Mapping):
        return frames
    if task.training.seed not in frames:
        raise InputError(f"{task.name}: there are no frames of seed {task.training.seed}, only of "
                         f"{list(frames)}")  # fmt: skip
    return frames[task.training.seed]


def _folder_name(task: Task, frames: Frames, split: Split) -> str:
    chosen = _frames_of(task, frames)
    key = run_key(task.config, task.training, task.schedule, chosen, split)
    return f"{task.name}_{key[:12]}"


def _finished(
    pool: Executor,
    waiting: Sequence[Task],
    frames: Frames,
    split: Split,
    folders: Mapping[str, Path],
) -> Iterable[Task]:
    """Yield tasks as they finish, largest model first; stop if a worker process dies."""
    largest_first = sorted(waiting, key=lambda task: -_cost(task.config))
    futures = {
        pool.submit(_train, task, _frames_of(task, frames), split, folders[task.name]): task
        for task in largest_first
    }
    try:
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenExecutor:
        return
    except torch.OutOfMemoryError as error:
        raise Unfinished(
            "the memory of a CUDA device ran out: choose fewer workers, which share it, or a "
            "smaller batch_size; repeat the command, which resumes"
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _cost(config: HipnnConfig) -> int:
    return config.n_atom_layers * config.n_features**2 + config.n_features * config.n_sensitivities


def _train(task: Task, frames: Sequence[Atoms], split: Split, run_dir: Path) -> None:
    try:
        fit(task.config, task.training, task.schedule, frames, split, run_dir)
    finally:
        release()  # for the workers beside this one


def _line(task: Task, run_dir: Path, elapsed: float) -> str:
    finished = load_run(run_dir)
    ds = finished.history
    return (
        f"{task.name}: {ds.sizes['epoch']} epochs in {float(ds.seconds[-1]):.0f} s, validation "
        f"force RMSE {finished.valid_force_rmse:.3f} eV/Angstrom ({elapsed:.0f} s since the start)"
    )


def _register(home: Path, folders: Mapping[str, Path]) -> None:
    path = home / INDEX
    index = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    index |= {name: run_dir.name for name, run_dir in folders.items()}
    with replacing(path) as part:
        part.write_text(json.dumps(dict(sorted(index.items())), indent=1) + "\n", encoding="utf-8")
