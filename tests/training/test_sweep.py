"""Sweeps: equal conditions, caching, dying workers."""

import os
import re
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdlib import datasets, hipnn, training
from kdlib.errors import InputError, Unfinished, WorkerKilled
from kdlib.results import schema
from kdlib.training import TrainingConfig, sweep
from kdlib.training.accuracy import evaluate
from kdlib.training.runs import CHECKPOINT, load_run


@pytest.fixture
def split(emt_frames):
    return datasets.split(emt_frames)


@pytest.fixture
def settings():
    return TrainingConfig(batch_size=8, max_epochs=2, backend="hippynn")


@pytest.fixture
def augmented(emt_frames, small_config):
    """Frames by seed: of each a teacher of its own."""
    teachers = {s: hipnn.Potential(hipnn.build(small_config, seed=5 + s)) for s in (0, 1)}
    return {seed: teacher.augment(emt_frames) for seed, teacher in teachers.items()}


def test_tasks_of_a_seed_differ_in_their_role_alone(small_config, settings):
    """Configuration, optimizer and seed are those of the control for every role."""
    roles = ["student", "control", "matched_control"]
    todo = sweep.tasks(roles, [small_config], settings, [0, 1])
    assert len(todo) == 6
    of_seed = [task for task in todo if task.training.seed == 1]
    assert {replace(task, role="") for task in of_seed} == {
        sweep.Task("", small_config, replace(settings, seed=1))
    }


def test_an_architecture_may_need_more_epochs(
    tmp_path, emt_frames, split, small_config, settings, augmented
):
    """All its roles have them; its files state what all trainings share, and its curves differ."""
    small = replace(small_config, n_features=small_config.n_features - 1)
    roles, configs = ["student", "control"], [small, small_config]
    todo = sweep.tasks(roles, configs, settings, [0], {sweep.size(small): 3})
    plain = sweep.tasks(roles, configs, settings, [0])
    assert [task.training.max_epochs for task in todo] == [3, 3, 2, 2]
    assert todo[2:] == plain[2:]
    assert todo[0].sibling(2).training.max_epochs == 6
    with ThreadPoolExecutor(1) as pool:
        runs = sweep.run(todo, augmented, split, tmp_path, pool)
    accuracy, history = sweep.accuracy(todo, runs, augmented, split), sweep.history(todo, runs)
    assert {"max_epochs"} == plain[0].training.attrs.keys() - accuracy.attrs.keys()
    assert accuracy.n_epochs.sel(architecture=[small.label, small_config.label], seed=0).values.T \
        .tolist() == [[3, 3], [2, 2]]  # fmt: skip
    for kind, ds in (("accuracy", accuracy), ("history", history)):
        schema.validate(schema.describe(ds, kind), kind)
    third = history.force_rmse.sel(epoch=3, split="valid", seed=0).notnull().all("role")
    assert third.architecture[third].values.tolist() == [small.label]


@pytest.mark.parametrize(
    ("epochs", "told"),
    [({"16-8": 9}, "epochs: '16-8' is none of the"), ({None: 2.5}, "must be a whole number")],
)
def test_epochs_of_nothing_are_refused(epochs, told, small_config, settings):
    """A slip in an architecture's name does not leave it with the usual epochs."""
    named = {name or sweep.size(small_config): count for name, count in epochs.items()}
    with pytest.raises(InputError, match=told):
        sweep.tasks(["control"], [small_config], settings, [0], named)


def test_a_profile_names_sizes_whatever_the_species(emt_frames, copper_frames, settings):
    """Names of results tell species and distances apart; a size with its epochs holds for all."""
    sizes = [[16, 8, 1], [32, 16, 2]]
    aluminum, copper = (sweep.configs(sizes, frames) for frames in (emt_frames, copper_frames))
    assert not {config.label for config in aluminum} & {config.label for config in copper}
    for configs, frames in ((aluminum, emt_frames), (copper, copper_frames)):
        assert [sweep.size(config) for config in configs] == ["16-8-1", "32-16-2"]
        assert {config.species for config in configs} == {tuple(datasets.species(frames))}
        todo = sweep.tasks(["control"], configs, settings, [0], {"32-16-2": 7})
        assert [task.training.max_epochs for task in todo] == [settings.max_epochs, 7]


def test_roles_that_learn_need_the_teacher_of_their_seed(
    tmp_path, emt_frames, split, small_config, settings, augmented
):
    """A student of seed 2 without a teacher of seed 2 is an error before any training."""
    todo = sweep.tasks(["student"], [small_config], settings, [0, 2])
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(InputError, match=r"no frames of seed 2, only of \[0, 1\]"):
            sweep.run(todo, augmented, split, tmp_path, pool)
        with pytest.raises(InputError, match="frame .*: carries no atomic energies"):
            sweep.run(todo, emt_frames, split, tmp_path, pool)
    assert not (tmp_path / "runs").exists()


