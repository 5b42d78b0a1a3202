"""Learning from stresses: batches, loss, loop and metrics together."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from safetensors.torch import load_file

from kdlib import datasets, hipnn, training
from kdlib.errors import InputError
from kdlib.hipnn import batches, kernels
from kdlib.hipnn.potential import WEIGHTS
from kdlib.training import TrainingConfig, accuracy, losses
from kdlib.training.losses import LossWeights, WeightSchedule

NOTHING = {"energy": 0.0, "force": 0.0, "l2": 0.0, "hierarchicality": 0.0}
ONLY_STRESS = LossWeights(**NOTHING, stress=1.0)


def by_emt(atoms: Atoms, stress: bool = True) -> Atoms:
    """Label a frame, with a stress where it is wanted."""
    atoms.calc = EMT()
    names = ("energy", "forces", "stress") if stress else ("energy", "forces")
    found = {name: atoms.calc.get_property(name, atoms) for name in names}
    atoms.calc = SinglePointCalculator(atoms, **found)
    return atoms


@pytest.fixture(scope="module")
def stressed(emt_frames) -> list[Atoms]:
    """The frames of `emt_frames` with their stresses, sheared so that no component vanishes."""
    rng = np.random.default_rng(7)
    frames = []
    for atoms in emt_frames:
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, info=atoms.info)
        strain = np.eye(3) + rng.normal(0, 0.03, (3, 3))
        copy.set_cell(copy.cell.array @ strain, scale_atoms=True)
        frames.append(by_emt(copy))
    return frames


@pytest.fixture
def without_stress(stressed) -> list[Atoms]:
    """The same frames, whose calculators hold energy and forces alone."""
    return [without(atoms) for atoms in stressed]


def without(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    labels = {name: atoms.calc.results[name] for name in ("energy", "forces")}
    copy.calc = SinglePointCalculator(copy, **labels)
    return copy


@pytest.fixture
def trimer() -> Atoms:
    """An isolated molecule."""
    return by_emt(Atoms("Al3", [[0, 0, 0], [2.7, 0, 0], [0.5, 2.9, 0.4]]), stress=False)


@pytest.fixture
def loner() -> Atoms:
    """An isolated atom, without any pair."""
    return by_emt(Atoms("Al", [[0, 0, 0]]), stress=False)


@pytest.fixture
def left_handed() -> Atoms:
    """A sheared cell whose determinant is negative."""
    atoms = bulk("Al", a=4.1, cubic=True)
    atoms.rattle(0.15, seed=11)
    atoms.set_cell((atoms.cell.array @ (np.eye(3) + np.diag([0.1, -0.05], 1)))[[1, 0, 2]])
    assert np.linalg.det(atoms.cell.array) < 0
    return by_emt(atoms)


@pytest.fixture
def module(small_config):
    return hipnn.build(small_config, seed=2)


@pytest.fixture
def settings() -> TrainingConfig:
    return TrainingConfig(batch_size=8, max_epochs=3, learning_rate=1e-2, backend="hippynn")


def joined(frames, config):
    return batches.collate(
        [batches.from_atoms(atoms, config.cutoff, config.torch_dtype) for atoms in frames]
    )


def loss(module, batch, weights=ONLY_STRESS):
    prediction = module(batch, stress=True, create_graph=True)
    return losses.total(losses.terms(module, prediction, batch, weights), weights)


def gradients(module, value):
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, list(trainable.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(trainable.items(), found, strict=True)
    }


def test_batch_holds_stress_and_volume_as_ase_means_them(
    stressed, trimer, left_handed, small_config
):
    """Stress in the full tensor of ASE's Voigt order, NaN for a molecule; volumes are positive."""
    batch = joined([stressed[0], trimer, left_handed], small_config)
    assert {batch.to("meta").stress.device.type, batch.to("meta").volume.device.type} == {"meta"}
    for k, atoms in ((0, stressed[0]), (2, left_handed)):
        expected = atoms.get_stress(voigt=False)
        np.testing.assert_allclose(batch.stress[k], expected, rtol=1e-14)
        assert batch.volume[k].item() == pytest.approx(atoms.get_volume())
    assert batch.stress[1].isnan().all()
    assert batch.volume[1].isnan()
    assert batch.has_stress.tolist() == [True, False, True]


def test_a_molecule_has_no_stress_whatever_its_calculator_says(trimer, small_config):
    """Without a volume dE/dstrain is no stress, so that a stray label is not learned."""
    trimer.calc.results["stress"] = np.ones(6)
    assert not joined([trimer], small_config).has_stress.any()


