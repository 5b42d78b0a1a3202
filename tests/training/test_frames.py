"""Frames that a training cannot learn from, and frames that weigh nothing or have no pairs."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, hipnn, training
from kdlib.errors import InputError
from kdlib.hipnn import batches
from kdlib.training import TrainingConfig, losses
from kdlib.training.losses import LossWeights

SETTINGS = TrainingConfig(batch_size=4, max_epochs=2, backend="hippynn")


@pytest.fixture
def frames(emt_frames) -> list[Atoms]:
    """Sixteen frames, ten of them for training, two each for the other parts."""
    chosen = []
    for k, source in enumerate(emt_frames[:16]):
        atoms = source.copy()
        stress = np.arange(6) * 1e-3
        atoms.calc = SinglePointCalculator(atoms, **source.calc.results, stress=stress)
        atoms.info["part"] = ("valid", "test", "transfer", *["train"] * 5)[k % 8]
        chosen.append(atoms)
    return chosen


def fit(folder, config, frames, weights=None, settings=SETTINGS) -> training.Run:
    """Train for two epochs."""
    split = datasets.split(frames)
    return training.fit(config, settings, weights or LossWeights(), frames, split, folder / "run")


@pytest.mark.parametrize("part", ["valid", "test", "transfer"])
def test_a_species_of_any_part_needs_training_frames(tmp_path, frames, small_config, part):
    """A species that nothing teaches would have an energy of zero; it and the parts are named."""
    config = dataclasses.replace(small_config, species=("Al", "Cu"))
    for atoms in frames:
        if atoms.info["part"] == part:
            atoms.numbers[0] = 29
    with pytest.raises(InputError) as refused:
        fit(tmp_path, config, frames)
    assert str(refused.value).startswith("fit: Cu is in ")
    assert str(refused.value).endswith(", but in no training frame")
    assert f"the part {part!r}" in str(refused.value)
    others = {"valid", "test", "transfer"} - {part}
    assert not any(f"{other!r}" in str(refused.value) for other in others)
    assert not (tmp_path / "run").exists()


def test_a_species_of_the_model_alone_needs_training_frames(tmp_path, frames, small_config):
    """A model that claims to know copper must have seen some."""
    config = dataclasses.replace(small_config, species=("Al", "Cu"))
    with pytest.raises(InputError, match="Cu is in the model's configuration, but in no"):
        fit(tmp_path, config, frames)
    for atoms in frames:
        if atoms.info["part"] == "train":
            atoms.numbers[0] = 29
    assert np.isfinite(fit(tmp_path, config, frames).history.loss).all()


def test_the_dummy_atom_is_no_species_of_a_model():
    """X has no energy of its own, whatever the data hold."""
    with pytest.raises(InputError, match=r"unknown symbols \['X'\]"):
        hipnn.HipnnConfig(8, 6, 1, species=("Al", "X"))


def test_an_error_whose_weights_are_all_zero_is_zero():
    """A mean over frames of no weight is zero, and so is its gradient: not 0/0."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    value = losses.error(x, torch.zeros(2, 2), torch.zeros(2))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros(2, 2))


@pytest.mark.parametrize("backend", ["hippynn", "fused"])
@pytest.mark.parametrize("weighing", [0, 1, 3])
def test_batches_without_weight_train(tmp_path, frames, small_config, backend, weighing):
    """With most frames at weight 0, whole batches weigh nothing; every term stays finite."""
    settings = dataclasses.replace(SETTINGS, batch_size=2, backend=backend)
    frames = datasets.with_energies(frames, [np.linspace(-1, 1, 4)] * len(frames))
    train = [atoms for atoms in frames if atoms.info["part"] == "train"]
    for k, atoms in enumerate(train):
        atoms.info[datasets.WEIGHT] = float(k < weighing)
    weights = LossWeights(atomic_energy=1.0, total_energy=1.0, stress=10.0)
    if not weighing:
        with pytest.raises(InputError, match="every training frame has a loss_weight of 0"):
            fit(tmp_path, small_config, frames, weights, settings)
        return
    run = fit(tmp_path, small_config, frames, weights, settings)
    assert np.isfinite(run.history.loss_term).all()
    assert np.isfinite(run.history.force_rmse).all()
    assert all(p.isfinite().all() for p in run.potential.module.parameters())


def test_a_stress_that_only_frames_without_weight_have_is_no_loss(frames, small_config):
    """The term of the stress is zero, not NaN, where the frames with a stress weigh nothing."""
    for k, atoms in enumerate(frames[:2]):
        atoms.info[datasets.WEIGHT] = float(k)
    del frames[1].calc.results["stress"]
    parts = [batches.from_atoms(a, small_config.cutoff, torch.float64) for a in frames[:2]]
    batch, module = batches.collate(parts), hipnn.build(small_config)
    prediction = module(batch, stress=True, create_graph=True)
    found = losses.terms(module, prediction, batch, LossWeights(stress=1.0))
    assert found["stress"].item() == 0
    assert all(term.isfinite() for term in found.values())


@pytest.mark.parametrize("term", losses.TERMS)
def test_any_term_may_have_no_weight(tmp_path, frames, small_config, term):
    """Without one of the terms, the others train, and the missing one is recorded as absent."""
    given = {name: 0.0 if name == term else 1.0 for name in losses.TERMS}
    taught = datasets.with_energies(frames, [np.linspace(-1, 1, 4)] * len(frames))
    history = fit(tmp_path, small_config, taught, LossWeights(**given)).history
    finite = np.isfinite(history.loss_term).all("epoch")
    assert {str(name) for name in history.term[~finite].values} == {term}
    assert np.isfinite(history.loss).all()


def test_a_loss_or_selection_without_any_weight_is_refused():
    """Nothing would be learned, and no epoch would be the best."""
    with pytest.raises(InputError, match="LossWeights: all are 0"):
        LossWeights(energy=0, force=0, l2=0, hierarchicality=0)
    for wrong in ({"selection_energy": 0.0, "selection_force": 0.0}, {"selection_force": -1.0}):
        with pytest.raises(InputError, match="weights of the selection"):
            TrainingConfig(**wrong)
    with pytest.raises(InputError, match="weights of the selection"):
        TrainingConfig(selection_stress=np.nan)


@pytest.mark.parametrize("backend", ["hippynn", "fused"])
@pytest.mark.parametrize("size", [1, 4])
def test_isolated_atoms_train(tmp_path, frames, small_config, backend, size):
    """Atoms without a neighbor, alone in a batch and beside others, leave everything finite."""
    alone = Atoms("Al", [[0, 0, 0]], info={"part": "train"})
    other = Atoms("Al", [[0, 0, 0]], cell=[30, 30, 30], pbc=True, info={"part": "valid"})
    for atoms in (alone, other):
        atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((1, 3)))
    settings = dataclasses.replace(SETTINGS, batch_size=size, backend=backend)
    run = fit(tmp_path, small_config, [*frames, alone, other], settings=settings)
    assert np.isfinite(run.history.loss).all()
    assert np.isfinite(run.potential.predict([alone, other]).forces).all()
