import numpy as np
import pytest
import torch
from ase import Atoms

from kdlib.errors import InputError
from kdlib.hipnn import batches, kernels

EXACT = 1e-10  # relative, float64
ALL = ("energy", "energies", "forces", "stress")


def _evaluate(module, atoms, properties=("forces",), skin=1.0, **options):
    neighbors = kernels.VerletList(module.config.cutoff, skin)
    neighbors.update(atoms)
    return kernels.ForceField(module, **options)(atoms, neighbors, properties)


def _close(found, expected, tolerance=EXACT):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=tolerance * max(1, abs(expected).max())
    )


@pytest.mark.usefixtures("exact_sums")
@pytest.mark.parametrize("resnet", [True, False])
def test_results_are_those_of_hippynn(system, l_max, resnet, model):
    """Energy, atomic energies, forces and stress agree to 1e-10 in float64."""
    module = model(l_max=l_max, resnet=resnet)
    expected, e0 = module(module.batch(system), stress=True), module.e0_of(system.numbers)
    periodic = system.pbc.all()
    found = _evaluate(module, system, ALL if periodic else ALL[:3])
    _close(found["energy"] - e0.sum(), expected.energy[0])
    _close(found["energies"] - e0, expected.atomic_energies)
    _close(found["forces"], expected.forces)
    if periodic:
        _close(found["stress"] * system.get_volume(), expected.virial[0])


@pytest.mark.usefixtures("exact_sums")
def test_single_precision_is_as_good_as_hippynn_s(liquid, model):
    """Forces are no further from float64 than 1.5 times stock float32, and within 1e-4 eV/A."""
    single = model("float32")
    stock = single(batches.from_atoms(liquid, 7.5, torch.float32)).forces.numpy()
    found = _evaluate(single, liquid)["forces"]
    exact = _evaluate(single.double(), liquid)["forces"]
    assert np.linalg.norm(found - exact) < 1.5 * np.linalg.norm(stock - exact)
    assert abs(found - exact).max() < 1e-4


def test_forces_are_the_slope_of_the_energy(alloy, model):
    """F = -dE/dx by central differences, for every component of three atoms."""
    module = model()
    forces = _evaluate(module, alloy)["forces"]
    for i in (0, 17, 59):
        for c in range(3):
            energies = []
            for step in (1e-4, -1e-4):
                moved = alloy.copy()
                moved.positions[i, c] += step
                energies.append(_evaluate(module, moved, ("energy",))["energy"])
            slope = (energies[0] - energies[1]) / 2e-4
            assert forces[i, c] == pytest.approx(-slope, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("handedness", [1, -1])
def test_stress_is_the_slope_of_the_energy_by_strain(alloy, model, handedness):
    """Stress = dE/dstrain / |V| by central differences, in right- and left-handed cells."""
    module = model()
    alloy.set_cell(alloy.cell.array[::handedness])
    stress = _evaluate(module, alloy, ("stress",))["stress"]
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)):
        energies = []
        for step in (1e-5, -1e-5):
            strain = np.eye(3)
            strain[a, b] += step
            strained = alloy.copy()
            strained.set_cell(alloy.cell.array @ strain, scale_atoms=True)
            energies.append(_evaluate(module, strained, ("energy",))["energy"])
        slope = (energies[0] - energies[1]) / 2e-5 / alloy.get_volume()
        assert stress[a, b] == pytest.approx(slope, rel=1e-5, abs=1e-9)
    assert abs(stress).max() > 1e-3  # eV/A^3: something was tested


def test_forces_vanish_at_the_cutoff_and_not_inside(model):
    """A pair feels nothing at 7.5 A and beyond, but does at 7 A; cutoff is exact with a skin."""
    module = model()

    def force(distance):
        pair = Atoms("Al2", positions=[[0, 0, 0], [distance, 0, 0]])
        return _evaluate(module, pair)["forces"]

    assert not force(7.5).any()
    assert not force(7.9).any()
    assert abs(force(7.5 - 1e-6)).max() < 1e-6
    assert abs(force(7.0)).max() > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_of_forces_is_zero(alloy, model, dtype):
    """Newton's third law holds to rounding of float64 sums, in either precision."""
    forces = _evaluate(model(dtype), alloy)["forces"]
    assert abs(forces.sum(axis=0)).max() < 1e-12 * abs(forces).sum()


