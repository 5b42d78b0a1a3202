"""The training loop: reproducibility, resumption, selection, faults."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors.torch import load_file

import kdlib
from kdlib import datasets, hipnn, teachers, training
from kdlib.errors import InputError
from kdlib.hipnn import batches
from kdlib.hipnn.potential import WEIGHTS as WEIGHTS_FILE
from kdlib.results import sources
from kdlib.training import TrainingConfig, TrainingError, loop, losses, roles, runs
from kdlib.training.loop import Loop
from kdlib.training.losses import LossWeights, WeightSchedule
from kdlib.training.runs import CHECKPOINT

WEIGHTS = LossWeights(energy=1, force=10)
PACKAGE = Path(kdlib.__file__).parent


@pytest.fixture
def split(emt_frames):
    return datasets.split(emt_frames)


@pytest.fixture
def settings() -> TrainingConfig:
    return TrainingConfig(
        batch_size=8, max_epochs=4, learning_rate=1e-2, checkpoint_every=1, backend="hippynn"
    )


def weights_of(run_dir) -> dict[str, torch.Tensor]:
    return load_file(run_dir / WEIGHTS_FILE)


def taught(frames, shift=0.0):
    """Frames with atomic energies that differ from atom to atom."""
    values = np.linspace(-1, 1, 4 * len(frames)) + shift
    return datasets.with_energies(frames, np.split(values, len(frames)))


def assert_same_weights(one, other) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_training_reduces_the_error(tmp_path, emt_frames, split, small_config, settings):
    """Thirty epochs on EMT aluminum cut the validation force error by more than half."""
    longer = dataclasses.replace(settings, max_epochs=30)
    run = training.fit(small_config, longer, WEIGHTS, emt_frames, split, tmp_path / "run")
    force = run.history.force_rmse.sel(split="valid").values
    assert force[-1] < 0.5 * force[0]
    assert run.history.attrs["best_epoch"] == run.history.selection.values.argmin() + 1


def test_kept_weights_are_those_of_the_best_epoch(
    tmp_path, emt_frames, split, small_config, settings
):
    """The stored validation error is recomputed from the stored model."""
    run = training.fit(small_config, settings, WEIGHTS, emt_frames, split, tmp_path / "run")
    best = run.history.sel(epoch=run.history.attrs["best_epoch"], split="valid")
    ds = run.potential.predict([emt_frames[k] for k in split.valid])
    reference = np.concatenate([emt_frames[k].get_forces() for k in split.valid])
    found = np.sqrt(np.mean((ds.forces.values - reference) ** 2))
    assert found == pytest.approx(best.force_rmse.item(), rel=1e-10)


def test_same_seed_same_weights(tmp_path, emt_frames, split, small_config, settings):
    """Bit by bit, whatever random numbers were drawn in between; another seed differs."""
    for name in ("one", "two"):
        training.fit(small_config, settings, WEIGHTS, emt_frames, split, tmp_path / name)
        torch.rand(3)
        np.random.default_rng().random(3)
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    other = dataclasses.replace(settings, seed=1)
    training.fit(small_config, other, WEIGHTS, emt_frames, split, tmp_path / "other")
    name = "network.blocks.0.0.base_layer.int_weights"
    assert not torch.equal(weights_of(tmp_path / "one")[name], weights_of(tmp_path / "other")[name])


def test_label_weight_zero_is_the_control(tmp_path, emt_frames, split, small_config, settings):
    """A student with w_A = 0 ends with the control's weights, labels or not."""
    augmented = taught(emt_frames)
    training.fit(small_config, settings, WEIGHTS, emt_frames, split, tmp_path / "control")
    training.fit(small_config, settings, WEIGHTS, augmented, split, tmp_path / "student")
    assert_same_weights(tmp_path / "control", tmp_path / "student")


_SCRIPT = """
import sys
import torch
from ase.io import read
from kdlib import datasets, hipnn, teachers, training
from kdlib.training import roles
from kdlib.training.losses import TABLE_1
torch.set_num_threads(1)
frames = datasets.load(sys.argv[1])
teacher = hipnn.build(hipnn.HipnnConfig(6, 5, 1, cutoff=5.0, soft_max=4.5), 5)
frames = hipnn.Potential(teacher).augment(frames)
config = hipnn.HipnnConfig(6, 5, 1, cutoff=5.0, soft_max=4.5)
settings = training.TrainingConfig(batch_size=4, max_epochs=20, checkpoint_every=2)
schedule = TABLE_1.scaled(20)
for folder in sys.argv[2:]:
    training.fit(config, settings, schedule, frames, datasets.split(frames), folder)
"""


