"""Teachers: names, labels and refusals."""

import logging
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.stress import voigt_6_to_full_3x3_stress

from kdlib import hipnn, teachers
from kdlib.errors import InputError
from kdlib.teachers import BadLabels, TeacherError

#: Networks in float32: their energies are rounded at 1e-7 of their size.
SINGLE = ["sevennet:7net-0", "sevennet:7net-l3i5", "chgnet"]


def cell(symbol: str = "Cu", seed: int = 3) -> Atoms:
    """Four atoms without symmetry, strained and rattled."""
    atoms = bulk(symbol, a=3.75 if symbol == "Cu" else 4.1, cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + [[0.02, 0.03, 0], [0, 0, 0.01], [0, 0, -0.01]]),
                   scale_atoms=True)  # fmt: skip
    atoms.info["frame"] = 7
    return atoms


@pytest.fixture(scope="module")
def loaded():
    """Teachers by name; each is loaded once."""
    known = {}

    def get(spec: str) -> teachers.Teacher:
        package = {"sevennet": "sevenn", "chgnet": "chgnet"}.get(spec.partition(":")[0])
        if package:
            pytest.importorskip(package, reason=f"{package}: pip install 'kdlib[teachers]'")
        if spec not in known:
            known[spec] = teachers.load(spec, device="cpu")
        return known[spec]

    return get


def write_eam(path) -> str:
    """Setfl file of an invented aluminum; F(rho) = -sqrt(rho), exponentials cut off smoothly."""
    r, rho = np.arange(600) * 0.01, np.arange(500) * 0.1
    switch = np.clip(1 - r / 5.5, 0, None) ** 4
    density = 12 * np.exp(-0.8 * (r - 2.8)) * switch
    pair = 0.3 * np.exp(-3 * (r - 2.8)) * switch
    head = ["invented", "for", "tests", "1 Al", "500 0.1 600 0.01 5.5", "13 26.98 4.05 fcc"]
    numbers = np.concatenate([-np.sqrt(rho), density, r * pair])
    path.write_text("\n".join([*head, *(f"{x:.17e}" for x in numbers)]) + "\n")
    return f"eam:{path}"


def check_gradients(teacher, atoms: Atoms, step: float, tolerance: float) -> None:
    """Assert F = -dE/dx and stress = dE/dstrain / V along random directions.

    The tolerance is a share of the largest slope that any direction of that length has.
    """
    frame = teacher.label(atoms)
    forces, stress = (frame.calc.results[name] for name in ("forces", "stress"))
    rng = np.random.default_rng(0)

    def slope(moved) -> float:
        up, down = (teacher.label(moved(s)).calc.results["energy"] for s in (step, -step))
        return (up - down) / (2 * step)

    for _ in range(2):
        direction = rng.normal(size=forces.shape)

        def shifted(s, direction=direction):
            copy = atoms.copy()
            copy.positions += s * direction
            return copy

        largest = np.linalg.norm(forces) * np.linalg.norm(direction)
        assert abs(slope(shifted) + np.sum(forces * direction)) < tolerance * largest
    for _ in range(2):
        strain = rng.normal(size=(3, 3))
        strain = (strain + strain.T) / 2

        def strained(s, strain=strain):
            copy = atoms.copy()
            copy.set_cell(copy.cell.array @ (np.eye(3) + s * strain), scale_atoms=True)
            return copy

        virial = voigt_6_to_full_3x3_stress(stress) * atoms.get_volume()
        largest = np.linalg.norm(virial) * np.linalg.norm(strain)
        assert abs(slope(strained) - np.sum(virial * strain)) < tolerance * largest


@pytest.mark.slow
@pytest.mark.parametrize("spec", SINGLE)
def test_networks_label_with_gradients_of_their_energy(loaded, spec):
    """F = -dE/dx and stress = dE/dstrain / V: the units are eV, Angstrom and eV/Angstrom^3."""
    check_gradients(loaded(spec), cell(), step=2e-3, tolerance=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SINGLE)
