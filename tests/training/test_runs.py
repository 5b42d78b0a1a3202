"""The training loop: reproducibility, resumption, selection, faults."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from kdlib import datasets, hipnn, training
from kdlib.errors import InputError
from kdlib.hipnn import batches
from kdlib.hipnn.potential import WEIGHTS as WEIGHTS_FILE
from kdlib.training import TrainingConfig, TrainingError, losses, roles, runs
from kdlib.training.loop import Loop
from kdlib.training.losses import LossWeights, WeightSchedule
from kdlib.training.runs import CHECKPOINT

WEIGHTS = LossWeights(energy=1, force=10)


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


def assert_same_weights(one, other) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_training_reduces_the_error(tmp_path, emt_frames, split, small_config, settings):
    """Thirty epochs on EMT aluminium cut the validation force error by more than half."""
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
    labels = xr.DataArray(np.linspace(-1, 1, 4 * len(emt_frames)), dims="atom")
    data = (emt_frames, split)
    training.fit(small_config, settings, WEIGHTS, *data, tmp_path / "control")
    training.fit(small_config, settings, WEIGHTS, *data, tmp_path / "student", labels)
    assert_same_weights(tmp_path / "control", tmp_path / "student")


_SCRIPT = """
import sys
import torch
from ase.io import read
from kdlib import datasets, hipnn, training
from kdlib.training import roles
from kdlib.training.losses import TABLE_1
torch.set_num_threads(1)
frames = datasets.load(sys.argv[1])
teacher = hipnn.build(hipnn.HipnnConfig(6, 5, 1, cutoff=5.0, soft_max=4.5), 5)
labels = roles.atomic_energies(hipnn.Potential(teacher), frames)
config = hipnn.HipnnConfig(6, 5, 1, cutoff=5.0, soft_max=4.5)
settings = training.TrainingConfig(batch_size=4, max_epochs=20, checkpoint_every=2)
schedule = TABLE_1.scaled(20)
for folder in sys.argv[2:]:
    training.fit(config, settings, schedule, frames, datasets.split(frames), folder, labels)
"""


@pytest.mark.slow
def test_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, emt_frames):
    """SIGKILL in the middle, start again: every bit of the weights and the errors is the same."""
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
    assert not (broken / training.HISTORY).exists()
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
    """A model is as fast to ask as it was to train: evaluation is most of a short sweep's time."""
    quick = dataclasses.replace(settings, max_epochs=1, backend=backend)
    run = training.fit(small_config, quick, WEIGHTS, emt_frames, split, tmp_path / "run")
    layer = run.potential.module.network.interaction_layers[0]
    assert type(layer).__module__.startswith("kdlib.hipnn.kernels") == (backend == "fused")


def test_key_follows_everything_that_decides_the_weights(
    monkeypatch, emt_frames, split, small_config, settings
):
    """Settings, loss, data split, labels and code change the key; the checkpoint interval not."""
    labels = xr.DataArray(np.zeros(4 * len(emt_frames)), dims="atom")
    plain = WeightSchedule.constant(WEIGHTS)
    taught = WeightSchedule.constant(LossWeights(atomic_energy=100))
    key = training.run_key(small_config, settings, plain, split, None)
    assert training.run_key(small_config, settings, plain, split, labels) == key
    seldom = dataclasses.replace(settings, checkpoint_every=99)
    assert training.run_key(small_config, seldom, plain, split, None) == key
    others = {
        key,
        training.run_key(small_config, settings, taught, split, labels),
        training.run_key(small_config, settings, taught, split, labels + 1e-9),
        training.run_key(small_config, dataclasses.replace(settings, seed=7), plain, split, None),
        training.run_key(small_config, settings, plain, datasets.split(emt_frames, seed=1), None),
        training.run_key(hipnn.HipnnConfig(), settings, plain, split, None),
    }
    monkeypatch.setattr(runs, "_source_digest", lambda: b"other code")
    others.add(training.run_key(small_config, settings, plain, split, None))
    assert len(others) == 7


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
    assert not (tmp_path / "run" / training.HISTORY).exists()


def test_missing_or_broken_labels_are_refused(tmp_path, emt_frames, split, small_config, settings):
    """Labels that are needed must be there, finite, one per atom."""
    taught = LossWeights(atomic_energy=100)
    call = (small_config, settings, taught, emt_frames, split, tmp_path / "run")
    with pytest.raises(InputError, match="no labels are given"):
        training.fit(*call)
    with pytest.raises(InputError, match="but the frames hold 160 atoms"):
        training.fit(*call, xr.DataArray(np.zeros(7), dims="atom"))
    values = np.zeros(160)
    values[13] = np.nan
    with pytest.raises(InputError, match="frame 3 is not finite"):
        training.fit(*call, xr.DataArray(values, dims="atom"))
    assert not (tmp_path / "run").exists()


def test_foreign_species_are_refused_before_training(
    tmp_path, emt_frames, split, small_config, settings
):
    """Frames of another element are an error that names the frame."""
    gold = dataclasses.replace(small_config, species=("Au",))
    with pytest.raises(InputError, match="frame .*: atomic numbers"):
        training.fit(gold, settings, WEIGHTS, emt_frames, split, tmp_path / "run")


def test_damaged_checkpoint_is_named(tmp_path, emt_frames, split, small_config, settings):
    """A truncated checkpoint is one error naming the file."""
    run_dir = tmp_path / "run"
    training.fit(small_config, settings, WEIGHTS, emt_frames, split, run_dir)
    (run_dir / training.HISTORY).unlink()
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
    labels = roles.atomic_energies(teacher, emt_frames)
    longer = dataclasses.replace(settings, max_epochs=20)
    only = LossWeights(energy=0, force=0, atomic_energy=100)
    run = training.fit(small_config, longer, only, emt_frames, split, tmp_path / "student", labels)
    error = run.history.atomic_energy_rmse.sel(split="valid").values
    assert error[-1] < 0.3 * error[0]


def _after(n_epochs, emt_frames, split, config, backend):
    """The loop of a student after some epochs, as one of its own."""
    labels = [np.full(len(atoms), 0.1 * k) for k, atoms in enumerate(emt_frames)]
    settings = TrainingConfig(batch_size=8, max_epochs=10, learning_rate=1e-3, backend=backend)
    schedule = roles.role("student").schedule(10)
    loop = Loop(config, settings, schedule, emt_frames, split, labels)
    for _ in range(n_epochs):
        loop.run_epoch()
    return loop


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
    found = {}
    for backend in ("hippynn", "fused"):
        loop = _after(0, emt_frames, split, config, backend)
        batch = batches.collate(loop.train)
        weights = loop.schedule.at(1)
        prediction = loop.module(batch, create_graph=True)
        loss = losses.total(losses.terms(loop.module, prediction, batch, weights), weights)
        found[backend] = (loss, *torch.autograd.grad(loss, loop.trainable))
    for fused, stock in zip(found["fused"], found["hippynn"], strict=True):
        scale = float(stock.detach().abs().max())
        torch.testing.assert_close(fused, stock, rtol=1e-4, atol=1e-4 * scale)