@pytest.mark.slow
def test_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, emt_frames):
    """After SIGKILL and a restart, every bit of the weights and the errors is the same."""
    from ase.io import write

    data = tmp_path / "frames.extxyz"
    write(data, emt_frames)

    def command(*run_dirs):
        return [sys.executable, "-c", _SCRIPT, data, *run_dirs]

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = subprocess.Popen(command(broken))
    checkpoint = broken / CHECKPOINT
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken / runs.HISTORY).exists()
    subprocess.run(command(broken, whole), check=True)
    assert_same_weights(broken, whole)
    one, other = training.load_run(broken).history, training.load_run(whole).history
    xr.testing.assert_identical(
        one.drop_vars("seconds").drop_attrs(), other.drop_vars("seconds").drop_attrs()
    )


def test_finished_run_is_not_repeated(tmp_path, emt_frames, split, small_config, settings):
    """The second call loads; a change of any setting, label or datum is another run."""
    run_dir = tmp_path / "run"
    training.fit(small_config, settings, WEIGHTS, emt_frames, split, run_dir)
    before = (run_dir / WEIGHTS_FILE).stat().st_mtime_ns
    training.fit(small_config, settings, WEIGHTS, emt_frames, split, run_dir)
    assert (run_dir / WEIGHTS_FILE).stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds another run"):
        training.fit(small_config, settings, LossWeights(force=30), emt_frames, split, run_dir)


@pytest.mark.parametrize("backend", ["hippynn", "fused"])
def test_model_of_a_run_has_the_kernels_of_its_training(
    tmp_path, emt_frames, split, small_config, settings, backend
):
    """A model keeps its training backend, because evaluation is most of a short sweep's time."""
    quick = dataclasses.replace(settings, max_epochs=1, backend=backend)
    run = training.fit(small_config, quick, WEIGHTS, emt_frames, split, tmp_path / "run")
    layer = run.potential.module.network.interaction_layers[0]
    assert type(layer).__module__.startswith("kdlib.hipnn.kernels") == (backend == "fused")


def test_key_follows_settings_split_and_code(
    monkeypatch, emt_frames, split, small_config, settings
):
    """Settings, loss, split and code change the key; the checkpoint interval does not."""
    plain, data = WeightSchedule.constant(WEIGHTS), (emt_frames, split)
    key = training.run_key(small_config, settings, plain, *data)
    seldom = dataclasses.replace(settings, checkpoint_every=99)
    assert training.run_key(small_config, seldom, plain, *data) == key
    heavier = WeightSchedule.constant(LossWeights(force=30))
    other_split = datasets.split(emt_frames, seed=1)
    others = {
        key,
        training.run_key(small_config, settings, heavier, *data),
        training.run_key(small_config, dataclasses.replace(settings, seed=7), plain, *data),
        training.run_key(small_config, settings, plain, emt_frames, other_split),
        training.run_key(hipnn.HipnnConfig(), settings, plain, *data),
    }
    monkeypatch.setattr(runs, "_code", lambda: ("other code",))
    others.add(training.run_key(small_config, settings, plain, *data))
    assert len(others) == 6


def relabeled(frames, k, name, value):
    """Copies of frames, the k-th with another label or weight."""
    copies = [atoms.copy() for atoms in frames]
    for n, (copy, atoms) in enumerate(zip(copies, frames, strict=True)):
        changed = n == k and name != datasets.WEIGHT
        known = atoms.calc.results | ({name: value} if changed else {})
        copy.calc = SinglePointCalculator(copy, **known)
    if name == datasets.WEIGHT:
        copies[k].info[name] = value
    return copies