def test_site_energies_of_networks_add_up_to_the_energy(loaded, spec):
    """Eq. 1 with two species: the partition holds the references, as the energy does."""
    teacher, atoms = loaded(spec), cell()
    atoms.symbols[:2] = "Al"
    results = teacher.label(atoms).calc.results
    assert teacher.atomic_energies
    assert results["energies"].sum() == pytest.approx(results["energy"], abs=1e-9)
    assert np.ptp(results["energies"]) > 0.01


def local(kind: str, folder) -> str:
    """Name of a teacher that needs no other package."""
    if kind == "eam":
        return write_eam(folder / "invented.eam.alloy")
    if kind == "kdlib":
        config = hipnn.HipnnConfig(6, 5, 1, dtype="float64", cutoff=5.0, soft_max=4.5)
        hipnn.save(hipnn.build(config, seed=1), folder / "run")
        return f"kdlib:{folder / 'run'}"
    return {"emt": "emt", "factory": "ase.calculators.emt:EMT"}[kind]


@pytest.mark.parametrize("kind", ["emt", "eam", "kdlib", "factory"])
def test_labels_are_a_partition_and_its_gradients(kind, tmp_path):
    """Atomic energies add up to E, F = -dE/dx, stress = dE/dstrain / V, for every kind by name."""
    spec = local(kind, tmp_path)
    teacher, atoms = teachers.load(spec), cell("Al")
    check_gradients(teacher, atoms, step=1e-4, tolerance=1e-6)
    frame = teacher.label(atoms)
    results = frame.calc.results
    assert (teacher.name, frame.info["teacher"]) == (spec, spec)
    assert (teacher.atomic_energies, teacher.stress) == (True, True)
    assert results["energies"].sum() == pytest.approx(results["energy"], abs=1e-12)
    assert np.ptp(results["energies"]) > 1e-3
    assert all(isinstance(text, str) for text in teacher.about().values())


@pytest.mark.parametrize("kind", ["emt", "eam", "kdlib", "factory"])
def test_origin_of_labels_changes_with_the_files(kind, tmp_path):
    """It names the package's version and the content of every file that the labels depend on."""
    spec = local(kind, tmp_path)
    teacher = teachers.load(spec)
    package, *files = teacher.origin.values()
    assert package.startswith("kdlib" if kind == "kdlib" else "ase 3.")
    assert len(files) == {"emt": 0, "eam": 1, "kdlib": 2, "factory": 1}[kind]
    assert teacher.is_traceable == (kind != "factory")
    pair = teachers.load([teacher, "emt"])
    assert teacher.origin.items() <= pair.origin.items()
    assert pair.is_traceable == teacher.is_traceable
    before = teacher.origin
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(path.read_bytes() + b"\n")
    changed = {key for key, value in teacher.origin.items() if before[key] != value}
    assert changed == {key for key in before if key.startswith(str(tmp_path))}
    assert bool(changed) == (kind in ("eam", "kdlib"))


def test_eam_shares_each_pair_between_its_atoms(tmp_path):
    """A dimer of one element has two equal atomic energies, F(rho(r)) + phi(r) / 2."""
    teacher = teachers.load(local("eam", tmp_path))
    results = teacher.label(Atoms("Al2", [[0, 0, 0], [2.8, 0, 0]])).calc.results
    switch = (1 - 2.8 / 5.5) ** 4
    expected = -np.sqrt(12 * switch) + 0.3 * switch / 2
    np.testing.assert_allclose(results["energies"], expected, rtol=1e-4)


