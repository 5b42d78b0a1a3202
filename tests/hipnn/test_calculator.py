"""The ASE calculator: its values, its neighbor list, its errors, and hippynn's own beside it."""

import logging
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.stress import full_3x3_to_voigt_6_stress

from kdlib import hipnn
from kdlib.errors import InputError
from kdlib.geometry.neighbors import neighbor_pairs
from kdlib.hipnn import HipnnConfig, Potential, kernels
from kdlib.hipnn.calculator import HipnnCalculator, stock_calculator
from kdlib.hipnn.potential import Validity
from kdlib.md import dynamics, liquid

CONFIG = HipnnConfig(6, 5, 1, dtype="float64", cutoff=5.0, soft_max=4.5)
BACKENDS = ("fused", "hippynn")


@pytest.fixture(scope="module")
def potential() -> Potential:
    """A small untrained model in float64."""
    return Potential(hipnn.build(CONFIG, seed=1))


def with_calculator(atoms: Atoms, potential: Potential, **options) -> Atoms:
    """Copy of the atoms with a calculator of its own."""
    atoms = atoms.copy()
    atoms.calc = HipnnCalculator(potential, device="cpu", **options)
    return atoms


TRICLINIC = Atoms(
    "Al3",
    [[0.1, 0.2, 0.3], [2.6, 1.1, 2.0], [1.2, 3.0, 3.3]],
    cell=[[4.5, 0, 0], [1.5, 4.0, 0], [-1.0, 0.7, 4.8]],
    pbc=True,
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", ["cubic", "triclinic, smaller than the cutoff", "left-handed"])
def test_values_are_those_of_the_potential(potential, crystal, backend, cell):
    """Energy, atomic energies, forces and stress are the model's own, in ASE's conventions."""
    atoms = crystal if cell == "cubic" else TRICLINIC.copy()
    if cell == "left-handed":
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    expected = potential.predict([atoms], stress=True)
    atoms = with_calculator(atoms, potential, backend=backend)
    assert atoms.calc.backend == backend
    energy = expected.energy.item()
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.atomic_energies, rtol=1e-10)
    assert atoms.get_potential_energies().sum() == pytest.approx(energy, rel=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, rtol=0, atol=1e-10)
    voigt = full_3x3_to_voigt_6_stress(expected.stress.values[0])
    np.testing.assert_allclose(atoms.get_stress(), voigt, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forces_are_minus_the_gradient(potential, crystal, backend):
    """F = -dE/dx by central differences through the calculator and its kept neighbor list."""
    atoms = with_calculator(crystal, potential, backend=backend)
    forces, step = atoms.get_forces(), 1e-4
    atoms.positions[7, 1] += step
    high = atoms.get_potential_energy()
    atoms.positions[7, 1] -= 2 * step
    low = atoms.get_potential_energy()
    assert atoms.calc.neighbor_list.n_builds == 1
    assert forces[7, 1] == pytest.approx(-(high - low) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_asked_is_computed(potential, crystal, backend):
    """Energies come always, forces when asked, the stress only when asked."""
    atoms = with_calculator(crystal, potential, backend=backend)
    atoms.get_potential_energy()
    assert set(atoms.calc.results) == {"energy", "free_energy", "energies"}
    atoms.get_forces()
    assert set(atoms.calc.results) == {"energy", "free_energy", "energies", "forces"}
    atoms.get_potential_energy()
    assert atoms.calc.timings["calls"] == 2
    atoms.get_stress()
    assert "stress" in atoms.calc.results
    assert atoms.calc.timings["calls"] == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_kept_list_gives_the_forces_of_a_fresh_one(potential, backend):
    """Along a hot run, forces from the kept list equal those from a list of their own."""
    atoms = with_calculator(liquid.liquid_aluminum(2, 0), potential, backend=backend, skin=0.6)
    for _ in range(8):
        dynamics.nve(atoms, 10, timestep=2.0)
        fresh = with_calculator(atoms, potential, backend=backend, skin=0.0)
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), rtol=0, atol=1e-10)
    assert 1 < atoms.calc.neighbor_list.n_builds < 81