def test_a_student_learns_from_the_teacher_of_its_seed(
    tmp_path, split, small_config, settings, augmented
):
    """Its labels are those of its seed, in training and in the table of errors."""
    todo = sweep.tasks(["student"], [small_config], settings, [0, 1])
    with ThreadPoolExecutor(1) as pool:
        runs = sweep.run(todo, augmented, split, tmp_path, pool)
    found = sweep.accuracy(todo, runs, augmented, split).atomic_energy_rmse.sel(split="test")
    for task, run in zip(todo, runs, strict=True):
        seed = task.training.seed
        frames = [augmented[seed][k] for k in split.test]
        own = np.concatenate([atoms.calc.results["energies"] for atoms in frames])
        expected = np.sqrt(
            np.mean((run.potential.predict(frames).atomic_energies.values - own) ** 2)
        )
        assert found.sel(seed=seed).item() == pytest.approx(expected, rel=1e-12)
        key = training.run_key(task.config, task.training, task.schedule, augmented[seed], split)
        assert run.run_dir.name == f"{task.name}_{key[:12]}"


def test_a_control_is_one_training_with_and_without_a_teacher(
    tmp_path, emt_frames, split, small_config, settings, augmented
):
    """It is found again when its frames carry atomic energies, and compared with the teacher."""
    todo = sweep.tasks(["control"], [small_config], settings, [0])
    with ThreadPoolExecutor(1) as pool:
        (alone,) = sweep.run(todo, emt_frames, split, tmp_path, pool)
        (beside,) = sweep.run(todo, augmented, split, tmp_path, pool)
    assert alone.run_dir == beside.run_dir
    assert sweep.accuracy(todo, [alone], emt_frames, split).atomic_energy_rmse.isnull().all()
    compared = sweep.accuracy(todo, [beside], augmented, split).atomic_energy_rmse
    assert compared.sel(split="test").item() > 0


def test_equal_initial_weights_and_batches_between_roles(
    tmp_path, split, small_config, settings, augmented
):
    """With a learning rate of nearly zero, student and control report the same training errors."""
    still = replace(settings, learning_rate=1e-12, max_epochs=1)
    roles = ["student", "control", "matched_control"]
    todo = sweep.tasks(roles, [small_config], still, [0])
    with ThreadPoolExecutor(1) as pool:
        runs = sweep.run(todo, augmented, split, tmp_path, pool)
    errors = [run.history.force_rmse.sel(split="train").item() for run in runs]
    np.testing.assert_allclose(errors, errors[0], rtol=1e-9)


def test_results_fit_the_schema_and_name_every_run(
    tmp_path, emt_frames, split, small_config, settings, augmented
):
    """Accuracy and history are valid result Datasets over role, architecture and seed."""
    todo = sweep.tasks(["student", "control"], [small_config], settings, [0, 1])
    with ThreadPoolExecutor(1) as pool:
        runs = sweep.run(todo, augmented, split, tmp_path, pool)
    accuracy = sweep.accuracy(todo, runs, augmented, split)
    history = sweep.history(todo, runs)
    schema.validate(schema.describe(accuracy, "accuracy"), "accuracy")
    schema.validate(schema.describe(history, "history"), "history")
    point = {"role": "control", "architecture": small_config.label, "seed": 1, "split": "test"}
    test = [emt_frames[k] for k in split.test]
    control = sweep.load(tmp_path, "control", small_config.label, 1)
    forces = np.concatenate([atoms.get_forces() for atoms in test])
    expected = np.sqrt(np.mean((control.predict(test).forces.values - forces) ** 2))
    assert accuracy.force_rmse.sel(point).item() == pytest.approx(expected, rel=1e-12)
    per_frame = accuracy.frame_force_mse.sel(
        role="control", architecture=small_config.label, seed=1
    )
    assert per_frame.mean().item() == pytest.approx(expected**2, rel=1e-12)  # equal sizes


def test_every_model_is_judged_within_its_own_cutoff(
    tmp_path, emt_frames, split, small_config, settings, augmented
):
    """Models share the pairs of the frames only where their cutoffs agree."""
    shorter = replace(small_config, n_features=small_config.n_features + 1, cutoff=4.8)
    todo = sweep.tasks(["control"], [small_config, shorter], settings, [0, 1])
    with ThreadPoolExecutor(1) as pool:
        runs = sweep.run(todo, augmented, split, tmp_path, pool)
    found = sweep.accuracy(todo, runs, augmented, split)
    for task, run in zip(todo, runs, strict=True):
        alone = evaluate(run.potential, augmented[task.training.seed], split)
        cell = found.sel(role="control", architecture=task.config.label, seed=task.training.seed)
        for name in ("force_rmse", "energy_rmse", "atomic_energy_rmse"):
            np.testing.assert_array_equal(cell[name], alone[name])