def test_eam_forgets_the_configuration_before(tmp_path):
    """Called directly on another cell, whatever changes are named, EAM has results of that cell."""
    calculator = teachers.load(local("eam", tmp_path)).calculator()
    fresh = teachers.load(local("eam", tmp_path)).calculator()
    one, other = cell("Al"), cell("Al", seed=4)
    calculator.calculate(one, ["energy", "forces", "energies"])
    calculator.calculate(other, ["energy"], [])
    assert not {"forces", "energies"} & set(calculator.results)
    for name in ("energy", "energies", "forces"):
        found, expected = (c.get_property(name, other) for c in (calculator, fresh))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_labels_leave_the_configuration_and_its_calculator_alone():
    """The copy has labels, but no constraint; the configuration given has neither changed."""
    atoms = cell("Al")
    atoms.set_constraint(FixAtoms([0]))
    frame = teachers.load(EMT()).label(atoms)
    assert atoms.calc is None
    assert len(atoms.constraints) == 1
    assert not frame.constraints
    assert np.abs(frame.get_forces()[0]).max() > 0.01


class Charged(EMT):
    """EMT with the tags of all atoms and the charge of the cell added, in eV."""

    def calculate(self, *args, **kwargs):
        """Fill ``results``, as ASE asks for."""
        super().calculate(*args, **kwargs)
        extra = self.atoms.get_tags() + self.atoms.info.get("charge", 0) / len(self.atoms)
        self.results["energies"] = self.results["energies"] + extra
        self.results["energy"] = self.results["free_energy"] = self.results["energies"].sum()


def test_labels_follow_changes_that_ase_does_not_compare():
    """Other tags, and another charge of the cell, give other labels at the same positions."""
    teacher, atoms = teachers.load(Charged()), cell("Al")
    plain = teacher.label(atoms).get_potential_energy()
    atoms.set_tags([1] + [0] * (len(atoms) - 1))
    assert teacher.label(atoms).get_potential_energy() == pytest.approx(plain + 1)
    atoms.info["charge"] = 2
    assert teacher.label(atoms).get_potential_energy() == pytest.approx(plain + 3)


def test_molecules_have_no_stress():
    """A box around what is not periodic has no meaning, though EMT divides by its volume."""
    atoms = Atoms("Al3", [[0, 0, 0], [2.6, 0, 0], [0, 2.8, 0]], cell=[12, 12, 12])
    assert set(teachers.load("emt").label(atoms).calc.results) == {"energy", "forces", "energies"}


class Free(EMT):
    """Energy extrapolated to zero smearing beside a free energy."""

    def calculate(self, *args, **kwargs):
        """Fill ``results``, as ASE asks for."""
        super().calculate(*args, **kwargs)
        self.results["energy"] = self.results["free_energy"] + 0.3


def test_the_energy_is_the_one_that_forces_are_the_gradient_of():
    """Where a code gives a free energy, that is the label."""
    frame = teachers.load(Free()).label(cell("Al"))
    assert frame.calc.results["energy"] == frame.calc.results["energies"].sum()


