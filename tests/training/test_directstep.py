"""The step without autograd against autograd, and against torch's optimizer."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from alloys import EVERYTHING, NETWORKS, NOTHING, SMALL, alloy_frames, assert_same

from kdlib import datasets, hipnn
from kdlib.hipnn import batches, kernels
from kdlib.hipnn.kernels.gradients import obstacle
from kdlib.training import TrainingConfig, TrainingError, loop, losses
from kdlib.training.directstep import DirectStep, adam
from kdlib.training.loop import Loop
from kdlib.training.losses import TABLE_1, TERMS, LossWeights, WeightSchedule
from kdlib.training.references import fit_e0

SPLIT = SimpleNamespace(train=np.arange(6), valid=np.arange(6, 8))


@pytest.fixture
def frames():
    """Alloy cells of 4, 8 and 12 atoms, a dimer, and an atom that has no neighbor."""
    return alloy_frames()


def direct_and_autograd(config, frames, weights):
    """Values and gradients by name: those of the step, and those of autograd."""
    module = hipnn.build(config, seed=2)
    fit_e0(module, frames, 0.3)
    single = [module.batch(atoms) for atoms in frames]
    kernels.accelerate(module)
    other = copy.deepcopy(module)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad])
    step = DirectStep(module, optimizer, single)
    values, _ = step.gradient(np.arange(len(frames))[::-1].copy(), weights)
    found = {n: step.flat.both(p)[1] for n, p in module.named_parameters() if p.requires_grad}
    batch = batches.collate(single[::-1])
    prediction = other(batch, stress=weights.stress > 0, create_graph=True)
    terms = losses.terms(other, prediction, batch, weights)
    loss = losses.total(terms, weights)
    loss.backward(inputs=[p for p in other.parameters() if p.requires_grad])
    expected = {n: p.grad for n, p in other.named_parameters() if p.requires_grad}
    return (values, found), ({"loss": loss, **{f"loss_{k}": v for k, v in terms.items()}}, expected)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("term", TERMS)
def test_gradient_of_a_term_is_that_of_autograd(frames, network, term):
    """Each term of the loss alone, for alloys, molecules and a lone atom in one batch."""
    weights = LossWeights(**NOTHING | {term: getattr(EVERYTHING, term)})
    assert_same(*direct_and_autograd(NETWORKS[network], frames, weights))


@pytest.mark.parametrize("network", NETWORKS)
def test_gradient_of_all_terms_with_weights_of_frames(frames, network):
    """All terms at once; some frames count more than others."""
    for k in (0, 2, 5):
        frames[k].info[datasets.WEIGHT] = 0.5 + k
    assert_same(*direct_and_autograd(NETWORKS[network], frames, EVERYTHING))


def test_gradient_with_weights_at_a_cell_size(frames):
    """Energies of cells of different sizes, counted as those of 130 atoms."""
    weights = dataclasses.replace(EVERYTHING, cell_atoms=130)
    assert_same(*direct_and_autograd(SMALL, frames, weights))


@pytest.mark.parametrize("stage", [1, 250, 400])
def test_gradient_in_the_stages_of_table_1(frames, stage):
    """The Born-Again schedule turns terms on and off."""
    assert_same(*direct_and_autograd(SMALL, frames, TABLE_1.at(stage)))


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_adam_is_torchs(real):
    """Twenty steps under a changing rate, against torch's fused Adam."""
    rng = np.random.default_rng(0)
    ours = rng.normal(size=50).astype(real)
    theirs = torch.nn.Parameter(torch.from_numpy(ours.copy()))
    optimizer = torch.optim.Adam([theirs], fused=True)
    mean, square = np.zeros_like(ours), np.zeros_like(ours)
    for n in range(1, 21):
        slope, rate = rng.normal(size=50).astype(real), 1e-2 / n
        optimizer.param_groups[0]["lr"] = rate
        theirs.grad = torch.from_numpy(slope.copy())
        optimizer.step()
        adam(ours, slope, mean, square, n, rate, 0.9, 0.999, 1e-8)
    bound = {"float32": 1e-6, "float64": 1e-14}[real]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=bound)


