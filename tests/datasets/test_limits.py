"""Largest sensible values of labels: what another unit makes of good data is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from kdlib import datasets
from kdlib.datasets.checks import LIMITS
from kdlib.errors import InputError


def relabeled(frames: list[Atoms], change: Callable[[dict, Atoms], None]) -> list[Atoms]:
    """Copies of labeled frames, the last but one with other labels."""
    copies = [atoms.copy() for atoms in frames]
    for copy, atoms in zip(copies, frames, strict=True):
        results = dict(atoms.calc.results)
        if atoms is frames[-2]:
            change(results, atoms)
        copy.calc = SinglePointCalculator(copy, **results)
    return copies


def scale(label: str, factor: float) -> Callable[[dict, Atoms], None]:
    """Return a function that multiplies a label."""

    def change(results: dict, atoms: Atoms) -> None:
        results[label] = results[label] * factor

    return change


IMPOSSIBLE = {
    "energy in J/mol": (scale("energy", 1e6 / units.kJ * units.mol), "has an energy of .* 1e.06 "),
    "atomic energies in J/mol": (
        lambda results, atoms: results.update(energies=np.full(4, -4e5 / units.kJ * units.mol)),
        r"has an atomic energy of .* eV/atom in size, larger than 1e\+06 \(.*J/mol",
    ),
    "forces in meV": (scale("forces", 1e4), r"has a force of .* larger than 1000 \(.*meV/Ang"),
    "stress in GPa": (
        lambda results, atoms: results.update(stress=-np.full(6, 90.0)),
        r"has a stress of 90 eV/Angstrom\^3 in size, larger than 10 \(GPa\?\)",
    ),
    "stress in kbar": (
        lambda results, atoms: results.update(stress=-np.full(6, 900.0)),
        r"has a stress of 900 eV/Angstrom\^3 in size, larger than 10 \(kbar\?\)",
    ),
    "stress in bar": (
        lambda results, atoms: results.update(stress=np.full(6, 9e5)),
        r"has a stress of 9e\+05 eV/Angstrom\^3 in size, larger than 10 \(bar\?\)",
    ),
    "no unit at all": (
        lambda results, atoms: results.update(stress=np.full(6, 1e9)),
        r"has a stress of 1e\+09 .* larger than 10 \(a failed calculation\?\)",
    ),
    "energy in meV": (
        lambda results, atoms: results.update(energy=-4 * 3500.0),
        r"its energy is 3\.\de\+03 eV/atom from what the other frames .*, more than 500 \(another",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_another_unit_is_refused_with_file_frame_value_and_limit(
    tmp_path: Path, alloy: list[Atoms], name: str
):
    """One frame of eight in another unit is named, although the others are sound."""
    change, rule = IMPOSSIBLE[name]
    write(tmp_path / "set.traj", relabeled(alloy[:8], change))
    with pytest.raises(InputError, match=rf"set\.traj: frame 6: {rule}"):
        datasets.load(tmp_path / "set.traj")


def test_a_virial_that_is_called_a_stress_is_guessed(alloy: list[Atoms]):
    """Where the number would be an ordinary virial of the cell, this is said."""
    atoms = alloy[0].copy()
    atoms.set_cell(3 * atoms.cell)
    virial = np.full(6, 0.1) * atoms.get_volume()  # 16 GPa of a cell of 1500 cubic Angstrom
    atoms.calc = SinglePointCalculator(atoms, **alloy[0].calc.results | {"stress": virial})
    with pytest.raises(InputError, match=r"set: frame 0: has a stress .*\(a virial in eV\?\)"):
        datasets.check([atoms], "set")


def test_a_virial_obeys_the_limit_of_the_stress(tmp_path: Path, alloy: list[Atoms]):
    """Under whatever name it comes, it is compared as a stress."""
    atoms = alloy[0].copy()
    atoms.info["energy"] = -1.0
    atoms.arrays["forces"] = alloy[0].calc.results["forces"]
    atoms.info["virial"] = -11 * atoms.get_volume() * np.eye(3)
    write(tmp_path / "set.extxyz", atoms, format="extxyz")
    with pytest.raises(InputError, match=r"has a stress of 11 eV/Angstrom\^3"):
        datasets.load(tmp_path / "set.extxyz")


def test_energies_of_any_zero_and_composition_are_sound(alloy: list[Atoms]):
    """All-electron energies of tens of keV, different for each species, are no fault."""
    of = {"Cu": -45e3, "Au": -517e3}
    frames = [atoms.copy() for atoms in alloy]
    for copy, atoms in zip(frames, alloy, strict=True):
        energy = atoms.calc.results["energy"] + sum(of[symbol] for symbol in atoms.symbols)
        results = atoms.calc.results | {"energy": energy}
        copy.calc = SinglePointCalculator(copy, **results)
    isolated = Atoms("Au", [[0, 0, 0]])
    isolated.calc = SinglePointCalculator(isolated, energy=of["Au"] + 4, forces=np.zeros((1, 3)))
    assert len(datasets.check([*frames, isolated], "set")) == len(alloy) + 1


def test_every_frame_of_another_method_is_named(alloy: list[Atoms]):
    """Of twenty frames, those three with core electrons are the broken ones, and no others."""
    frames = [atoms.copy() for atoms in alloy[:20]]
    for k, (copy, atoms) in enumerate(zip(frames, alloy, strict=False)):
        core = -40e3 * len(atoms) if k in (3, 8, 15) else 0.0
        results = atoms.calc.results | {"energy": atoms.calc.results["energy"] + core}
        copy.calc = SinglePointCalculator(copy, **results)
    found = dict(datasets.checks.broken(frames))
    assert sorted(found) == [3, 8, 15]
    assert all("from what the other frames say" in rule for rule in found.values())


@pytest.mark.parametrize("numbers", [[13, 0], [0, 0]])
def test_dummy_atoms_are_refused_by_name(numbers: list[int]):
    """X marks ghosts and vacancies: it has no energy to learn."""
    atoms = Atoms(numbers, [[0, 0, 0], [2.5, 0, 0]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
    with pytest.raises(InputError, match="set: frame 0: holds the dummy atom X, which is no elem"):
        datasets.check([atoms], "set")


def test_embedded_data_are_far_from_the_limits():
    """Good data reach a tenth of a limit at most, the forces of compressed cells included."""
    frames = datasets.load("al-pbe")
    forces = max(np.linalg.norm(atoms.get_forces(), axis=1).max() for atoms in frames)
    energies = [atoms.get_potential_energy() / len(atoms) for atoms in frames]
    assert forces < 0.1 * LIMITS.force
    assert np.ptp(energies) < 0.1 * LIMITS.energy_spread