class Faulty(EMT):
    """EMT with something put in place of a result, from a given call on."""

    def __init__(self, name: str, change, after: int = 0) -> None:
        super().__init__()
        self.name_of_result, self.change, self.after = name, change, after

    def calculate(self, *args, **kwargs):
        """Fill ``results``, as ASE asks for."""
        super().calculate(*args, **kwargs)
        if self.after <= 0:
            old = self.results[self.name_of_result]
            self.results[self.name_of_result] = self.change(old)
        self.after -= 1


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("forces", lambda f: f * np.nan, "forces is not finite"),
        ("free_energy", lambda e: np.inf, "energy is not finite"),
        ("forces", lambda f: f[:2], r"forces has shape \(2, 3\), must be \(4, 3\)"),
        ("energies", lambda e: e * np.nan, "atomic energies are not finite"),
        ("forces", lambda f: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_faulty_label_names_teacher_frame_and_rule(name, change, rule):
    """A caller can leave the frame out: the fault is a TeacherError, whatever its kind."""
    with pytest.raises(TeacherError, match=f"teacher 'Faulty': frame 7: {rule}"):
        teachers.load(Faulty(name, change)).label(cell("Al"))


class Stumbling(EMT):
    """EMT that fails once, after it has taken notice of the configuration."""

    stumbled = False

    def calculate(self, *args, **kwargs):
        """Fill ``results``, as ASE asks for."""
        if not self.stumbled:
            self.stumbled = True
            Calculator.calculate(self, *args, **kwargs)
            raise RuntimeError("not converged")
        super().calculate(*args, **kwargs)


def test_teacher_goes_on_after_a_faulty_frame():
    """The calculator has forgotten the configuration that it failed for, and starts afresh."""
    teacher, atoms = teachers.load(Stumbling()), cell("Al")
    with pytest.raises(TeacherError, match="RuntimeError: not converged"):
        teacher.label(atoms)
    expected = teachers.load("emt").label(atoms).calc.results["forces"]
    np.testing.assert_array_equal(teacher.label(atoms).calc.results["forces"], expected)


def test_unknown_species_is_the_frames_fault():
    """EMT has no silicon; the message says for which frame."""
    with pytest.raises(TeacherError, match="teacher 'emt': frame Si2: NotImplementedError"):
        teachers.load("emt").label(bulk("Si"))


def test_energies_that_are_no_partition_are_left_out():
    """From the first label on, such a teacher has no atomic energies, and says why."""
    teacher = teachers.load(Faulty("energies", lambda e: e + 1), probe=cell("Al"))
    assert not teacher.atomic_energies
    assert "energies" not in teacher.label(cell("Al")).calc.results
    assert teacher.about()["atomic energies"].startswith("none: atomic energies add up to")


def test_partition_that_breaks_later_is_a_fault():
    """Once atomic energies have added up, a frame in which they do not is one to leave out."""
    teacher = teachers.load(Faulty("energies", lambda e: e + 1, after=1), probe=cell("Al"))
    with pytest.raises(TeacherError, match="frame 7: atomic energies add up to"):
        teacher.label(cell("Al", seed=4))


def test_rounding_of_the_sum_is_spread_evenly():
    """What float32 leaves out of the sum does not decide between atoms."""
    atoms = cell("Al")
    exact = teachers.load("emt").label(atoms).calc.results
    found = teachers.load(Faulty("energies", lambda e: e + 1e-7)).label(atoms).calc.results
    np.testing.assert_allclose(found["energies"], exact["energies"], rtol=0, atol=1e-12)


class Unable(EMT):
    """EMT that offers a property but raises an error where it is asked for."""

    def __init__(self, name: str, error: type[Exception]) -> None:
        super().__init__()
        self.name_of_result, self.error = name, error

    def get_property(self, name, *args, **kwargs):
        """Any result but one."""
        if name == self.name_of_result:
            raise self.error(name)
        return super().get_property(name, *args, **kwargs)


@pytest.mark.parametrize("error", [NotImplementedError, PropertyNotImplementedError])
@pytest.mark.parametrize("name", ["energies", "stress", "free_energy"])
def test_what_a_teacher_cannot_give_costs_nothing_else(name, error):
    """Without atomic energies, stress or free energy, all other labels are those of EMT."""
    atoms, teacher = cell("Al"), teachers.load(Unable(name, error))
    expected = teachers.load("emt").label(atoms).calc.results
    found = teacher.label(atoms).calc.results
    assert set(found) == set(expected) - {name}
    for label, values in found.items():
        np.testing.assert_allclose(values, expected[label], rtol=0, atol=1e-12)
    assert (teacher.atomic_energies, teacher.stress) == (name != "energies", name != "stress")


@pytest.mark.parametrize("change", [lambda e: e[:2], lambda e: e.sum(), lambda e: None])
def test_atomic_energies_of_a_wrong_shape_are_left_out(change):
    """Energy and forces are labels all the same, and the shape is said."""
    teacher = teachers.load(Faulty("energies", change), probe=cell("Al"))
    results = teacher.label(cell("Al")).calc.results
    assert set(results) == {"energy", "forces", "stress"}
    assert "atomic energies have shape" in teacher.about()["atomic energies"]


def test_a_stress_is_six_numbers_or_a_matrix():
    """A matrix is the same stress as its six numbers; another shape is a fault that is named."""
    atoms = cell("Al")
    expected = teachers.load("emt").label(atoms).calc.results["stress"]
    found = teachers.load(Faulty("stress", voigt_6_to_full_3x3_stress)).label(atoms)
    np.testing.assert_array_equal(found.calc.results["stress"], expected)
    with pytest.raises(BadLabels, match=r"frame 7: stress has shape \(5,\), must be \(6,\)"):
        teachers.load(Faulty("stress", lambda s: s[:5])).label(atoms)


def test_an_error_and_a_bad_label_are_told_apart():
    """A failure may be over next time; an answer that is no label will be the same one."""
    with pytest.raises(TeacherError) as failed:
        teachers.load(Faulty("forces", lambda f: 1 / 0)).label(cell("Al"))
    assert not isinstance(failed.value, BadLabels)
    with pytest.raises(BadLabels):
        teachers.load(Faulty("forces", lambda f: f * np.nan)).label(cell("Al"))


class Silent(Calculator):
    """Energy only."""

    implemented_properties = ["energy"]


class Plain(EMT):
    """No atomic energies, no stress."""

    implemented_properties = ["energy", "forces"]


def test_teacher_without_forces_is_refused():
    """MD and the loss need forces."""
    with pytest.raises(InputError, match="teacher 'Silent': gives no forces"):
        teachers.load(Silent())


def test_ensemble_labels_with_mean_and_spread():
    """Two teachers at E +- d and F +- f: the mean is the middle, the spreads are d / N and |f|."""
    low = Faulty("free_energy", lambda e: e - 0.2)
    low.implemented_properties = [p for p in EMT.implemented_properties if p != "energies"]
    high = Faulty("forces", lambda f: f + [0.0, 0.6, 0.8])
    atoms = cell("Al")
    ensemble = teachers.load([low, high])
    exact, frame = teachers.load("emt").label(atoms).calc.results, ensemble.label(atoms)
    assert ensemble.name == "Faulty + Faulty"
    assert (ensemble.atomic_energies, ensemble.stress) == (False, True)
    assert frame.calc.results["energy"] == pytest.approx(exact["energy"] - 0.1)
    np.testing.assert_allclose(frame.calc.results["forces"], exact["forces"] + [0, 0.3, 0.4])
    np.testing.assert_allclose(frame.arrays["forces_spread"], 0.5)
    assert frame.info["energy_spread"] == pytest.approx(0.1 / 4)
    assert "energies" not in frame.calc.results
    assert "references differ" in ensemble.about()["caveats"]


def test_ensembles_calculator_gives_the_mean_for_md():
    """Labels and MD see the same potential; a list within a list is flattened."""
    ensemble = teachers.load(["emt", ["emt", Faulty("forces", lambda f: 4 * f)]])
    atoms = cell("Al")
    expected = ensemble.label(atoms).calc.results
    atoms.calc = ensemble.calculator()
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"])
    np.testing.assert_allclose(atoms.get_stress(), expected["stress"])
    np.testing.assert_allclose(atoms.get_potential_energies(), expected["energies"])
    assert len(ensemble.members) == 3


def test_list_of_one_is_that_teacher():
    """There is no spread of one."""
    assert teachers.load(["emt"]).name == "emt"
    with pytest.raises(InputError, match="needs two teachers or more, got 0"):
        teachers.load([])


@pytest.mark.parametrize("spec", ["", "lda", "mace", "sevennet", "emt:1", "chgnet:", "lda:pbe"])
def test_unknown_name_lists_the_forms(spec):
    """One message says everything that can be written."""
    with pytest.raises(InputError, match="sevennet:7net-l3i5, .* package.module:factory"):
        teachers.load(spec)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("ase.calculators.emt:Emt", "AttributeError: .*has no attribute 'Emt'"),
        ("ase.build:molecule", "TypeError: .*missing 1 required positional argument"),
        ("ase:Atoms", "teacher 'ase:Atoms': Atoms is not an ASE calculator"),
        (EMT, "the class EMT is not an ASE calculator"),
        (3.5, "float is not an ASE calculator"),
        ("eam:nowhere.alloy", "eam:nowhere.alloy: no such file"),
        ("kdlib:nowhere", "nowhere.* no such model file"),
        ("eam:README.md", "teacher 'eam:.*unknown file extension"),
    ],
)
def test_what_leads_to_no_calculator_is_refused(spec, rule, tmp_path, monkeypatch):
    """The message names the teacher and what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("no potential\n")
    with pytest.raises(InputError, match=rule):
        teachers.load(spec)


@pytest.mark.parametrize(
    ("spec", "package", "command"),
    [
        ("sevennet:7net-0", "sevenn", r"pip install 'kdlib\[teachers\]'"),
        ("chgnet", "chgnet", r"pip install 'kdlib\[teachers\]'"),
        ("mace:any.model", "mace", "pip install mace-torch"),
    ],
)
def test_missing_package_comes_with_its_command(spec, package, command, monkeypatch):
    """A package that is not there is the user's to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package} is not installed: {command}"):
        teachers.load(spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["sevennet:7net-omni", "chgnet:9"])