LABELS = {
    "energy": (-1.0, "always"),
    "forces": (np.ones((4, 3)), "always"),
    datasets.WEIGHT: (2.0, "always"),
    "stress": (np.ones(6), "stress"),
    "energies": (np.ones(4), "teacher"),
}


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize("name", LABELS)
def test_key_follows_the_labels_that_are_read(
    emt_frames, split, small_config, settings, name, part
):
    """A label of a train or valid frame changes the keys of those trainings that look at it."""
    looking = dataclasses.replace(settings, selection_stress=1.0)
    trainings = {
        "control": (settings, LossWeights(), "always"),
        "student": (settings, LossWeights(atomic_energy=100), "teacher"),
        "total energy": (settings, LossWeights(total_energy=100), "teacher"),
        "stress": (settings, LossWeights(stress=100), "stress"),
        "selection by stress": (looking, LossWeights(), "stress"),
    }
    frames, (value, reader) = taught(emt_frames), LABELS[name]
    changed = relabeled(frames, getattr(split, part)[0], name, value)
    for config, weights, kind in trainings.values():
        schedule = WeightSchedule.constant(weights)
        one, other = (
            training.run_key(small_config, config, schedule, f, split) for f in (frames, changed)
        )
        assert (one != other) == (part != "test" and reader in ("always", kind))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose modules a test may edit, in place of the real one."""
    root = tmp_path / "kdlib"
    for path in PACKAGE.rglob("*.py"):
        copy = root / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    monkeypatch.setattr("kdlib.results.sources._ROOT", root)
    return root


@pytest.mark.parametrize(
    ("module", "old", "new", "counts"),
    [
        (
            "training/losses.py",
            "return rmse + difference.abs()",
            "return rmse - difference.abs()",
            True,
        ),
        ("hipnn/kernels/elementary.py", "import math", "import math  # a comment", False),
        ("training/losses.py", "Eq. 3: RMSE plus MAE", "Eq. 3: the sum of RMSE and MAE", False),
        ("training/losses.py", "from collections.abc", "\n\nfrom collections.abc", False),
        ("figures/style.py", "import matplotlib", "import json\nimport matplotlib", False),
        ("md/dynamics.py", "import numpy as np", "import json\nimport numpy as np", False),
        ("hipnn/batches.py", "import numpy as np", "import json\nimport numpy as np", True),
    ],
)
def test_key_follows_what_the_code_computes(package, module, old, new, counts):
    """A changed loss counts; a comment, a docstring, a blank line, a figure or MD does not."""
    before = runs._code.__wrapped__()
    source = (package / module).read_text()
    assert old in source
    (package / module).write_text(source.replace(old, new, 1))
    assert (runs._code.__wrapped__() != before) == counts


_IMPORTS = """
import sys
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from kdlib import datasets, hipnn, training
frames = []
for k in range(20):
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=k)
    atoms.calc = EMT()
    labels = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    frames.append(atoms)
