"""Energies, forces and stresses under the names and in the conventions that files have."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write
from ase.stress import voigt_6_to_full_3x3_stress

from kdlib import datasets
from kdlib.datasets import labels
from kdlib.datasets.labels import Keys
from kdlib.errors import InputError


def labeled(atoms: Atoms, **keys: str) -> Atoms:
    """Frame with its labels, under these names."""
    return labels.labeled(atoms, Keys(**keys)).frame


def bare(atoms: Atoms) -> Atoms:
    """The structure alone."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


@pytest.mark.parametrize("name", ["energy", "REF_energy", "dft_energy", "DFT_energy", "Energy"])
@pytest.mark.parametrize("forces", ["forces", "force", "REF_forces", "dft_force", "DFT_forces"])
def test_usual_names_are_found_in_a_file(tmp_path, alloy, name, forces):
    """Labels under any usual name are read under ASE's name, and under no other."""
    frames = []
    for atoms in alloy[:3]:
        copy = bare(atoms)
        copy.info[name] = atoms.calc.results["energy"]
        copy.arrays[forces] = atoms.calc.results["forces"]
        frames.append(copy)
    write(tmp_path / "set.extxyz", frames, format="extxyz")
    for old, new in zip(alloy, datasets.load(tmp_path / "set.extxyz"), strict=False):
        assert new.get_potential_energy() == pytest.approx(old.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(new.get_forces(), old.get_forces(), atol=1e-7)
        assert set(new.arrays) == {"numbers", "positions"}
        assert name not in new.info


def test_the_energy_is_the_one_that_the_forces_belong_to(alloy):
    """Beside a free energy, ASE's `energy` is an extrapolation; asked for, it is taken."""
    atoms = bare(alloy[0])
    results = {"energy": -1.0, "free_energy": -1.5, "forces": np.zeros((4, 3))}
    atoms.calc = SinglePointCalculator(atoms, **results)
    assert labeled(atoms).get_potential_energy() == -1.5
    assert labeled(atoms, energy="energy").get_potential_energy() == -1.0


def test_embedded_energies_stay_what_they_are():
    """The energies of al-pbe are free energies already, under the name `energy` alone."""
    for atoms in datasets.load("al-pbe")[:5]:
        assert "free_energy" not in atoms.calc.results
        assert labeled(atoms).get_potential_energy() == atoms.get_potential_energy()


def test_two_names_that_differ_are_refused(alloy):
    """With a potential's energy beside the reference, the user must choose one."""
    atoms = alloy[0].copy()
    atoms.calc = alloy[0].calc
    energy = atoms.get_potential_energy()
    atoms.info["REF_energy"] = energy + 1.0
    with pytest.raises(InputError, match="'energy' and 'REF_energy' are both names of energy"):
        labeled(atoms)
    assert labeled(atoms, energy="REF_energy").get_potential_energy() == energy + 1.0
    atoms.info["REF_energy"] = energy
    assert labeled(atoms).get_potential_energy() == energy
    atoms.arrays["REF_forces"] = -atoms.calc.results["forces"]
    with pytest.raises(InputError, match="choose one with forces_key"):
        labeled(atoms)


def test_own_names_can_be_given(tmp_path, alloy):
    """`energy_key` and `forces_key` name anything; a name that is not there lists what is."""
    atoms = bare(alloy[0])
    atoms.info["E_mine"], atoms.arrays["F_mine"] = -7.5, alloy[0].calc.results["forces"]
    path = tmp_path / "mine.extxyz"
    write(path, atoms, format="extxyz")
    (frame,) = datasets.load(path, energy_key="E_mine", forces_key="F_mine")
    assert frame.get_potential_energy() == -7.5
    with pytest.raises(InputError, match=r"mine\.extxyz: frame 0: has no 'E'; it holds E_mine, F_"):
        datasets.load(path, energy_key="E")
    with pytest.raises(InputError, match=r"mine\.extxyz: frame 0: has no energy"):
        datasets.load(path)


def test_forces_on_fixed_atoms_are_kept(tmp_path, alloy):
    """A constraint in the file does not hide the force on the atom from training."""
    atoms = alloy[0].copy()
    atoms.calc = alloy[0].calc
    atoms.set_constraint(FixAtoms([0]))
    write(tmp_path / "fixed.traj", atoms)
    (frame,) = datasets.load(tmp_path / "fixed.traj")
    np.testing.assert_array_equal(frame.get_forces(), alloy[0].calc.results["forces"])


def test_stress_is_the_slope_of_the_energy(tmp_path, alloy):
    """Stress x volume is dE/dstrain, component by component, in ASE's order."""
    write(tmp_path / "set.extxyz", alloy[:1])
    (frame,) = datasets.load(tmp_path / "set.extxyz")
    stress = voigt_6_to_full_3x3_stress(frame.get_stress())
    for i, j in ((0, 0), (1, 2), (0, 1)):
        strained = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * 1e-4
            atoms = bare(frame)
            atoms.set_cell(frame.cell.array @ strain, scale_atoms=True)
            atoms.calc = EMT()
            strained.append(atoms.get_potential_energy())
        slope = (strained[0] - strained[1]) / 2e-4
        assert stress[i, j] * frame.get_volume() == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("size", [1, 4])
def test_energies_of_atoms_and_stress_survive_a_file(tmp_path, alloy, size):
    """All predictions of a potential are read back, each number at its atom and component."""
    atoms = alloy[0][:size]
    rng = np.random.default_rng(4)
    energies, stress = rng.normal(size=size), rng.normal(size=6)
    labels = {"energy": energies.sum(), "forces": rng.normal(size=(size, 3)) * (size > 1)}
    labels["forces"] -= labels["forces"].mean(axis=0)
    atoms.calc = SinglePointCalculator(atoms, stress=stress, energies=energies, **labels)
    write(tmp_path / "teacher.extxyz", atoms)
    (frame,) = datasets.load(tmp_path / "teacher.extxyz")
    assert frame.calc.results["energies"].shape == (size,)
    for name, value in {"stress": stress, "energies": energies, **labels}.items():
        np.testing.assert_allclose(frame.calc.results[name], value, atol=1e-7, err_msg=name)
    assert set(frame.arrays) == {"numbers", "positions"}


def test_energies_of_atoms_are_left_out_where_there_are_none(alloy):
    """A reference method has no energies of single atoms, and none are invented."""
    assert "energies" not in labeled(alloy[0]).calc.results


@pytest.mark.parametrize("name", ["virial", "REF_virial", "dft_virials"])
def test_virial_is_minus_stress_times_volume(tmp_path, alloy, name):
    """A virial in eV becomes the stress that it was computed from."""
    atoms = bare(alloy[0])
    stress = alloy[0].calc.results["stress"]
    atoms.info["energy"], atoms.arrays["forces"] = -1.0, alloy[0].calc.results["forces"]
    atoms.info[name] = -voigt_6_to_full_3x3_stress(stress) * atoms.get_volume()
    write(tmp_path / "virial.extxyz", atoms, format="extxyz")
    (frame,) = datasets.load(tmp_path / "virial.extxyz")
    np.testing.assert_allclose(frame.get_stress(), stress, atol=1e-8)


def test_impossible_stresses_are_refused(alloy):
    """Stress and virial of opposite sense, and an antisymmetric tensor."""
    atoms = alloy[0].copy()
    atoms.calc = alloy[0].calc
    full = voigt_6_to_full_3x3_stress(alloy[0].calc.results["stress"])
    for name, value, rule in (
        ("virial", full * atoms.get_volume(), "stress and virial disagree"),
        ("virial", full + np.triu(np.ones((3, 3)), 1), "virial is not symmetric"),
    ):
        atoms.info = {name: value}
        with pytest.raises(InputError, match=rule):
            labeled(atoms)


def test_a_molecule_has_no_stress(clusters):
    """Without a cell there is no volume: a virial is left alone."""
    atoms = clusters[0].copy()
    atoms.calc = clusters[0].calc
    atoms.info["virial"] = np.eye(3)
    assert "stress" not in labeled(atoms).calc.results


@pytest.mark.parametrize(
    ("energy", "rule"),
    [("-3 eV", "energy is not made of numbers but '-3 eV'"), ([1.0, 2.0], "must be one number")],
)
def test_energies_that_are_no_number_are_refused(alloy, energy, rule):
    """Text and lists are not silently turned into something."""
    atoms = bare(alloy[0])
    atoms.info["REF_energy"] = energy
    with pytest.raises(InputError, match=rule):
        labeled(atoms)


LAYOUTS = {
    "Voigt": lambda stress, volume: stress,
    "3x3": lambda stress, volume: voigt_6_to_full_3x3_stress(stress),
    "nine numbers": lambda stress, volume: voigt_6_to_full_3x3_stress(stress).ravel(),
    "a list": lambda stress, volume: stress.tolist(),
}


@pytest.mark.parametrize("other", LAYOUTS)
def test_one_stress_in_two_layouts_is_one_label(alloy, other):
    """A stress is compared after it was read, not as it stands, with virials as well."""
    stress, volume = alloy[0].calc.results["stress"], alloy[0].get_volume()
    atoms = alloy[0].copy()
    atoms.calc = alloy[0].calc
    atoms.info["dft_stress"] = LAYOUTS[other](stress, volume)
    atoms.info["virial"] = LAYOUTS[other](-stress * volume, volume)
    np.testing.assert_allclose(labeled(atoms).get_stress(), stress, rtol=1e-12)
    atoms.info["dft_stress"] = LAYOUTS[other](stress + [0, 0, 0, 0, 0, 1e-3], volume)
    with pytest.raises(InputError, match="both names of stress and differ: choose one with stress"):
        labeled(atoms)


def test_one_energy_as_number_and_array_is_one_label(alloy):
    """An energy in an array of length one is that energy."""
    atoms = alloy[0].copy()
    atoms.calc = alloy[0].calc
    atoms.info["REF_energy"] = np.array([atoms.get_potential_energy()])
    assert labeled(atoms).get_potential_energy() == atoms.get_potential_energy()


def test_the_stress_can_be_chosen(tmp_path, alloy):
    """`stress_key` and `virial_key` choose where labels differ; a name that no frame has is said.

    Frames without the chosen label have no stress.
    """
    frames = [alloy[0].copy(), alloy[1].copy()]
    stress, volume = alloy[0].calc.results["stress"], alloy[0].get_volume()
    for atoms, source in zip(frames, alloy, strict=False):
        atoms.info["energy"] = source.calc.results["energy"]
        atoms.arrays["forces"] = source.calc.results["forces"]
    frames[0].info |= {"s1": stress, "dft_stress": 2 * stress, "virial": -3 * stress * volume}
    path = tmp_path / "set.extxyz"
    write(path, frames, format="extxyz")
    with pytest.raises(
        InputError, match=r"set\.extxyz: frame 0: stress and virial disagree, .*key"
    ):
        datasets.load(path)
    keys = ({"stress_key": "s1"}, {"stress_key": "dft_stress"}, {"virial_key": "virial"})
    for factor, key in enumerate(keys, start=1):
        first, second = datasets.load(path, **key)
        np.testing.assert_allclose(first.get_stress(), factor * stress, rtol=1e-6)
        assert "stress" not in second.calc.results
    with pytest.raises(InputError, match=r"set\.extxyz: no frame with a cell has 's2'"):
        datasets.load(path, stress_key="s2")
    with pytest.raises(InputError, match="disagree"):
        datasets.load(path, stress_key="s1", virial_key="virial")
    with pytest.raises(InputError, match="a registered dataset has its own keys"):
        datasets.load("al-pbe", virial_key="virial")


@pytest.mark.parametrize("cell", [None, 3.0, 12.0])
def test_one_atom_needs_no_forces(tmp_path, cell):
    """By translation, no force acts on one atom in any cell; two atoms need theirs."""
    options = {"cell": np.eye(3) * cell, "pbc": True} if cell else {}
    atoms = Atoms("Cu", [[0.1, 0.2, 0.3]], info={"E": -1.5}, **options)
    write(tmp_path / "one.extxyz", atoms, format="extxyz")
    for keys in ({}, {"forces_key": "F"}):
        (frame,) = datasets.load(tmp_path / "one.extxyz", energy_key="E", **keys)
        np.testing.assert_array_equal(frame.get_forces(), np.zeros((1, 3)))
    pair = Atoms("Cu2", [[0, 0, 0], [2.3, 0, 0]], info={"E": -1.5})
    write(tmp_path / "two.extxyz", pair, format="extxyz")
    with pytest.raises(InputError, match=r"two\.extxyz: frame 0: has no forces"):
        datasets.load(tmp_path / "two.extxyz", energy_key="E")


@pytest.mark.parametrize(
    ("name", "value"),
    [("virials", np.ones((4, 9))), ("virial", np.ones((4, 3, 3))), ("REF_stress", "None")],
)
def test_a_stress_of_odd_layout_is_left_out_with_a_word(tmp_path, alloy, monkeypatch, name, value):
    """Virials of single atoms are no stress of the cell: one line says so, and the frames stay."""
    path, said = tmp_path / "set.db", []
    with connect(str(path)) as rows:
        for source in alloy[:2]:
            rows.write(bare(source), data={**unstressed(source), name: value})
    monkeypatch.setattr("kdlib.progress.line", said.append)
    for frame in datasets.load(path):
        assert "stress" not in frame.calc.results
    (line,) = said
    assert line.startswith(f"{path}: a label of 2 frames is left out: {name} ")
    with pytest.raises(InputError, match=rf"set\.db: frame 0: {name} "):
        datasets.load(path, stress_key=name)


def unstressed(atoms: Atoms) -> dict[str, object]:
    """Energy and forces of a labeled frame."""
    return {label: atoms.calc.results[label] for label in ("energy", "forces")}


@pytest.mark.parametrize("name", ["stress", "virial"])
@pytest.mark.parametrize("layout", ["Voigt", "nine numbers", "one number", "text"])
def test_a_stress_of_any_layout_may_stand_in_the_comment_of_a_frame(tmp_path, alloy, name, layout):
    """Six and nine numbers under ASE's own names are read; anything else is left out."""
    stress, path = alloy[0].calc.results["stress"], tmp_path / "set.extxyz"
    value = stress * (-alloy[0].get_volume() if name == "virial" else 1.0)
    atoms = bare(alloy[0])
    atoms.info["energy"], atoms.arrays["forces"] = -1.0, alloy[0].calc.results["forces"]
    write(path, atoms, format="extxyz")
    nine = voigt_6_to_full_3x3_stress(value).ravel()
    given = {"Voigt": value, "nine numbers": nine, "one number": [0.0], "text": ["None"]}[layout]
    label = f'{name}="{" ".join(map(str, given))}" Properties='
    path.write_text(path.read_text().replace("Properties=", label))
    results = datasets.load(path)[0].calc.results
    if layout in ("one number", "text"):
        assert "stress" not in results
    else:
        np.testing.assert_allclose(results["stress"], stress, rtol=1e-10)


def test_atomic_energies_of_odd_layout_are_left_out(alloy):
    """A column of atomic energies is read; those of other atoms are noted."""
    atoms = alloy[0].copy()
    results = alloy[0].calc.results
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.calc.results["energies"] = np.arange(4.0)[:, None]
    np.testing.assert_array_equal(labeled(atoms).calc.results["energies"], np.arange(4.0))
    atoms.calc.results["energies"] = np.zeros((4, 2))
    found = labels.labeled(atoms)
    assert "energies" not in found.frame.calc.results
    assert found.left_out == ("energies has shape (4, 2), must be (4,)",)


def test_one_name_with_two_values_is_refused(alloy):
    """What a calculator and the frame's information say must agree under the same name, too."""
    atoms = alloy[0].copy()
    atoms.calc = alloy[0].calc
    atoms.info["energy"] = atoms.get_potential_energy() + 1.0
    with pytest.raises(InputError, match="'energy' is there twice, with different values"):
        labeled(atoms)


def test_a_copy_of_the_extrapolated_energy_changes_nothing(alloy):
    """The energy at zero smearing may stand in the information, too: the free energy is taken."""
    atoms = bare(alloy[0])
    results = {"energy": -1.0, "free_energy": -1.5, "forces": np.zeros((4, 3))}
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["energy"] = -1.0
    assert labeled(atoms).get_potential_energy() == -1.5


@pytest.mark.parametrize("value", [True, 1 + 2j])
def test_truth_and_complex_numbers_are_no_energies(alloy, value):
    """Neither is made a number of."""
    atoms = bare(alloy[0])
    atoms.info["REF_energy"] = value
    with pytest.raises(InputError, match="energy is not made of numbers"):
        labeled(atoms)
