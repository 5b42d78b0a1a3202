"""Energies, forces and stresses under the names and in the conventions that files have."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from ase.stress import voigt_6_to_full_3x3_stress

from kdlib import datasets
from kdlib.datasets.readers import labeled
from kdlib.errors import InputError


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
    assert labeled(atoms, energy_key="energy").get_potential_energy() == -1.0


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
    assert labeled(atoms, energy_key="REF_energy").get_potential_energy() == energy + 1.0
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
    """Stress and virial of opposite sense, an antisymmetric tensor, a wrong number of entries."""
    atoms = alloy[0].copy()
    atoms.calc = alloy[0].calc
    full = voigt_6_to_full_3x3_stress(alloy[0].calc.results["stress"])
    for name, value, rule in (
        ("virial", full * atoms.get_volume(), "stress and virial disagree"),
        ("virial", full + np.triu(np.ones((3, 3)), 1), "virial is not symmetric"),
        ("virial", np.zeros(4), r"virial has shape \(4,\), must hold 6 or 9 numbers"),
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