config = hipnn.HipnnConfig(4, 5, 1, cutoff=5.0, soft_max=4.5)
frames = hipnn.Potential(hipnn.build(config)).augment(frames)
settings = training.TrainingConfig(max_epochs=2, checkpoint_every=1)
weights = training.LossWeights(atomic_energy=1, stress=1)
training.fit(config, settings, weights, frames, datasets.split(frames), sys.argv[1])
print(*(name for name in sys.modules if name.startswith("kdlib.")))
"""


def test_code_of_a_training_is_what_it_imports(tmp_path):
    """Neither more nor less than the modules in memory after a training of everything."""
    command = [sys.executable, "-c", _IMPORTS, str(tmp_path / "run")]
    interpreted = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # compiling would take longer
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=interpreted)
    assert set(sources.closure("import kdlib.training", deferred=False)) == set(done.stdout.split())


def test_learning_rate_is_halved_and_training_stops(
    tmp_path, emt_frames, split, small_config, settings
):
    """With a learning rate of nearly nothing patience runs out: halvings, then the end."""
    stuck = dataclasses.replace(
        settings, max_epochs=40, learning_rate=1e-2, lr_patience=2, stop_patience=5
    )
    nothing = LossWeights(energy=0, force=0, l2=1.0, hierarchicality=0)
    run = training.fit(small_config, stuck, nothing, emt_frames, split, tmp_path / "run")
    best, epochs = run.history.attrs["best_epoch"], run.history.sizes["epoch"]
    assert epochs == best + 5
    rates = run.history.learning_rate.sel(epoch=slice(best + 1, None)).values
    np.testing.assert_allclose(rates / rates[0], [1, 1, 0.5, 0.5, 0.25])


def test_learning_rate_follows_a_cosine(tmp_path, emt_frames, split, small_config, settings):
    """Three equal steps up, then half a cosine down to the final share, without early stopping."""
    cosine = dataclasses.replace(
        settings, rate_schedule="cosine", warmup_epochs=3, max_epochs=11, final_rate=0.2,
        learning_rate=0.3, lr_patience=1, stop_patience=1,
    )  # fmt: skip
    run = training.fit(small_config, cosine, LossWeights(), emt_frames, split, tmp_path / "run")
    rates = run.history.learning_rate.values
    np.testing.assert_allclose(rates[:4], [0.1, 0.2, 0.3, 0.3])
    assert rates[7] == pytest.approx(0.3 * (0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi * 4 / 7))))
    assert rates[-1] == pytest.approx(0.06)
    assert len(rates) == 11


def test_selection_counts_energies_at_the_cell_size(
    tmp_path, emt_frames, split, small_config, settings
):
    """With weights at 130 atoms, the measure of improvement is that of the error per atom."""
    referred = dataclasses.replace(settings, cell_atoms=130)
    run = training.fit(small_config, referred, LossWeights(), emt_frames, split, tmp_path / "run")
    valid = run.history.sel(split="valid")
    energy, force = (valid[f"{n}_rmse"] + valid[f"{n}_mae"] for n in ("energy", "force"))
    np.testing.assert_allclose(run.history.selection, 130 * energy + 10 * force)


def test_schedule_selects_from_its_last_stage(tmp_path, emt_frames, split, small_config, settings):
    """The best epoch is one of the last stage, however good the earlier ones were."""
    stages = WeightSchedule(((1, WEIGHTS), (4, LossWeights(force=10, l2=1.0))))
    run = training.fit(small_config, settings, stages, emt_frames, split, tmp_path / "run")
    assert run.history.attrs["best_epoch"] == 4
    assert run.history.loss_term.sel(term="l2").notnull().all()
    np.testing.assert_array_equal(run.history.weight_force, 10)


def test_exploding_loss_names_epoch_batch_and_frames(
    tmp_path, emt_frames, split, small_config, settings
):
    """A loss that is not finite stops the run and says where."""
    wild = dataclasses.replace(settings, learning_rate=1e300)
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1: the loss is .* \(frames \d+"):
        training.fit(small_config, wild, WEIGHTS, emt_frames, split, tmp_path / "run")
    assert not (tmp_path / "run" / runs.HISTORY).exists()


STOPS = {
    "killed before the first checkpoint": (1, KeyboardInterrupt()),
    "the disk is full": (3, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "the loss is not finite": (3, TrainingError("epoch 3, batch 0: the loss is nan")),
}


def test_a_stopped_training_is_no_model(
    monkeypatch, tmp_path, emt_frames, split, small_config, settings
):
    """Whatever stops it, its folder is refused until the repeated call has ended as if unbroken."""
    arguments, run_epoch = (small_config, settings, WEIGHTS, emt_frames, split), Loop.run_epoch
    training.fit(*arguments, tmp_path / "whole")
    for name, (last, error) in STOPS.items():
        broken = tmp_path / name

        def stopping(begun, last=last, error=error):
            if begun.epoch + 1 == last:
                raise error
            run_epoch(begun)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "run_epoch", stopping)
            with pytest.raises(type(error)):
                training.fit(*arguments, broken)
        for load in (kdlib.load, training.load_run, lambda path: teachers.load(f"kdlib:{path}")):
            with pytest.raises(InputError, match=f"{name}: its training is not finished; repeat"):
                load(broken)
        training.fit(*arguments, broken)
        assert_same_weights(broken, tmp_path / "whole")


def test_a_training_that_ends_between_its_last_files_is_repeated(
    monkeypatch, tmp_path, emt_frames, split, small_config, settings
):
    """Killed before the weights or before the checkpoint is gone: refused, then whole."""
    arguments = (small_config, settings, WEIGHTS, emt_frames, split)
    for name, method in (("hipnn.save", "save"), ("the checkpoint's end", "unlink")):
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            _interrupt(patch, method)
            with pytest.raises(KeyboardInterrupt):
                training.fit(*arguments, folder)
        assert (folder / runs.HISTORY).exists()
        with pytest.raises(InputError, match="is not finished"):
            kdlib.load(folder)
        assert training.fit(*arguments, folder).history.sizes["epoch"] == 4


def _interrupt(patch, method) -> None:
    """Make a training end before its weights are saved, or before its checkpoint is removed."""

    def end(path, *arguments, **options):
        if method == "save" or path.name == CHECKPOINT:
            raise KeyboardInterrupt
        unlink(path, *arguments, **options)

    unlink = Path.unlink
    patch.setattr(*((hipnn, "save", end) if method == "save" else (Path, "unlink", end)))


def test_weights_so_far_are_those_of_the_best_epoch(
    monkeypatch, tmp_path, emt_frames, split, small_config, settings
):
    """They have the validation error of the best epoch, and a warning names both epochs."""
    selection = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(Loop, "_selection", lambda begun, row: next(selection))
    with pytest.raises(StopIteration):
        training.fit(small_config, settings, WEIGHTS, emt_frames, split, tmp_path / "run")
    rows = loop.load(tmp_path / "run" / CHECKPOINT)[1]["rows"]
    with pytest.warns(UserWarning, match="run: weights of epoch 2, the best of 3 so far; the"):
        potential = training.load_unfinished(tmp_path / "run")
    valid = [emt_frames[k] for k in split.valid]
    error = potential.predict(valid).forces.values - np.concatenate([a.get_forces() for a in valid])
    assert np.sqrt(np.mean(error**2)) == pytest.approx(rows[1]["force_rmse_valid"], rel=1e-6)


def test_weights_so_far_need_a_checkpoint(tmp_path, emt_frames, split, small_config, settings):
    """A finished training is a model, and has no checkpoint."""
    training.fit(small_config, settings, WEIGHTS, emt_frames, split, tmp_path / "run")
    with pytest.raises(InputError, match="run: holds no checkpoint of a training"):
        training.load_unfinished(tmp_path / "run")


def test_a_model_may_be_copied_without_its_history(
    tmp_path, emt_frames, split, small_config, settings
):
    """Weights and settings of a finished training are a model elsewhere, too."""
    training.fit(small_config, settings, WEIGHTS, emt_frames, split, tmp_path / "run")
    (tmp_path / "copy").mkdir()
    for name in (WEIGHTS_FILE, hipnn.CONFIG):
        shutil.copy(tmp_path / "run" / name, tmp_path / "copy")
    assert kdlib.load(tmp_path / "copy").config == small_config


def test_an_explosion_in_the_last_step_is_no_model(
    monkeypatch, tmp_path, emt_frames, split, small_config, settings
):
    """The last loss is finite, but weights after the step are not: the validation part tells."""
    once = dataclasses.replace(settings, max_epochs=1, batch_size=64, learning_rate=1e300)
    with pytest.raises(TrainingError, match="epoch 1: the error on the validation part is"):
        training.fit(small_config, once, WEIGHTS, emt_frames, split, tmp_path / "run")
    with pytest.raises(InputError, match="is not finished"):
        kdlib.load(tmp_path / "run")


def test_missing_or_broken_labels_are_refused(tmp_path, emt_frames, split, small_config, settings):
    """Atomic energies that the loss needs must be there, finite, one per atom."""
    first, *_ = split.train

    def fit(frames):
        student = LossWeights(atomic_energy=100)
        training.fit(small_config, settings, student, frames, split, tmp_path / "run")

    with pytest.raises(
        InputError, match=f"frame {first}: carries no atomic energies, but the loss"
    ):
        fit(emt_frames)
    for values, message in (
        (np.zeros(7), r"atomic energies have shape \(7,\), must be \(4,\)"),
        (np.array([0, np.nan, 0, 0]), "its atomic energies are not finite"),
    ):
        frames = taught(emt_frames)
        frames[first].calc.results["energies"] = values
        with pytest.raises(InputError, match=f"frame {first}: {message}"):
            fit(frames)
    assert not (tmp_path / "run").exists()


def test_foreign_species_are_refused_before_training(
    tmp_path, emt_frames, split, small_config, settings
):
    """Frames of another element are an error that names the frame."""
    gold = dataclasses.replace(small_config, species=("Au",))
    with pytest.raises(
        InputError, match="Au is in the model's configuration, but in no training frame"
    ):
        training.fit(gold, settings, WEIGHTS, emt_frames, split, tmp_path / "run")


def test_damaged_checkpoint_is_named(tmp_path, emt_frames, split, small_config, settings):
    """A truncated checkpoint is one error naming the file."""
    run_dir = tmp_path / "run"
    training.fit(small_config, settings, WEIGHTS, emt_frames, split, run_dir)
    (run_dir / runs.HISTORY).unlink()
    (run_dir / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: not a readable checkpoint"):
        training.fit(small_config, settings, WEIGHTS, emt_frames, split, run_dir)


def test_config_file_tells_how_the_model_came_about(
    tmp_path, emt_frames, split, small_config, settings
):
    """The JSON beside the weights holds architecture, training, loss weights and split."""
    training.fit(small_config, settings, WEIGHTS, emt_frames, split, tmp_path / "run")
    record = json.loads((tmp_path / "run" / hipnn.CONFIG).read_text())
    assert record["hipnn"]["n_features"] == 6
    assert record["training"]["batch_size"] == 8
    assert record["weights"][0][1]["force"] == 10
    assert record["split_sha256"] == split.sha256


def test_student_of_a_perfect_teacher_learns_its_partition(
    tmp_path, emt_frames, split, small_config, settings
):
    """Labels pull the student's atomic energies towards the teacher's."""
    teacher = hipnn.Potential(hipnn.build(small_config, seed=5))
    augmented = teacher.augment(emt_frames)
    longer = dataclasses.replace(settings, max_epochs=20)
    only = LossWeights(energy=0, force=0, atomic_energy=100)
    run = training.fit(small_config, longer, only, augmented, split, tmp_path / "student")
    error = run.history.atomic_energy_rmse.sel(split="valid").values
    assert error[-1] < 0.3 * error[0]


EVERYTHING = {
    "optimizer": "soap", "weight_decay": 0.1,
    "batch_size": 2, "max_epochs": 7, "learning_rate": 1, "lr_factor": 0.7, "lr_patience": 3,
    "stop_patience": 4, "selection": "training_loss", "selection_energy": 2.0,
    "selection_force": 3.0, "selection_stress": 4.0, "e0_decay": 0.1, "checkpoint_every": 5,
    "backend": "hippynn", "device": "auto", "rate_schedule": "cosine", "warmup_epochs": 6,
    "final_rate": 0.3, "cell_atoms": 130.0,
}  # fmt: skip


def test_every_setting_but_the_seed_comes_from_a_mapping():
    """A profile can set each field; what decides a training is kept in result files."""
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    assert names == {*EVERYTHING, "seed"}
    config = TrainingConfig.of(EVERYTHING)
    assert {name: getattr(config, name) for name in EVERYTHING} == EVERYTHING
    assert all(getattr(TrainingConfig(), name) != value for name, value in EVERYTHING.items())
    assert set(config.attrs) == set(EVERYTHING) - {"device", "checkpoint_every"}
    assert config.attrs["max_epochs"] == 7
    assert TrainingConfig.of({}) == TrainingConfig()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batchsize": 3}, r"training: no setting 'batchsize' \(there are: batch_size, max_epochs"),
        ({"seed": 3}, "training: no setting 'seed'"),
        ({"batch_size": 3.0}, "training: batch_size must be int, got 3.0"),
        ({"max_epochs": True}, "training: max_epochs must be int, got True"),
        ({"device": 0}, "training: device must be str, got 0"),
        ({"learning_rate": "1e-3"}, r"must be float, got '1e-3' \(in YAML: 1.0e-3"),
        ({"batch_size": 0}, "batch_size is 0, must be > 0"),
        ({"weight_decay": 0.1}, "weight_decay needs the optimizer 'soap'"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1, must be >= 0"),
        ({"device": "gpu"}, "device is 'gpu', must be 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, message):
    """Unknown names, other types and values out of range."""
    with pytest.raises(InputError, match=message):
        TrainingConfig.of(settings)


def _after(n_epochs, emt_frames, split, config, backend):
    """The loop of a student after some epochs, as one of its own."""
    energies = [np.full(len(atoms), 0.1 * k) for k, atoms in enumerate(emt_frames)]
    frames = datasets.with_energies(emt_frames, energies)
    settings = TrainingConfig(batch_size=8, max_epochs=10, learning_rate=1e-3, backend=backend)
    schedule = roles.role("student").schedule(10)
    trained = Loop(config, settings, schedule, frames, split)
    for _ in range(n_epochs):
        trained.run_epoch()
    return trained


def test_ten_epochs_with_fused_kernels_are_those_of_hippynn(emt_frames, split, small_config):
    """Float64, same seed: all losses and errors of ten epochs agree to 1e-6."""
    config = dataclasses.replace(small_config, dtype="float64")
    stock, fused = (
        _after(10, emt_frames, split, config, backend).history() for backend in ("hippynn", "fused")
    )
    assert stock.loss[-1] != pytest.approx(float(stock.loss[0]))
    for name in ("loss", "loss_term", "selection", "force_rmse", "energy_mae"):
        np.testing.assert_allclose(fused[name], stock[name], rtol=1e-6, atol=1e-12, err_msg=name)


def test_first_step_in_single_precision_is_that_of_hippynn(emt_frames, split, small_config):
    """Loss and gradients of a student's first batch, float32."""
    config = dataclasses.replace(small_config, dtype="float32")
    stock, fused = (_after(0, emt_frames, split, config, b) for b in ("hippynn", "fused"))
    weights = stock.schedule.at(1)
    batch = batches.collate(stock.train)
    prediction = stock.module(batch, create_graph=True)
    loss = losses.total(losses.terms(stock.module, prediction, batch, weights), weights)
    found = {"hippynn": (loss, *torch.autograd.grad(loss, stock.trainable))}
    values, _ = fused._direct.gradient(np.arange(len(stock.train)), weights)
    slopes = [fused._direct.flat.both(p)[1] for p in fused.trainable]
    found["fused"] = (torch.tensor(values["loss"], dtype=torch.float32), *slopes)
    for fused, stock in zip(found["fused"], found["hippynn"], strict=True):
        scale = float(stock.detach().abs().max())
        torch.testing.assert_close(fused, stock, rtol=1e-4, atol=1e-4 * scale)


