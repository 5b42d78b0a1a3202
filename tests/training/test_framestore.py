"""Batches cut from a store, and steps over padded ones, against those of the CPU's training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, hipnn
from kdlib.hipnn import batches
from kdlib.training import loop as loop_module
from kdlib.training.config import TrainingConfig
from kdlib.training.framestore import FrameStore, Room
from kdlib.training.loop import Loop
from kdlib.training.losses import LossWeights, WeightSchedule

CONFIG = hipnn.HipnnConfig(6, 4, 1, dtype="float64", cutoff=4.0, soft_max=3.8)
CPU = torch.device("cpu")


@pytest.fixture
def frames():
    """Seven labeled frames of 4, 8 and 12 atoms."""
    found = []
    for k in range(7):
        atoms = bulk("Al", a=4.1, cubic=True) * (1, 1, 1 + k % 3)
        atoms.rattle(0.2, seed=k)
        rng = np.random.default_rng(k)
        labels = {"energy": float(rng.normal()), "forces": rng.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        atoms.info["frame"] = k
        found.append(atoms)
    return found


def _single(frames):
    return [batches.from_atoms(atoms, 4.0, torch.float64) for atoms in frames]


def _same(a, b):
    for name, expected in vars(b).items():
        value = getattr(a, name)
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)
        else:
            assert value == expected


def test_a_batch_is_what_collating_gives(frames):
    """Frames in any order, with atoms, pairs, labels and rows as laid end to end."""
    single = _single(frames)
    chosen = np.array([3, 0, 5, 1])
    _same(FrameStore(single, CPU).batch(chosen), batches.collate([single[k] for k in chosen]))


def test_padding_has_no_pairs_and_no_weight(frames):
    """The last frame of a padded batch holds the rest of its room, and nothing depends on it."""
    single = _single(frames)
    store, chosen = FrameStore(single, CPU), np.array([2, 4])
    whole = batches.collate([single[k] for k in chosen])
    room = Room(whole.n_atoms + 5, len(whole.first) + 9)
    padded = store.padded(torch.as_tensor(store.plan(chosen, room)), room)
    assert padded.n_frames == 3
    assert padded.n_atoms == room.n_atoms
    assert padded.weight.tolist() == [1, 1, 0]
    assert torch.equal(padded.row[: whole.n_atoms + 1], whole.row)
    assert (padded.row[whole.n_atoms :] == len(whole.first)).all()
    assert torch.equal(padded.vectors[: len(whole.first)], whole.vectors)
    assert (padded.second[len(whole.first) :] == room.n_atoms).all()


def test_padded_steps_train_as_plain_ones(frames, monkeypatch):
    """Three epochs over padded batches give the losses, errors and weights of plain batches."""
    monkeypatch.setattr(loop_module, "obstacle", lambda module: "only with autograd")
    split = SimpleNamespace(train=np.arange(5), valid=np.arange(5, 7))
    labels = [np.random.default_rng(k).normal(size=len(a)) for k, a in enumerate(frames)]
    frames = datasets.with_energies(frames, labels)
    weights = LossWeights(energy=1.0, force=10.0, atomic_energy=3.0, total_energy=1.0)
    loops = []
    for padded in (False, True):
        settings = TrainingConfig(batch_size=2, device="cpu")
        schedule = WeightSchedule.constant(weights)
        loop = Loop(CONFIG, settings, schedule, frames, split)
        if padded:
            loop._store, loop._graphs = FrameStore(loop.train, CPU), True
        for _ in range(3):
            loop.run_epoch()
        loops.append(loop)
    plain, other = loops
    for name in set(plain.rows[-1]) - {"seconds"}:
        assert other.rows[-1][name] == pytest.approx(
            plain.rows[-1][name], rel=1e-10, nan_ok=True
        ), name
    for a, b in zip(plain.trainable, other.trainable, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.cuda
def test_captured_steps_train_as_those_of_the_cpu(frames):
    """Three epochs of captured steps on a CUDA device follow the CPU's training."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    split = SimpleNamespace(train=np.arange(5), valid=np.arange(5, 7))
    rows = []
    for name in ("cpu", "cuda"):
        settings = TrainingConfig(batch_size=2, device=name)
        schedule = WeightSchedule.constant(LossWeights())
        loop = Loop(CONFIG, settings, schedule, frames, split)
        for _ in range(3):
            loop.run_epoch()
        rows.append(loop.rows[-1])
    for key in ("loss", "force_rmse_train", "force_rmse_valid", "cell_energy_mae_valid"):
        assert rows[1][key] == pytest.approx(rows[0][key], rel=1e-6)