def test_list_is_rebuilt_after_half_a_skin_and_not_before(potential, crystal):
    """An atom may move by half the skin; the cell, the periodicity and the species may not change.

    Wrapping an atom into the cell moves it far, and must not leave a wrong list behind.
    """
    atoms = with_calculator(crystal, potential, skin=1.0)

    def builds() -> int:
        atoms.get_forces()
        return atoms.calc.neighbor_list.n_builds

    assert builds() == 1
    atoms.positions[3, 0] += 0.49
    assert builds() == 1
    atoms.positions[3, 0] += 0.02
    assert builds() == 2
    atoms.set_cell(atoms.cell.array * 1.001)
    assert builds() == 3
    atoms.pbc = False
    assert builds() == 4
    atoms.pbc = True
    before = (builds(), atoms.get_forces())
    atoms.positions[5] += atoms.cell.array[0]
    assert builds() == before[0] + 1 == 6
    np.testing.assert_allclose(atoms.get_forces(), before[1], rtol=0, atol=1e-10)


def test_one_calculator_serves_many_configurations(potential, crystal):
    """Another number of atoms gives a new list, not an old answer."""
    calculator = HipnnCalculator(potential, device="cpu")
    large, single = crystal.copy(), bulk("Al", a=4.1)
    for atoms in (large, single, large):
        atoms.calc = calculator
        expected = potential.predict([atoms], forces=False).energy.item()
        assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-10)


def moved(atoms: Atoms) -> None:
    """All atoms at other places."""
    atoms.rattle(0.1, seed=7)


def strained(atoms: Atoms) -> None:
    """Another cell around atoms that stay."""
    atoms.set_cell(atoms.cell.array * 1.02)


def opened(atoms: Atoms) -> None:
    """No periodicity; it is changed in place."""
    atoms.pbc[:] = False


def exchanged(atoms: Atoms) -> None:
    """Another species at the place of one atom, changed in place."""
    atoms.numbers[3] = 29


def fewer(atoms: Atoms) -> None:
    """One atom less."""
    del atoms[5]


@pytest.mark.parametrize("change", [moved, strained, opened, exchanged, fewer])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_result_outlives_a_change(crystal, backend, change):
    """Called with part of the properties or with none of the changes, results are the new ones."""
    config = HipnnConfig(6, 5, 1, species=("Al", "Cu"), dtype="float64", cutoff=5.0, soft_max=4.5)
    potential = Potential(hipnn.build(config, seed=1))
    calculator = HipnnCalculator(potential, device="cpu", backend=backend)
    calculator.calculate(crystal, ["energies", "forces", "stress"])
    before = {name: np.copy(value) for name, value in calculator.results.items()}
    kept = dict(calculator.results)
    change(crystal)
    calculator.calculate(crystal, ["energy"], [])
    fresh = with_calculator(crystal, potential, backend=backend)
    assert set(calculator.results) == {"energy", "free_energy", "energies"}
    for name in ("energies", "forces", "energy"):
        found, expected = (c.get_property(name, crystal) for c in (calculator, fresh.calc))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    for name, value in before.items():
        np.testing.assert_array_equal(kept[name], value)