def test_targets_do_not_know_the_energies_of_free_atoms(emt_frames, split, small_config):
    """Constants of -25 keV an atom change no target of a float32 training by more than rounding.

    They are all in E0; after an epoch the errors of the energies are the same, too.
    """
    config = dataclasses.replace(small_config, dtype="float32")
    loops, constant = [], -25560.123456789
    for added in (0.0, constant):
        frames = [atoms.copy() for atoms in emt_frames]
        for atoms, known in zip(frames, taught(emt_frames), strict=True):
            results = dict(known.calc.results)
            results["energy"] = results["energy"] + added * len(atoms)
            results["energies"] = results["energies"] + added
            atoms.calc = SinglePointCalculator(atoms, **results)
        loop = Loop(
            config,
            TrainingConfig(batch_size=8),
            WeightSchedule.constant(LossWeights(1, 30, 100, hierarchicality=0)),
            frames,
            split,
        )
        loops.append(loop)
    for batches_of_part in ("train", "valid"):
        for one, other in zip(*(getattr(loop, batches_of_part) for loop in loops), strict=True):
            torch.testing.assert_close(other.energy, one.energy, rtol=0, atol=1e-5)
            torch.testing.assert_close(
                other.atomic_energies, one.atomic_energies, rtol=0, atol=1e-5
            )
    plain, shifted = (loop.module.e0.item() for loop in loops)
    assert shifted - constant == pytest.approx(plain, abs=1e-7)
    for loop in loops:
        loop.run_epoch()
    plain, shifted = (loop.rows[-1] for loop in loops)
    for name in ("loss", "cell_energy_rmse_valid", "atomic_energy_mae_train", "force_rmse_valid"):
        assert shifted[name] == pytest.approx(plain[name], rel=1e-3), name
