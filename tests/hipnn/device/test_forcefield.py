"""The force field on a device against that of the CPU."""

import numpy as np
import pytest
import torch
from ase import Atoms

from kdlib.errors import InputError
from kdlib.hipnn import Potential, kernels
from kdlib.hipnn.calculator import HipnnCalculator

SHORT = {"cutoff": 4.5, "soft_max": 4.2, "n_sensitivities": 3, "n_features": 5}
ALL = ("energy", "energies", "forces", "stress")
EXACT = 1e-10  # relative, float64


def _list(module, atoms, where, skin=0.6):
    from kdlib.hipnn.device.field import DeviceList

    neighbors = DeviceList(module.config.cutoff, skin, module.config.torch_dtype, where)
    neighbors.update(atoms)
    return neighbors


def _evaluate(module, atoms, where, properties=("forces",), **options):
    from kdlib.hipnn.device.field import DeviceForceField

    return DeviceForceField(module, where, **options)(
        atoms, _list(module, atoms, where), properties
    )


def _reference(module, atoms, properties=("forces",)):
    neighbors = kernels.VerletList(module.config.cutoff, 0.6)
    neighbors.update(atoms)
    return kernels.ForceField(module)(atoms, neighbors, properties)


def _close(found, expected, tolerance=EXACT):
    scale = max(1, abs(np.asarray(expected)).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def _asked(atoms):
    return ALL if atoms.pbc.all() else ALL[:3]


def test_results_are_those_of_the_cpu(system, l_max, model, device):
    """Energy, atomic energies, forces and stress agree to 1e-10 in float64."""
    module = model(l_max=l_max, **SHORT)
    expected = _reference(module, system, _asked(system))
    found = _evaluate(module, system, device, _asked(system))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        _close(found[name], value)


@pytest.mark.parametrize("n_sensitivities", [8, 24])
def test_single_precision_is_as_good_as_the_cpu_s(alloy, model, device, n_sensitivities):
    """Forces are within 1e-5 eV/A of float64, and add up to zero, in one and several blocks."""
    module = model("float32", **SHORT | {"n_sensitivities": n_sensitivities})
    found = _evaluate(module, alloy, device)["forces"]
    assert abs(found.sum(axis=0)).max() < 1e-12 * abs(found).sum()
    exact = _reference(module.double(), alloy)["forces"]
    assert abs(found - exact).max() < 1e-5
    assert abs(exact).max() > 0.1


def test_energies_of_free_atoms_are_added_in_double_precision(alloy, model, device):
    """A float32 model with all-electron E0 has the energies that it has without, plus E0."""
    module = model("float32", **SHORT)
    module.e0.zero_()
    expected = _evaluate(module, alloy, device, ALL)
    module.e0.copy_(module.e0.new_tensor([-6600.123456789, -45123.456789012]))
    found, e0 = _evaluate(module, alloy, device, ALL), module.e0_of(alloy.numbers)
    np.testing.assert_allclose(found["energies"] - e0, expected["energies"], rtol=0, atol=1e-10)
    assert found["energy"] - e0.sum() == pytest.approx(expected["energy"], abs=1e-7)


def test_one_species_is_not_told_from_itself(liquid, model, device):
    """With a single species, whose channel is not looked up, results are the CPU's too."""
    module = model(species=("Al",), **SHORT)
    expected = _reference(module, liquid, ALL)
    for name, value in _evaluate(module, liquid, device, ALL).items():
        _close(value, expected[name])


def test_atoms_need_not_lie_in_the_cell(liquid, model, device):
    """Moving atoms by many cell vectors changes no force by more than rounding."""
    module = model(**SHORT)
    expected = _evaluate(module, liquid, device)["forces"]
    shifts = np.random.default_rng(0).integers(-40, 40, size=(len(liquid), 3))
    liquid.positions += shifts @ liquid.cell.array
    _close(_evaluate(module, liquid, device)["forces"], expected, 1e-9)


def test_forces_vanish_at_the_cutoff_and_not_inside(model, device):
    """A pair feels nothing at the cutoff and beyond, within the skin, but does inside."""
    module = model(**SHORT)

    def force(distance):
        pair = Atoms("Al2", positions=[[0, 0, 0], [distance, 0, 0]])
        return _evaluate(module, pair, device)["forces"]

    assert not force(4.501).any()
    assert not force(4.9).any()
    assert abs(force(4.5 - 1e-6)).max() < 1e-6
    assert abs(force(4.0)).max() > 1e-4


def test_isolated_atoms_have_no_forces(model, device):
    """An atom without neighbors keeps its energy and feels no force."""
    found = _evaluate(model(**SHORT), Atoms("AlCu", positions=[[0, 0, 0], [100, 0, 0]]), device)
    assert not found["forces"].any()
    assert np.isfinite(found["energies"]).all()
    assert found["energies"][0] != found["energies"][1]


def test_chunks_do_not_matter(alloy, model, device):
    """Results are the same when the atoms are cut into pieces for the dense layers."""
    from kdlib.hipnn.device.field import DeviceField

    module, results = model(**SHORT), []
    cells = _list(module, alloy, device).cells
    species = torch.zeros(len(alloy), dtype=torch.int32, device=device)
    for chunk in (None, 31):
        field = DeviceField(module, device, chunk)
        field.evaluate(cells, species)
        results.append((field.energies.cpu().numpy(), field.forces.cpu().numpy()))
    for a, b in zip(*results, strict=True):
        _close(a, b, 1e-13)


def test_repeated_calls_give_the_same_bits(alloy, model, device):
    """Nothing is added by two lanes in an order that may change."""
    module = model("float32", **SHORT)
    first, second = (_evaluate(module, alloy, device, ALL) for _ in range(2))
    for name in ALL:
        np.testing.assert_array_equal(first[name], second[name])


def test_list_is_kept_within_half_the_skin(alloy, model, device):
    """An old list with moved atoms gives the forces of a new one, until an atom moves too far."""
    from kdlib.hipnn.device.field import DeviceForceField

    module = model(**SHORT)
    neighbors = _list(module, alloy, device)
    alloy.positions += 0.17 * np.random.default_rng(0).choice([-1, 1], size=alloy.positions.shape)
    assert not neighbors.update(alloy)
    kept = DeviceForceField(module, device)(alloy, neighbors)["forces"]
    _close(kept, _reference(module, alloy)["forces"])
    alloy.positions[3] += 0.03
    assert neighbors.update(alloy)
    assert neighbors.n_builds == 2


def test_results_are_not_overwritten_by_the_next(alloy, model, device):
    """Arrays of a configuration stay as they are when the next one is evaluated."""
    from kdlib.hipnn.device.field import DeviceForceField

    module = model(**SHORT)
    neighbors, field = _list(module, alloy, device), DeviceForceField(module, device)
    first = field(alloy, neighbors, ALL)
    kept = {name: np.copy(value) for name, value in first.items()}
    alloy.rattle(0.02, seed=3)
    neighbors.update(alloy)
    second = field(alloy, neighbors, ALL)
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)
        assert np.any(second[name] != value)