def test_a_change_is_one_of_what_energies_depend_on(potential, crystal):
    """The last bit of a position is a change, a magnetic moment is none."""
    calculator = HipnnCalculator(potential, device="cpu")
    calculator.calculate(crystal)
    crystal.set_initial_magnetic_moments(np.ones(len(crystal)))
    assert calculator.check_state(crystal) == []
    crystal.positions[3, 1] = np.nextafter(crystal.positions[3, 1], 100)
    assert calculator.check_state(crystal) == ["positions"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_calculators_own_atoms_are_those_of_the_results(potential, crystal, backend):
    """Without atoms the calculator's own count, which may have been moved; at first there is none.

    Asked for one more property of the same atoms it keeps what it has.
    """
    calculator = HipnnCalculator(potential, device="cpu", backend=backend)
    with pytest.raises(InputError, match="no configuration"):
        calculator.calculate()
    calculator.calculate(crystal, ["forces"])
    calculator.calculate(crystal, ["stress"], [])
    assert {"forces", "stress"} <= set(calculator.results)
    calculator.atoms.rattle(0.1, seed=7)
    crystal.rattle(0.1, seed=7)
    calculator.calculate(properties=["stress"])
    assert "forces" not in calculator.results
    fresh = with_calculator(crystal, potential, backend=backend)
    np.testing.assert_allclose(calculator.get_forces(crystal), fresh.get_forces(), atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_configurations_are_found_whatever_the_caller_says(potential, crystal, backend):
    """A foreign species is refused also where the caller names no change."""
    calculator = HipnnCalculator(potential, device="cpu", backend=backend)
    calculator.calculate(crystal, ["forces"])
    crystal.numbers[0] = 79
    for _ in range(2):
        with pytest.raises(InputError, match="79"):
            calculator.calculate(crystal, ["forces"], [])


@pytest.mark.parametrize("backend", BACKENDS)
def test_isolated_atoms(potential, backend):
    """Without periodicity, a far pair is two single atoms, and a near one pulls along its axis."""
    energy = {}
    for distance in (2.5, 40.0):
        atoms = with_calculator(
            Atoms("Al2", [[0, 0, 0], [0, 0, distance]]), potential, backend=backend
        )
        energy[distance] = atoms.get_potential_energy()
        forces = atoms.get_forces()
        np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(forces[:, :2], 0, atol=1e-12)
    single = with_calculator(Atoms("Al", [[0, 0, 0]]), potential, backend=backend)
    assert energy[40.0] == pytest.approx(2 * single.get_potential_energy(), rel=1e-12)
    assert abs(energy[2.5] - energy[40.0]) > 1e-6
    with pytest.raises(InputError, match="stress needs a cell"):
        single.get_stress()


@pytest.mark.parametrize("cell", [np.full((3, 3), np.nan), np.diag([-3.0, 1e-12, 2.0])])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cell_of_a_molecule_is_not_looked_at(potential, backend, cell):
    """Energy, forces, prediction, batch and ranges of open clusters do not know their cell."""
    atoms = Atoms("Al3", [[0.1, 0.2, 0.3], [2.6, 1.1, 2.0], [1.2, 3.0, 3.3]])
    bare = with_calculator(atoms, potential, backend=backend)
    known, expected = Validity.of([atoms], CONFIG.cutoff), potential.predict([atoms])
    atoms.set_cell(cell)
    atoms.pbc = False
    found, atoms = potential.predict([atoms]), with_calculator(atoms, potential, backend=backend)
    for _ in range(2):
        np.testing.assert_array_equal(atoms.get_forces(), bare.get_forces())
        assert atoms.get_potential_energy() == bare.get_potential_energy()
        atoms.rattle(0.01, seed=1)
        bare.rattle(0.01, seed=1)
    for name in ("energy", "forces"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert not known.left_by(atoms)


def test_single_precision_model_returns_double_arrays(crystal):
    """A float32 model's forces come as float64 and agree with the float64 model to 1e-4 eV/A."""
    single = Potential(hipnn.build(HipnnConfig(6, 5, 1, cutoff=5.0, soft_max=4.5), seed=1))
    double = Potential(hipnn.build(CONFIG, seed=1))
    double.module.load_state_dict(single.module.state_dict())
    forces = with_calculator(crystal, single).get_forces()
    assert forces.dtype == np.float64
    np.testing.assert_allclose(forces, with_calculator(crystal, double).get_forces(), atol=1e-4)


#: Energies of free atoms, all electrons included, eV.
FREE_ATOMS = {"Al": -6600.123456789, "Cu": -45123.456789012}


def ways(potential: Potential) -> dict:
    """Functions of a configuration that return its energy and those of its atoms, eV."""

    def predicted(atoms: Atoms) -> tuple[float, np.ndarray]:
        found = potential.predict([atoms], forces=False)
        return found.energy.item(), found.atomic_energies.values

    def calculated(calculator) -> tuple[float, np.ndarray]:
        def of(atoms: Atoms) -> tuple[float, np.ndarray]:
            atoms.calc = calculator
            return atoms.get_potential_energy(), atoms.get_potential_energies()

        return of

    return {
        "prediction": predicted,
        "fused": calculated(HipnnCalculator(potential, device="cpu")),
        "layers": calculated(HipnnCalculator(potential, device="cpu", backend="hippynn")),
        "stock": calculated(stock_calculator(potential, device="cpu")),
    }


@pytest.mark.parametrize("way", ["prediction", "fused", "layers", "stock"])
def test_energies_of_free_atoms_are_added_in_double_precision(crystal, way):
    """A float32 model with all-electron E0 has the energy that it has without, plus E0, exactly."""
    crystal.numbers[::3] = 29
    config = HipnnConfig(6, 5, 1, species=("Al", "Cu"), cutoff=5.0, soft_max=4.5)
    module = hipnn.build(config, seed=1)
    module.e0.zero_()
    energy, energies = ways(Potential(module))[way](crystal)
    module.e0.copy_(module.e0.new_tensor([FREE_ATOMS[symbol] for symbol in config.species]))
    found, parts = ways(Potential(module))[way](crystal)
    added = np.array([FREE_ATOMS[symbol] for symbol in crystal.symbols])
    assert parts.dtype == np.float64
    np.testing.assert_allclose(parts - added, energies, rtol=0, atol=1e-10)
    assert found - added.sum() == pytest.approx(energy, abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_electron_energies_follow_their_forces(crystal, backend):
    """F = -dE/dx to 1e-3 eV/Angstrom for steps of 1e-2 Angstrom in float32 at -25 keV an atom."""
    module = hipnn.build(HipnnConfig(6, 5, 1, cutoff=5.0, soft_max=4.5), seed=1)
    module.e0.fill_(-25560.7)
    atoms = with_calculator(crystal, Potential(module), backend=backend)
    forces, start, step = atoms.get_forces(), atoms.positions.copy(), 1e-2
    direction = forces / np.linalg.norm(forces)
    energies = []
    for distance in (step, -step):
        atoms.positions = start + distance * direction
        energies.append(atoms.get_potential_energy())
    slope = (energies[0] - energies[1]) / (2 * step)
    assert slope == pytest.approx(-np.linalg.norm(forces), rel=0, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_calculator_keeps_its_own_weights(crystal, backend):
    """Training a model on does not change a calculator that was made from it."""
    potential = Potential(hipnn.build(CONFIG, seed=1))
    atoms = with_calculator(crystal, potential, backend=backend)
    moved = with_calculator(crystal, potential, backend=backend)
    moved.rattle(0.01, seed=3)
    expected = moved.get_potential_energy()
    for parameter in potential.module.parameters():
        parameter.data.mul_(1.5)
    atoms.rattle(0.01, seed=3)
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-12)
    fresh = with_calculator(atoms, potential, backend=backend)
    assert fresh.get_potential_energy() != pytest.approx(expected, rel=1e-3)


def test_layers_see_the_pairs_inside_the_cutoff_alone(potential, crystal):
    """Pairs of the skin cost a list entry, not work in hippynn's layers."""
    atoms, seen = with_calculator(crystal, potential, backend="hippynn", skin=2.0), []
    atoms.calc._model._module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    atoms.get_forces()
    inside = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, CONFIG.cutoff)
    assert len(seen[0].first) == len(inside) < len(atoms.calc.neighbor_list.pairs)
    np.testing.assert_array_equal(seen[0].row, inside.row)


def test_calculator_from_a_folder(potential, crystal, tmp_path):
    """A saved model makes the same calculator, and a missing one is an error."""
    hipnn.save(potential.module, tmp_path)
    atoms = crystal.copy()
    atoms.calc = hipnn.load(tmp_path).calculator(device="cpu")
    expected = with_calculator(crystal, potential).get_potential_energy()
    assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(InputError, match="no such model file"):
        hipnn.load(tmp_path / "nothing")


def test_potential_in_another_process(potential, crystal):
    """A pickled potential is the same one, and its module is a copy."""
    sent = pickle.loads(pickle.dumps(potential))
    forces = with_calculator(crystal, potential).get_forces()
    np.testing.assert_array_equal(with_calculator(crystal, sent).get_forces(), forces)
    assert sent.counts == potential.counts
    assert sent.module is not potential.module


def test_unsupported_model_falls_back_with_one_warning(crystal, caplog):
    """l_max = 2 has no fused kernels: hippynn's layers run, and the log says why, once."""
    config = HipnnConfig(6, 5, 1, l_max=2, dtype="float64", cutoff=5.0, soft_max=4.5)
    potential = Potential(hipnn.build(config, seed=1))
    reason = kernels.supports(potential.module)
    with caplog.at_level(logging.WARNING, logger="kdlib.hipnn.calculator"):
        atoms = with_calculator(crystal, potential, backend="fused")
        atoms.get_forces()
    assert atoms.calc.backend == "hippynn"
    assert [record.message for record in caplog.records] == [
        f"no fused kernels for this model ({reason}): using hippynn's layers"
    ]


def test_timings_accumulate(potential, crystal):
    """Seconds of list and model grow with every call and are counted."""
    atoms = with_calculator(crystal, potential)
    atoms.get_forces()
    first = dict(atoms.calc.timings)
    atoms.rattle(0.01)
    atoms.get_forces()
    assert first["calls"] == 1
    assert atoms.calc.timings["calls"] == 2
    for part in ("neighbor_list", "model"):
        assert 0 < first[part] < atoms.calc.timings[part]


def mixed(atoms: Atoms) -> None:
    """Periodic in two directions."""
    atoms.pbc = [True, True, False]


def flat(atoms: Atoms) -> None:
    """A cell without volume."""
    atoms.set_cell([[5.0, 0, 0], [0, 5, 0], [5, 5, 0]])


def unknown_cell(atoms: Atoms) -> None:
    """A periodic cell that is not a number."""
    atoms.cell.array[1, 2] = np.nan


def too_close(atoms: Atoms) -> None:
    """Two atoms 0.3 Angstrom apart."""
    atoms.positions[4] = atoms.positions[9] + [0, 0.3, 0]


def lost(atoms: Atoms) -> None:
    """An atom at a position that is not finite."""
    atoms.positions[4] = np.nan


def strange(atoms: Atoms) -> None:
    """An atom of another element."""
    atoms.symbols[3] = "Cu"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (mixed, "is periodic along some cell vectors only"),
        (flat, "three independent vectors"),
        (unknown_cell, "three independent vectors"),
        (too_close, "atom 4 is 0.3 Angstrom from another; the least allowed is 0.5"),
        (lost, "atom 4 is at a position that is not finite"),
        (strange, r"atomic numbers \[29\] are unknown to a model of Al"),
    ],
)
def test_bad_configurations(potential, crystal, spoil, message):
    """A configuration outside the rules is refused, with the rule in the message, every time."""
    atoms = with_calculator(crystal, potential)
    atoms.get_forces()
    spoil(atoms)
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            atoms.get_forces()


def test_own_image_counts_as_too_close(potential):
    """An atom 0.4 Angstrom from its own image breaks the rule, too."""
    atoms = Atoms("Al", [[0, 0, 0]], cell=[0.4, 9, 9], pbc=True)
    with pytest.raises(InputError, match="atom 0 is 0.4 Angstrom from another"):
        with_calculator(atoms, potential).get_potential_energy()


def test_bad_settings(potential):
    """Backend, skin and device are checked when the calculator is made."""
    with pytest.raises(InputError, match="unknown backend 'cuda'"):
        HipnnCalculator(potential, backend="cuda")
    with pytest.raises(InputError, match="must not be negative"):
        HipnnCalculator(potential, skin=-0.1)
    with pytest.raises(InputError, match="unknown device 'abacus'"):
        HipnnCalculator(potential, device="abacus")


def test_agrees_with_hippynns_own_calculator(potential, crystal):
    """Energy, atomic energies, forces and stress equal stock hippynn's, in eV and Angstrom."""
    ours, stock = with_calculator(crystal, potential, backend="hippynn"), crystal.copy()
    stock.calc = stock_calculator(potential, device="cpu")
    assert stock.get_potential_energy() == pytest.approx(ours.get_potential_energy(), rel=1e-10)
    np.testing.assert_allclose(stock.get_forces(), ours.get_forces(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(stock.get_potential_energies(), ours.get_potential_energies())
    full = full_3x3_to_voigt_6_stress(stock.get_stress(voigt=False))
    np.testing.assert_allclose(full, ours.get_stress(), rtol=0, atol=1e-10)


def test_stock_timings(potential, crystal):
    """The stock calculator is timed in the same two parts, through MD."""
    crystal.calc = stock_calculator(potential, device="cpu")
    run = dynamics.nve(crystal, 3)
    parts = dict(zip(run.component.values, run.seconds.values, strict=True))
    assert min(parts.values()) > 0
    inside = parts["neighbor_list"] + parts["model"]
    assert parts["integrator"] == pytest.approx(parts["total"] - inside)
    assert crystal.calc.timings["calls"] == 4
