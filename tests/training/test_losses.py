"""Loss terms and their exact identities."""

import dataclasses

import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, hipnn
from kdlib.errors import InputError
from kdlib.hipnn import batches
from kdlib.training import losses
from kdlib.training.losses import TABLE_1, LossWeights, WeightSchedule


@pytest.fixture
def module(small_config):
    return hipnn.build(small_config, seed=2)


@pytest.fixture
def batch(emt_frames, small_config):
    labels = np.linspace(-0.1, 0.1, 4)
    frames = datasets.with_energies(emt_frames[:3], [labels + k for k in range(3)])
    singles = [batches.from_atoms(a, small_config.cutoff, torch.float64) for a in frames]
    return batches.collate(singles)


def total(module, batch, weights):
    prediction = module(batch, stress=weights.stress > 0, create_graph=True)
    return losses.total(losses.terms(module, prediction, batch, weights), weights)


def gradient(module, value):
    trainable = [p for p in module.parameters() if p.requires_grad]
    return torch.autograd.grad(value, trainable, allow_unused=True)


def test_error_is_rmse_plus_mae():
    """Eq. 3 on numbers done by hand: errors 3 and -4 give sqrt(12.5) + 3.5."""
    found = losses.error(torch.tensor([3.0, -4.0]), torch.zeros(2))
    assert found.item() == pytest.approx(12.5**0.5 + 3.5)


def test_weights_of_one_size_change_nothing():
    """A weighted mean with equal weights is the mean."""
    x = torch.tensor([3.0, -4.0, 1.0], dtype=torch.float64)
    plain = losses.error(x, torch.zeros(3))
    weighted = losses.error(x, torch.zeros(3), torch.full((3,), 7.0, dtype=torch.float64))
    assert weighted.item() == pytest.approx(plain.item(), rel=1e-14)


def test_a_weight_of_two_counts_as_the_frame_twice(module, emt_frames, small_config):
    """Loss and gradient of (a, b with weight 2) are those of (a, b, b), stresses included."""
    weights = LossWeights(atomic_energy=3.0, total_energy=1.0, stress=50.0, hierarchicality=0.0)

    def of(frames):
        parts = [batches.from_atoms(a, small_config.cutoff, torch.float64) for a in frames]
        return total(module, batches.collate(parts), weights)

    a, b = (atoms.copy() for atoms in emt_frames[:2])
    for atoms, source in ((a, emt_frames[0]), (b, emt_frames[1])):
        results = source.calc.results | {"stress": np.arange(6) * 1e-3 + len(atoms) * 1e-4}
        results["energies"] = np.linspace(-0.1, 0.1, len(atoms))
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.pbc, atoms.cell = True, np.diag([9.0, 9.0, 9.0])
    repeated = of([a, b, b])
    b.info[datasets.WEIGHT] = 2.0
    weighted = of([a, b])
    assert weighted.item() == pytest.approx(repeated.item(), rel=1e-10)
    for one, two in zip(gradient(module, weighted), gradient(module, repeated), strict=True):
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)


def test_weights_of_energies_refer_to_a_cell_size(module, batch):
    """At the size of the cells the loss is the plain one; at twice it, that of twice w_E."""
    plain = LossWeights(energy=1.5, total_energy=0.7, atomic_energy=3.0)
    twice = dataclasses.replace(plain, energy=3.0, total_energy=1.4)
    for n_atoms, expected in ((4, plain), (8, twice)):  # all cells of the batch have four atoms
        referred = dataclasses.replace(plain, cell_atoms=n_atoms)
        found = total(module, batch, referred).item()
        assert found == pytest.approx(total(module, batch, expected).item(), rel=1e-12)


def test_error_per_atom_does_not_depend_on_the_size_of_the_cell(module, emt_frames, small_config):
    """A cell and two of it side by side have one loss of the energy per 130 atoms."""
    weights = LossWeights(force=0.0, l2=0.0, hierarchicality=0.0, cell_atoms=130)

    def of(atoms):
        return total(module, batches.from_atoms(atoms, small_config.cutoff, torch.float64), weights)

    double = emt_frames[0].repeat((2, 1, 1))
    known = emt_frames[0].calc.results
    double.calc = SinglePointCalculator(
        double, energy=2 * known["energy"], forces=np.tile(known["forces"], (2, 1))
    )
    assert of(double).item() == pytest.approx(of(emt_frames[0]).item(), rel=1e-12)