def test_finished_trainings_are_not_repeated(
    tmp_path, emt_frames, split, small_config, settings, terminal
):
    """The second sweep trains only what is new, and returns everything."""
    todo = sweep.tasks(["control"], [small_config], settings, [0, 1])
    trained = []
    with ThreadPoolExecutor(1) as pool:
        for wanted in (todo[:1], todo):
            runs = sweep.run(wanted, emt_frames, split, tmp_path, pool)
            trained.append(re.findall(r"([\w.-]+): \d+ epochs in", terminal()))
    assert trained == [[f"control_{small_config.label}_s{seed}"] for seed in (0, 1)]
    assert len(runs) == 2


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_the_floor_gain_is_that_of_twice_the_epochs(
    times, tmp_path, emt_frames, split, small_config, settings
):
    """It is that of the first seed, in the run and in its results; the whole run is kept."""
    todo = sweep.tasks(["control"], [small_config], settings, [1, 0])
    with ThreadPoolExecutor(1) as pool:
        runs = sweep.run(todo, emt_frames, split, tmp_path, pool, floor_check=times)
    # Without a change of the rate, half a training is the first half of the whole.
    longer = runs[0] if times < 1 else _sibling(tmp_path)
    force = longer.history.force_rmse.sel(split="valid").values
    half, whole = force.size // 2, force.size
    assert (longer.history.attrs["best_epoch"], whole) == (whole, 2 * max(1, times))
    gain = 1 - force[whole - 1] / force[half - 1]
    assert runs[0].floor_gain == gain > 0
    assert np.isnan(runs[1].floor_gain)
    for kind, ds in (
        ("accuracy", sweep.accuracy(todo, runs, emt_frames, split)),
        ("history", sweep.history(todo, runs)),
    ):
        schema.validate(schema.describe(ds, kind), kind)
        np.testing.assert_equal(ds.floor_gain.sel(seed=[1, 0]).values.ravel(), [gain, np.nan])
    kept = sweep.load(tmp_path, "control", small_config.label, 1).predict(emt_frames[:1]).energy
    assert kept.equals(runs[0].potential.predict(emt_frames[:1]).energy)


def _sibling(folder):
    (found,) = (folder / "runs").glob("*_x2_*")
    return load_run(found)


def test_half_a_task_is_equal_but_for_its_epochs(small_config, settings):
    """Its cosine and its stages of the loss are those of the whole, twice as fast."""
    longer = replace(settings, max_epochs=100, rate_schedule="cosine", seed=3)
    task = sweep.Task("born_again", small_config, longer)
    half = task.sibling(0.5)
    assert replace(half.training, max_epochs=100) == longer
    assert (half.training.max_epochs, half.role, half.config) == (50, task.role, small_config)
    assert half.training.scheduled_rate(50) == longer.scheduled_rate(100)
    starts, halves = ([start for start, _ in t.schedule.stages] for t in (task, half))
    assert halves == pytest.approx([start / 2 for start in starts], abs=1)
    once = replace(task, training=replace(longer, max_epochs=1))
    with pytest.raises(InputError, match="half of one epoch is no training"):
        once.sibling(0.5)
    for times in (3, 1, -1, "2"):
        with pytest.raises(InputError, match=f"floor_check: must be 2 or 0.5 .* got {times!r}"):
            task.sibling(times)


@pytest.mark.slow
def test_sweep_survives_a_dying_worker(tmp_path, emt_frames, split, small_config, settings):
    """Killing a worker process costs its current training, which is repeated."""
    # kernels that are compiled once for all processes
    longer = replace(settings, max_epochs=40, checkpoint_every=2, backend="fused")
    todo = sweep.tasks(["control"], [small_config], longer, [0])
    killed = []

    def kill_the_worker():
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not killed:
            if list((tmp_path / "runs").glob(f"*/{CHECKPOINT}")):
                mine = str(os.getpid())
                for stat in Path("/proc").glob("[0-9]*/stat"):
                    fields = stat.read_text().rsplit(")", 1)[1].split()
                    command = stat.with_name("cmdline").read_bytes()
                    if fields[1] == mine and b"spawn_main" in command:
                        os.kill(int(stat.parent.name), signal.SIGKILL)
                        killed.append(stat.parent.name)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_the_worker)
    killer.start()
    runs = sweep.run(todo, emt_frames, split, tmp_path, workers=1)
    killer.join()
    assert killed
    assert runs[0].history.sizes["epoch"] == 40