def test_weights_that_would_be_downloaded_are_refused(spec):
    """Only what came with the package is loaded, and the message says what that is."""
    package = {"sevennet": "sevenn"}.get(spec.partition(":")[0], "chgnet")
    pytest.importorskip(package, reason=f"{package}: pip install 'kdlib[teachers]'")
    with pytest.raises(InputError, match=r"7net-0|0\.3\.0"):
        teachers.load(spec)


@pytest.mark.slow
def test_chgnet_is_for_crystals(loaded):
    """Without a periodic cell, or with an atom that has no neighbor, CHGNet has no answer."""
    with pytest.raises(TeacherError, match="periodic in three directions"):
        loaded("chgnet").label(molecule("H2O", cell=[9, 9, 9]))
    with pytest.raises(TeacherError, match="isolated atom"):
        loaded("chgnet").label(Atoms("Cu", cell=[12, 12, 12], pbc=True))


FRESH = """
from ase.build import bulk
from kdlib import teachers
for spec in ("sevennet:7net-0", "chgnet"):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = teachers.load(spec, device="cpu").calculator()
    atoms.get_forces()
"""


@pytest.mark.slow
def test_networks_are_silent():
    """Neither prints nor warnings come from loading or MD, in a process that has seen none yet."""
    for package in ("sevenn", "chgnet"):
        pytest.importorskip(package, reason=f"{package}: pip install 'kdlib[teachers]'")
    run = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_mace_is_loaded_from_a_file_and_its_environment_undone(tmp_path, monkeypatch):
    """A stand-in for the MACE that is not here: file and device reach it, its side effects end."""
    seen = {}

    class MACECalculator(EMT):
        def __init__(self, model_paths, device):
            super().__init__()
            os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
            logging.warning("no dtype selected")
            seen.update(path=model_paths, device=device)

    package = types.ModuleType("mace")
    package.calculators = types.ModuleType("mace.calculators")
    package.calculators.MACECalculator = MACECalculator
    monkeypatch.setitem(sys.modules, "mace", package)
    monkeypatch.setitem(sys.modules, "mace.calculators", package.calculators)
    path = tmp_path / "any.model"
    path.touch()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    teacher = teachers.load(f"mace:{path}", device="cpu")
    assert seen == {"path": str(path), "device": "cpu"}
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert logging.getLogger().handlers == []
    assert "not tested" in teacher.about()["caveats"]
    with pytest.raises(InputError, match="no such file"):
        teachers.load(f"mace:{tmp_path / 'other.model'}")


def test_a_shipped_model_is_a_teacher_whose_files_are_known():
    """By its name, as anywhere; a record of labels holds the hashes of both files."""
    teacher = teachers.load("kdlib:al-16-8-1")
    files = {path: text for path, text in teacher.origin.items() if "al-16-8-1/" in path}
    assert {path.rsplit("/", 1)[1] for path in files} == {"config.json", "model.safetensors"}
    assert all(len(text) == 64 for text in files.values())