def test_gradient_of_a_weighted_error_by_differences():
    """As that of the plain one."""
    reference = torch.zeros(2, 3, dtype=torch.float64)
    x = torch.tensor([[0.1, -0.2, 0.7], [1.0, 0.3, -2.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: losses.error(x, reference, weight), x)


def test_error_has_zero_gradient_where_it_is_zero():
    """The square root's infinite slope does not turn a perfect prediction into NaN."""
    predicted = torch.tensor([1.0, 2.0], requires_grad=True)
    value = losses.error(predicted, torch.tensor([1.0, 2.0]))
    (slope,) = torch.autograd.grad(value, predicted)
    assert value.item() == 0
    assert torch.equal(slope, torch.zeros(2))


@pytest.mark.parametrize("weighted", [False, True])
def test_closed_form_of_the_error_is_that_of_autograd(weighted):
    """Value and derivative, which is added up; where all differences are zero, so are both."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(4, 3)), requires_grad=True)
    weight = torch.tensor(rng.uniform(0.5, 2, size=4)) if weighted else None
    value = losses.error(x, torch.zeros_like(x), weight)
    (expected,) = torch.autograd.grad(value, x)
    share = weight.numpy() if weighted else np.ones(4)
    slope = np.ones((4, 3))
    found = losses.error_and_slope(x.detach().numpy(), share, 2.5, slope)
    assert found == pytest.approx(value.item(), rel=1e-14)
    np.testing.assert_allclose(slope, 1 + 2.5 * expected.numpy(), rtol=1e-13)
    assert losses.error_and_slope(np.zeros((4, 3)), share, 2.5, slope) == 0
    assert losses.error_and_slope(x.detach().numpy(), np.zeros(4), 2.5, slope) == 0
    np.testing.assert_allclose(slope, 1 + 2.5 * expected.numpy(), rtol=1e-13)


def test_gradient_of_error_by_differences():
    """The guarded square root has the gradient of the plain one away from zero."""
    reference = torch.zeros(3, dtype=torch.float64)
    predicted = torch.tensor([0.1, -0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: losses.error(x, reference), predicted)


def test_zero_weight_gives_the_controls_loss_to_the_last_bit(module, batch):
    """w_A = 0 is the control, in value and in every gradient, labels or not."""
    weights = LossWeights(energy=1, force=30)
    with_labels = total(module, batch, weights)
    without = total(module, dataclasses.replace(batch, atomic_energies=None), weights)
    assert with_labels.item() == without.item()
    pairs = zip(gradient(module, with_labels), gradient(module, without), strict=True)
    for one, other in pairs:
        assert one is other is None or torch.equal(one, other)


def test_teacher_as_its_own_student_has_no_label_loss(module, batch):
    """A teacher given as its own student: atomic-energy loss exactly zero, gradient zero."""
    own = module(batch, forces=False).atomic_energies.detach()
    batch = dataclasses.replace(batch, atomic_energies=own)
    weights = LossWeights(energy=0, force=0, atomic_energy=100, l2=0, hierarchicality=0)
    value = total(module, batch, weights)
    assert value.item() == 0
    for slope in gradient(module, value):
        assert slope is None or torch.equal(slope, torch.zeros_like(slope))


def test_labels_carry_no_gradient(module, batch):
    """The student's loss does not reach back into the teacher."""
    teacher = hipnn.build(module.config, seed=9)
    labels = teacher(batch, forces=False).atomic_energies.detach()
    batch = dataclasses.replace(batch, atomic_energies=labels)
    total(module, batch, LossWeights(atomic_energy=100)).backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_total_is_the_weighted_sum_of_the_terms(module, batch):
    """Eq. 5 term by term, against the terms evaluated one at a time."""
    weights = LossWeights(
        energy=2,
        force=3,
        atomic_energy=5,
        l2=7e-3,
        hierarchicality=0.11,
        total_energy=13,
        stress=170,
    )
    batch = dataclasses.replace(batch, stress=torch.full((3, 3, 3), 0.01, dtype=torch.float64))
    nothing = {field.name: 0.0 for field in dataclasses.fields(weights)}
    single = sum(
        total(module, batch, LossWeights(**nothing | {name: weight})).item()
        for name, weight in dataclasses.asdict(weights).items()
        if weight
    )
    assert total(module, batch, weights).item() == pytest.approx(single, rel=1e-12)


def test_l2_is_hippynns(module):
    """The sum of squares over hippynn's regularized weights; biases and sensitivities are free."""
    expected = sum(p.square().sum() for p in module.network.regularization_params())
    assert losses.l2(module).item() == pytest.approx(expected.item(), rel=1e-12)


def test_hierarchicality_dies_without_reference_energy(module, batch):
    """With E0 = 0 the term is the constant one per atom: why the data are never shifted."""
    with torch.no_grad():
        module.henergy.layers[0].weight.zero_()
    value = losses.hierarchicality(module(batch, forces=False))
    assert value.item() == pytest.approx(4.0, rel=1e-12)


def test_total_energy_term_sees_only_the_teachers_sum(module, batch):
    """Moving energy between atoms of a frame changes the partition's term, not the total's."""
    shift = torch.tensor([0.3, -0.3, 0.0, 0.0] * 3, dtype=torch.float64)
    moved = dataclasses.replace(batch, atomic_energies=batch.atomic_energies + shift)
    none = {"energy": 0, "force": 0, "l2": 0, "hierarchicality": 0}
    sums, parts = LossWeights(total_energy=1, **none), LossWeights(atomic_energy=1, **none)
    before = [total(module, batch, w).item() for w in (sums, parts)]
    after = [total(module, moved, w).item() for w in (sums, parts)]
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert abs(after[1] - before[1]) > 1e-3


@pytest.mark.parametrize("weight", [-1.0, np.inf, np.nan])
def test_impossible_weights_are_refused(weight):
    """Weights are finite and not negative."""
    with pytest.raises(InputError, match="force"):
        LossWeights(force=weight)


def test_table_1_as_printed():
    """The Born-Again schedule is piecewise constant with the paper's numbers."""
    seen = [
        (epoch, TABLE_1.at(epoch).atomic_energy, TABLE_1.at(epoch).force, TABLE_1.at(epoch).energy)
        for epoch in (1, 199, 200, 250, 300, 350, 399, 400, 500)
    ]
    assert seen == [
        (1, 200, 75, 0.0),
        (199, 200, 75, 0.0),
        (200, 160, 63, 0.2),
        (250, 120, 51, 0.4),
        (300, 80, 39, 0.6),
        (350, 40, 27, 0.8),
        (399, 40, 27, 0.8),
        (400, 0, 15, 1.0),
        (500, 0, 15, 1.0),
    ]


def test_schedule_scales_with_the_cap():
    """A fifth of the epochs gives a fifth of each stage; one epoch leaves one stage."""
    assert [start for start, _ in TABLE_1.scaled(100).stages] == [1, 41, 51, 61, 71, 81]
    assert TABLE_1.scaled(500) == TABLE_1
    assert TABLE_1.scaled(1).stages == ((1, TABLE_1.at(400)),)


def test_schedule_without_labels_keeps_everything_else():
    """The Born-Again control differs from Born-Again in w_A alone."""
    control = TABLE_1.without_atomic_energies()
    assert TABLE_1.needs_atomic_energies
    assert not control.needs_atomic_energies
    for (start, ours), (same, theirs) in zip(TABLE_1.stages, control.stages, strict=True):
        assert start == same
        assert dataclasses.replace(ours, atomic_energy=0.0) == theirs


def test_schedule_must_start_at_the_first_epoch():
    """A schedule with a hole at the beginning is refused."""
    with pytest.raises(InputError, match="ascend from epoch 1"):
        WeightSchedule(((2, LossWeights()),))