class Mortal(ThreadPoolExecutor):
    """An executor whose processes die."""

    def submit(self, *args, **kwargs):
        """Return a future that never had a chance."""
        future = Future()
        future.set_exception(BrokenExecutor())
        return future


def test_workers_that_always_die_are_one_sentence(
    tmp_path, emt_frames, split, small_config, settings
):
    """After some restarts the sweep names what is unfinished, and resumes when it is repeated."""
    todo = sweep.tasks(["control"], [small_config], settings, [0])
    who = f"died 4 times.*unfinished are {todo[0].name}: repeat the command"
    with Mortal(1) as pool, pytest.raises(WorkerKilled, match=who):
        sweep.run(todo, emt_frames, split, tmp_path, pool)
    with ThreadPoolExecutor(1) as pool:
        assert len(sweep.run(todo, emt_frames, split, tmp_path, pool)) == 1


def test_the_floor_is_checked_once_for_each_role_and_architecture(
    tmp_path, emt_frames, split, small_config, settings
):
    """Of each, the first seed has a sibling; without the check none has."""
    configs = [small_config, replace(small_config, n_features=7)]
    todo = sweep.tasks(["teacher", "control"], configs, settings, [1, 0])
    names = {task.name for task in todo}
    halves = {f"{name}_x2" for name in names if name.endswith("_s1")}
    assert len(halves) == 4
    for check, expected in ((2.0, names | halves), (0.0, names)):
        with Mortal(1) as pool, pytest.raises(WorkerKilled) as killed:
            sweep.run(todo, emt_frames, split, tmp_path, pool, floor_check=check)
        listed = str(killed.value).split("unfinished are ")[1].split(": ")[0]
        assert set(listed.split(", ")) == expected


def test_training_that_fails_is_not_hidden(tmp_path, emt_frames, split, small_config, settings):
    """An error of a training ends the sweep with that error."""
    wild = replace(settings, learning_rate=1e300)
    todo = sweep.tasks(["control"], [small_config], wild, [0])
    with ThreadPoolExecutor(1) as pool, pytest.raises(training.TrainingError, match="epoch 1"):
        sweep.run(todo, emt_frames, split, tmp_path, pool)


def test_workers_are_one_for_each_device_unless_chosen(
    tmp_path, emt_frames, split, small_config, settings, monkeypatch
):
    """Two CUDA devices have two workers; a number of workers, or a device by its name, stays."""
    seen = []

    @contextmanager
    def pool(count, devices):
        seen.append((count, devices))
        with ThreadPoolExecutor(1) as executor:
            yield executor

    monkeypatch.setattr(sweep.processes, "pool", pool)
    monkeypatch.setattr(sweep.processes, "cores", lambda: 1)
    monkeypatch.setattr(sweep.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sweep, "_train", lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
    for where, workers in (("cuda", None), ("cuda", 3), ("cuda:1", None), ("cpu", None)):
        monkeypatch.setattr(sweep, "torch_device", lambda name, where=where: torch.device(where))
        todo = sweep.tasks(["control"], [small_config], settings, [0, 1, 2, 3])
        with pytest.raises(ZeroDivisionError):
            sweep.run(todo, emt_frames, split, tmp_path, workers=workers)
    assert seen == [(2, 2), (3, 2), (1, 0), (1, 0)]


def test_memory_of_a_device_that_runs_out_is_one_sentence(
    tmp_path, emt_frames, split, small_config, settings, monkeypatch
):
    """The error says what to change, and that the command resumes."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sweep, "_train", full)
    todo = sweep.tasks(["control"], [small_config], settings, [0])
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(Unfinished, match="choose fewer workers.*resumes"),
    ):
        sweep.run(todo, emt_frames, split, tmp_path, pool)


@pytest.mark.cuda
def test_workers_that_share_a_device_train_as_on_the_cpu(tmp_path, emt_frames, split, small_config):
    """Two processes on one device end with the errors of the CPU, to what float32 allows."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    errors = {}
    for device in ("auto", "cpu"):
        settings = TrainingConfig(batch_size=8, max_epochs=2, device=device)
        todo = sweep.tasks(["control"], [small_config], settings, [0, 1])
        runs = sweep.run(todo, emt_frames, split, tmp_path / device, workers=2)
        errors[device] = [float(run.history.force_rmse[-1].sel(split="valid")) for run in runs]
    np.testing.assert_allclose(errors["auto"], errors["cpu"], rtol=1e-3)


def test_unfinished_potential_is_refused(tmp_path):
    """Loading what nobody trained names the run."""
    with pytest.raises(InputError, match="no finished run 'student_16-8-1_s0'"):
        sweep.load(tmp_path, "student", "16-8-1", 0)