def trained(frames, dtype, n_epochs, checkpoint=None, optimizer="adam"):
    """Loop of a student after some epochs, perhaps resumed from a checkpoint."""
    config = dataclasses.replace(SMALL, dtype=dtype)
    # stages and learning rates change within these epochs
    settings = TrainingConfig(batch_size=4, learning_rate=1e-2, lr_patience=1, optimizer=optimizer)
    weights = LossWeights(energy=1, force=30, atomic_energy=10, stress=20)
    later = LossWeights(energy=2, force=10)
    schedule = WeightSchedule(((1, weights), (4, later)))
    made = Loop(config, settings, schedule, frames, SPLIT)
    if checkpoint is not None:
        made.restore(checkpoint, "key")
    while made.epoch < n_epochs:
        made.run_epoch()
    return made


def weights_and_rows(made):
    """Everything that a finished training hands over, but for the time it took."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in made.rows]
    return {k: v for k, v in made.module.state_dict().items() if torch.is_tensor(v)}, rows


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_resumed_training_is_the_unbroken_one_to_the_last_bit(frames, tmp_path, optimizer):
    """Weights, best weights, moments and history after six epochs, three of them resumed."""
    whole = trained(frames, "float32", 6, optimizer=optimizer)
    half = trained(frames, "float32", 3, optimizer=optimizer)
    half.checkpoint(tmp_path / "checkpoint", "key")
    resumed = trained(frames, "float32", 6, tmp_path / "checkpoint", optimizer)
    (one, rows), (other, others) = weights_and_rows(whole), weights_and_rows(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(whole.best_state[n], resumed.best_state[n]) for n in one)
    np.testing.assert_equal(rows, others)
    assert whole.learning_rate < 1e-2
    moments = [loop.optimizer_tensors(made.optimizer) for made in (whole, resumed)]
    assert all(torch.equal(moments[0][name], moments[1][name]) for name in moments[0])


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
@pytest.mark.parametrize("direct_first", [True, False])
def test_checkpoints_pass_between_both_kinds_of_steps(
    frames, tmp_path, monkeypatch, direct_first, optimizer
):
    """Three epochs one way and three the other are six one way, to rounding."""
    whole = trained(frames, "float64", 6, optimizer=optimizer)
    assert whole._direct is not None
    for k, direct in enumerate((direct_first, not direct_first)):
        with monkeypatch.context() as patch:
            if not direct:
                patch.setattr(loop, "obstacle", lambda module: "not today")
            old = tmp_path / "checkpoint" if k else None
            made = trained(frames, "float64", 3 * k + 3, old, optimizer)
            assert (made._direct is not None) == direct
            made.checkpoint(tmp_path / "checkpoint", "key")
    (one, rows), (other, others) = weights_and_rows(whole), weights_and_rows(made)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-7, atol=1e-8)
    for row, expected in zip(others, rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-8, nan_ok=True)


def test_exploding_loss_is_named(frames):
    """A loss that is not finite stops the training before the optimizer moves."""
    settings = TrainingConfig(batch_size=4, learning_rate=1e300)
    weights = LossWeights(atomic_energy=1, total_energy=1, stress=1)
    made = Loop(SMALL, settings, WeightSchedule.constant(weights), frames, SPLIT)
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1: the loss is (nan|inf) \(frames \d"):
        made.run_epoch()


@pytest.mark.parametrize(
    "changes", [{"l_max": 2}, {"n_interaction_layers": 2}, {"resnet": False}], ids=str
)
def test_other_networks_train_by_autograd(frames, changes):
    """What the gradient kernels do not cover takes the steps of autograd."""
    config = dataclasses.replace(SMALL, **changes)
    assert obstacle(hipnn.build(config))
    schedule = WeightSchedule.constant(LossWeights())
    made = Loop(config, TrainingConfig(batch_size=4), schedule, frames, SPLIT)
    made.run_epoch()
    assert made._direct is None
    assert np.isfinite(made.rows[-1]["loss"])