def test_isolated_atoms_have_no_forces(model):
    """An atom without neighbors keeps its energy and feels no force."""
    found = _evaluate(model(), Atoms("AlCu", positions=[[0, 0, 0], [100, 0, 0]]))
    assert not found["forces"].any()
    assert np.isfinite(found["energies"]).all()
    assert found["energies"][0] != found["energies"][1]


@pytest.mark.parametrize("chunk", [1, 7, 108, 4096])
def test_chunks_do_not_matter(alloy, model, chunk):
    """Results are the same when the atoms are cut into pieces of any size."""
    module = model()
    expected = _evaluate(module, alloy, ALL, chunk=50)
    found = _evaluate(module, alloy, ALL, chunk=chunk)
    for name in ALL:
        _close(found[name], expected[name], 1e-13)


def test_repeated_calls_give_the_same_bits(alloy, model):
    """With one thread and with two; between thread counts to rounding."""
    module = model("float32")
    results = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        first, second = (_evaluate(module, alloy, ALL, least_share=1) for _ in range(2))
        for name in ALL:
            np.testing.assert_array_equal(first[name], second[name])
        results.append(first["forces"])
    _close(results[1], results[0], 1e-6)


def test_list_is_kept_within_half_the_skin(alloy, model):
    """An old list with moved atoms gives the forces of a new one, until an atom moves too far."""
    module = model()
    force_field = kernels.ForceField(module)
    neighbors = kernels.VerletList(7.5, skin=1.0)
    assert neighbors.update(alloy)
    alloy.positions += 0.28 * np.random.default_rng(0).choice([-1, 1], size=alloy.positions.shape)
    assert not neighbors.update(alloy)
    kept = force_field(alloy, neighbors)["forces"]
    _close(kept, _evaluate(module, alloy)["forces"], 1e-12)
    alloy.positions[3] += 0.03
    assert neighbors.update(alloy)
    assert neighbors.n_builds == 2


def test_list_is_rebuilt_when_cell_species_or_periodicity_change(alloy):
    """Anything but a small move makes the list invalid."""
    neighbors = kernels.VerletList(5.0)
    changes = (
        lambda atoms: atoms.set_cell(atoms.cell.array * 1.001),
        lambda atoms: atoms.set_pbc([True, True, False]),
        lambda atoms: atoms.symbols.__setitem__(0, "Cu" if atoms.symbols[0] == "Al" else "Al"),
        lambda atoms: atoms.pop(),
    )
    neighbors.update(alloy)
    for change in changes:
        change(alloy)
        assert neighbors.update(alloy)
        assert not neighbors.update(alloy)


def test_closest_pair(alloy):
    """The list names an atom of the closest pair and its distance."""
    alloy.positions[40] = alloy.positions[41] + [0.3, 0, 0]
    neighbors = kernels.VerletList(5.0)
    neighbors.update(alloy)
    atom, distance = neighbors.closest(alloy)
    assert atom in (40, 41)
    assert distance == pytest.approx(0.3)


def test_weights_are_a_copy(alloy, model):
    """Training on does not change a force field that was made before."""
    module = model()
    force_field = kernels.ForceField(module)
    neighbors = kernels.VerletList(7.5)
    neighbors.update(alloy)
    before = force_field(alloy, neighbors)["energy"]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    assert force_field(alloy, neighbors)["energy"] == before
    assert type(module.network.interaction_layers[0]).__module__.startswith("hippynn")


def test_models_without_kernels_are_refused(model):
    """The force field names models that it does not cover."""
    with pytest.raises(InputError, match="InteractLayerQuad"):
        kernels.ForceField(model(l_max=2))