def test_list_is_rebuilt_when_cell_species_or_number_change(alloy, model, device):
    """Anything but a small move makes the list invalid."""
    neighbors = _list(model(**SHORT), alloy, device)
    for change in (
        lambda atoms: atoms.set_cell(atoms.cell.array * 1.001),
        lambda atoms: atoms.symbols.__setitem__(0, "Cu" if atoms.symbols[0] == "Al" else "Al"),
        lambda atoms: atoms.pop(),
    ):
        change(alloy)
        assert neighbors.update(alloy)
        assert not neighbors.update(alloy)


def test_closest_pair(alloy, model, device):
    """The list names an atom of the closest pair and its distance."""
    alloy.positions[40] = alloy.positions[41] + [0.3, 0, 0]
    atom, distance = _list(model(**SHORT), alloy, device).closest(alloy)
    assert atom in (40, 41)
    assert distance == pytest.approx(0.3)


def test_room_for_neighbors_grows(model, device):
    """An atom with more neighbors than a first table holds keeps all of them."""
    rng = np.random.default_rng(2)
    cloud = Atoms("Al150", positions=rng.uniform(-1.2, 1.2, size=(150, 3)))
    cells = _list(model(**SHORT), cloud, device).cells
    assert int(cells.counts.min()) == int(cells.counts.max()) == 149
    assert len(cells.table) >= 149


def test_models_without_kernels_are_refused(model, device):
    """The force field says what it does not cover."""
    from kdlib.hipnn.device.field import DeviceField

    with pytest.raises(InputError, match="InteractLayerQuad"):
        DeviceField(model(l_max=2), device)


@pytest.mark.parametrize(
    ("n", "most", "block"), [(40, 20, 20), (8, 20, 8), (7, 10, 7), (13, 10, 1)]
)
def test_blocks_are_equal_parts(device, n, most, block):
    """The sensitivities of a program divide all of them, by fours where that is possible."""
    from kdlib.hipnn.device.loops import block_of

    assert block_of(n, most) == block


@pytest.mark.cuda
def test_calculator_on_cuda(alloy, model):
    """ASE gets the same numbers from a CUDA device as from the CPU, on our kernels."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    potential = Potential(model(**SHORT))
    results = []
    for name in ("cpu", "cuda"):
        atoms = alloy.copy()
        atoms.calc = HipnnCalculator(potential, device=name)
        assert atoms.calc.backend == "fused"
        results.append((atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()))
    for a, b in zip(*results, strict=True):
        _close(b, a)
