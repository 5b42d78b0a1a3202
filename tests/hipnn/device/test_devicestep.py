"""The training step on a device against torch's autograd on the CPU."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from alloys import EVERYTHING, NETWORKS, NOTHING, SMALL, alloy_frames, assert_same

from kdlib import datasets, hipnn
from kdlib.hipnn import batches, kernels
from kdlib.training import TrainingConfig, losses
from kdlib.training.loop import Loop
from kdlib.training.losses import TERMS, LossWeights, WeightSchedule
from kdlib.training.references import fit_e0

#: A step on a device leaves losses of stresses to autograd.
ALL = dataclasses.replace(EVERYTHING, stress=0.0)
SPLIT = SimpleNamespace(train=np.arange(4), valid=np.arange(4, 5))


@pytest.fixture
def frames():
    """Alloy cells of 4 and 8 atoms, a dimer, and an atom that has no neighbor; two with stresses.

    Few atoms: the interpreter is slow.
    """
    found = alloy_frames()
    return [found[k] for k in (0, 2, 3, 1, 5)]


def _expected(module, single, weights):
    """Loss, terms and gradients by torch's autograd over hippynn's layers."""
    batch = batches.collate(single)
    prediction = module(batch, create_graph=True)
    terms = losses.terms(module, prediction, batch, weights)
    loss = losses.total(terms, weights)
    loss.backward(inputs=[p for p in module.parameters() if p.requires_grad])
    slopes = {n: p.grad for n, p in module.named_parameters() if p.requires_grad}
    return {"loss": loss, **{f"loss_{k}": v for k, v in terms.items()}}, slopes


def _both(config, frames, weights, device, room=0):
    """Values and gradients of the step, with ``room`` atoms to spare, and those of autograd."""
    from kdlib.hipnn.device.passes import Layout
    from kdlib.training.devicestep import DeviceStep

    module = hipnn.build(config, seed=2)
    fit_e0(module, frames, 0.3)
    single = [module.batch(atoms) for atoms in frames]
    chosen = np.arange(len(frames))[::-1].copy()
    expected = _expected(copy.deepcopy(module), single[::-1], weights)
    kernels.accelerate(module.to(device))
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad])
    step = DeviceStep(module, optimizer, single, [], len(single))
    pairs = step._train.pairs
    where = Layout.of(len(chosen), int(pairs.n_atoms.sum()) + room, pairs.device)
    pairs.lay_out(pairs.plan(chosen).to(device), where)
    scale = torch.tensor([getattr(weights, t) for t in TERMS], dtype=torch.float64)
    step._scales[weights] = scale.to(device)
    values, _ = step.gradient(where, True, weights)
    named = dict(zip(["loss", *(f"loss_{t}" for t in TERMS)], values, strict=True))
    named = {name: named[name] for name in expected[0]}
    slopes = {n: step.flat.both(p)[1] for n, p in module.named_parameters() if p.requires_grad}
    return (named, slopes), expected


@pytest.mark.parametrize("term", [name for name in TERMS if name != "stress"])
def test_gradient_of_a_term_is_that_of_autograd(frames, term, device):
    """Each term of the loss alone, for alloys, molecules and a lone atom in one batch."""
    weights = LossWeights(**NOTHING | {term: getattr(EVERYTHING, term)})
    assert_same(*_both(SMALL, frames, weights, device))


@pytest.mark.parametrize("network", NETWORKS)
def test_gradient_of_all_terms_with_weights_of_frames(frames, network, device):
    """All terms at once; some frames count more than others, one not at all."""
    for k, weight in ((0, 0.5), (1, 2.5), (4, 0.0)):
        frames[k].info[datasets.WEIGHT] = weight
    assert_same(*_both(NETWORKS[network], frames, ALL, device, room=5))


def test_gradient_with_weights_at_a_cell_size(frames, device):
    """Energies of cells of different sizes, counted as those of 130 atoms."""
    assert_same(*_both(SMALL, frames, dataclasses.replace(ALL, cell_atoms=130), device))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_is_that_of_the_cpu(frames, dtype, device, monkeypatch):
    """Two epochs have the losses, errors and weights of the CPU's, with stresses in validation."""
    weights = LossWeights(energy=1.0, force=10.0, atomic_energy=3.0, total_energy=1.0)
    config, rows, states = dataclasses.replace(SMALL, dtype=dtype), [], []
    for where in ("cpu", device.type):
        monkeypatch.setenv("TRITON_INTERPRET", str(int(len(rows) > 0 and device.type == "cpu")))
        settings = TrainingConfig(batch_size=3, device=where)
        loop = Loop(config, settings, WeightSchedule.constant(weights), frames, SPLIT)
        assert (loop._on_device is None) == (not rows)
        for _ in range(2):
            loop.run_epoch()
        rows.append(loop.rows[-1])
        states.append({n: p.detach().cpu() for n, p in loop.module.named_parameters()})
    # On CUDA, torch's Adam reads its learning rate in single precision, whatever the weights are.
    rel = 1e-3 if dtype == "float32" else 1e-6 if device.type == "cuda" else 1e-9
    assert set(rows[0]) == set(rows[1])
    for name in set(rows[0]) - {"seconds"}:
        assert rows[1][name] == pytest.approx(rows[0][name], rel=rel, nan_ok=True), name
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=10 * rel, atol=10 * rel)


@pytest.mark.cuda
def test_steps_are_the_same_to_the_last_bit(frames):
    """Two trainings of a seed end with the same weights: no sum has an order of its own."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = []
    for _ in range(2):
        settings = TrainingConfig(batch_size=3, device="cuda")
        loop = Loop(SMALL, settings, WeightSchedule.constant(LossWeights()), frames, SPLIT)
        loop.run_epoch()
        found.append([p.detach().cpu() for p in loop.trainable])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