@pytest.mark.parametrize("backend", ["hippynn", "fused"])
def test_predicted_stress_is_the_slope_of_the_energy(
    module, stressed, trimer, loner, left_handed, backend
):
    """(E(strain+) - E(strain-)) / (2 delta V), frame by frame of one batch, left-handed too."""
    if backend == "fused":
        kernels.accelerate(module)
    frames = [trimer, stressed[0], loner, left_handed, stressed[1]]
    batch = joined(frames, module.config)
    virial, step = module(batch, stress=True).virial, 1e-5
    assert torch.equal(virial[2], torch.zeros(3, 3, dtype=torch.float64))
    for i, j in ((0, 0), (1, 1), (0, 1), (2, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step
            moved = [atoms.copy() for atoms in frames]
            for atoms in moved:
                atoms.set_cell(atoms.cell.array @ strain.T)
                atoms.positions = atoms.positions @ strain.T
            energies.append(module(joined(moved, module.config), forces=False).energy)
        slope = (energies[0] - energies[1]) / (2 * step)
        torch.testing.assert_close(virial[:, i, j], slope, rtol=1e-5, atol=1e-7)
        errors = batch.stress_errors(virial)[:, i, j]
        for k, error in zip((1, 3, 4), errors, strict=True):
            predicted = slope[k].item() / frames[k].get_volume()
            reference = frames[k].get_stress(voigt=False)[i, j]
            assert error.item() == pytest.approx(predicted - reference, abs=1e-7)


def test_own_stresses_are_no_loss(module, stressed, trimer):
    """A model that learns its own stresses: loss exactly zero, and so is every gradient."""
    batch = joined([stressed[0], trimer, stressed[1]], module.config)
    own = module(batch, stress=True).virial.detach() / batch.volume[:, None, None]
    batch = dataclasses.replace(batch, stress=own)
    value = loss(module, batch)
    assert value.item() == 0
    for name, slope in gradients(module, value).items():
        assert torch.equal(slope, torch.zeros_like(slope)), name


def test_stress_loss_is_eq_3_of_all_nine_components(module, stressed):
    """RMSE + MAE against the predictions' stresses, by plain numpy."""
    frames = stressed[:3]
    found = hipnn.Potential(module).predict(frames, stress=True).stress.values
    errors = found - [voigt_6_to_full_3x3_stress(a.calc.results["stress"]) for a in frames]
    expected = np.sqrt(np.mean(errors**2)) + np.mean(np.abs(errors))
    assert loss(module, joined(frames, module.config)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", ["hippynn", "fused"])
def test_gradient_of_the_stress_loss_by_differences(module, stressed, trimer, backend):
    """Along a random direction of every parameter, in a batch with a molecule in it."""
    if backend == "fused":
        kernels.accelerate(module)
    batch = joined([*stressed[:2], trimer], module.config)
    found = gradients(module, loss(module, batch))
    generator = torch.Generator().manual_seed(0)
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for name, parameter in trainable.items():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction *= parameter.detach().abs() + 0.01
        start, values = parameter.detach().clone(), []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.copy_(start + step * direction)
            values.append(loss(module, batch).item())
        with torch.no_grad():
            parameter.copy_(start)
        slope = (values[0] - values[1]) / 2e-5
        expected = (found[name] * direction).sum().item()
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("handed", ["right", "left"])
def test_fused_stress_loss_is_that_of_hippynn(module, stressed, trimer, left_handed, handed):
    """The same value and the same gradient of every parameter, to 1e-8."""
    one = left_handed if handed == "left" else stressed[3]
    batch = joined([one, trimer, stressed[4]], module.config)
    weights = LossWeights(energy=1, force=10, stress=300)
    values = [loss(module, batch, weights)]
    expected = gradients(module, values[0])
    values.append(loss(kernels.accelerate(module), batch, weights))
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-9)
    for name, found in gradients(module, values[1]).items():
        scale = max(float(expected[name].norm()), 1e-12)
        assert float((found - expected[name]).norm()) < 1e-8 * scale, name


def test_frames_without_stress_do_not_change_the_loss(module, stressed, trimer, loner):
    """Molecules and cells without a stress add nothing, neither to the loss nor to its slope."""
    alone = loss(module, joined(stressed[:2], module.config))
    others = [trimer, stressed[0], without(stressed[5]), stressed[1], loner]
    mixed = loss(module, joined(others, module.config))
    assert mixed.item() == pytest.approx(alone.item(), rel=1e-12)
    expected = gradients(module, alone)
    for name, found in gradients(module, mixed).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_a_batch_without_any_stress_has_no_stress_loss(module, trimer, stressed):
    """Zero, with gradients that are zero and not NaN."""
    value = loss(module, joined([trimer, without(stressed[0])], module.config))
    assert value.item() == 0
    for name, slope in gradients(module, value).items():
        assert torch.equal(slope, torch.zeros_like(slope)), name


def test_stress_of_weight_zero_changes_no_bit(
    tmp_path, stressed, without_stress, small_config, settings
):
    """At w_S = 0 stresses in the data are measured on the validation part and nothing else."""
    split, runs = datasets.split(stressed), {}
    for name, frames in (("with", stressed), ("without", without_stress)):
        path = tmp_path / name
        runs[name] = training.fit(small_config, settings, LossWeights(), frames, split, path)
    one, other = (load_file(run.run_dir / WEIGHTS) for run in runs.values())
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    given, lacking = runs["with"].history, runs["without"].history
    for name in ("loss", "selection", "force_rmse", "energy_mae"):
        np.testing.assert_array_equal(given[name], lacking[name])
    assert given.stress_rmse.sel(split="valid").notnull().all()
    assert given.stress_rmse.sel(split="train").isnull().all()
    assert lacking.stress_rmse.isnull().all()
    assert given.loss_term.sel(term="stress").isnull().all()


def test_training_on_stresses_reduces_their_error(
    tmp_path, stressed, trimer, without_stress, small_config, settings
):
    """Thirty epochs halve the validation stress error, with molecules among the frames."""
    molecules = []
    for k in range(4):
        copy = trimer.copy()
        copy.rattle(0.1, seed=k)
        copy.info["frame"] = f"molecule {k}"
        molecules.append(by_emt(copy, stress=False))
    frames = [*stressed[:30], *without_stress[30:], *molecules]
    longer = dataclasses.replace(settings, max_epochs=30, backend="fused")
    weights = LossWeights(energy=1, force=10, stress=300)
    split = datasets.split(frames)
    run = training.fit(small_config, longer, weights, frames, split, tmp_path / "run")
    error = run.history.stress_rmse
    assert error.notnull().all()
    assert error.sel(split="valid")[-1] < 0.5 * error.sel(split="valid")[0]
    assert error.sel(split="train")[-1] < 0.5 * error.sel(split="train")[0]
    np.testing.assert_array_equal(run.history.weight_stress, 300)
    assert run.history.loss_term.sel(term="stress").notnull().all()


def test_selection_can_look_at_stresses(tmp_path, stressed, small_config, settings):
    """The validation error is the default's plus RMSE + MAE of the stress times its weight."""
    split = datasets.split(stressed)
    call = (LossWeights(), stressed, split)
    plain = training.fit(small_config, settings, *call, tmp_path / "plain").history
    looking = dataclasses.replace(settings, selection_stress=200.0)
    found = training.fit(small_config, looking, *call, tmp_path / "looking").history
    stress = (plain.stress_rmse + plain.stress_mae).sel(split="valid")
    np.testing.assert_allclose(found.selection, plain.selection + 200 * stress, rtol=1e-12)


def test_stresses_that_nobody_has_are_refused(
    tmp_path, stressed, without_stress, trimer, small_config, settings
):
    """A weight on stresses without a frame that has one is an error before the first epoch."""
    split = datasets.split(without_stress)
    stages = WeightSchedule(((1, LossWeights()), (2, LossWeights(stress=1))))
    assert stages.needs_stress
    assert not WeightSchedule.constant(LossWeights()).needs_stress
    with pytest.raises(InputError, match="the loss weights stresses but no training frame has one"):
        training.fit(small_config, settings, stages, without_stress, split, tmp_path / "run")
    looking = dataclasses.replace(settings, selection_stress=1.0)
    frames = list(without_stress)
    frames[split.train[0]] = stressed[split.train[0]]
    call = (frames, split, tmp_path / "run")
    with pytest.raises(InputError, match="the selection weights stresses but no validation frame"):
        training.fit(small_config, looking, stages, *call)
    assert not (tmp_path / "run").exists()
    by_loss = dataclasses.replace(looking, selection="training_loss")
    training.fit(small_config, by_loss, stages, *call)


def test_evaluation_of_stresses_by_hand(stressed, trimer, without_stress, small_config):
    """Errors of those frames that have a stress, molecules among them, against plain numpy."""
    potential = hipnn.Potential(hipnn.build(small_config, seed=1))
    frames = [trimer, stressed[0], without_stress[1], stressed[2]]
    found = accuracy.residuals(potential, frames)
    chosen = [stressed[0], stressed[2]]
    predicted = potential.predict(chosen, stress=True).stress.values
    expected = predicted - [atoms.get_stress(voigt=False) for atoms in chosen]
    np.testing.assert_allclose(found["stress"], expected, atol=1e-14)
    summary = accuracy.summary(found)
    assert summary["stress_rmse"] == pytest.approx(np.sqrt(np.mean(expected**2)))
    assert summary["stress_mae"] == pytest.approx(np.mean(np.abs(expected)))


def test_evaluation_without_stresses_says_nan(stressed, without_stress, small_config):
    """Parts whose frames have no stress have no stress error, and the others their own."""
    potential = hipnn.Potential(hipnn.build(small_config, seed=1))
    split = datasets.split(stressed)
    frames = list(without_stress)
    for k in split.test:
        frames[k] = stressed[k]
    ds = accuracy.evaluate(potential, frames, split)
    assert ds.stress_rmse.sel(split="test").notnull()
    assert ds.stress_rmse.sel(split=["train", "valid"]).isnull().all()
