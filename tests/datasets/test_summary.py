"""The table of what was read, and where sensitivities begin."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from kdlib import datasets
from kdlib.__main__ import main
from kdlib.datasets.summary import phase_of
from kdlib.geometry.cells import closest_pair
from kdlib.hipnn import network


def test_table_counts_what_is_there(alloy, clusters):
    """Rows by system and boundary; extremes and closest pairs are those of the frames."""
    pure = Atoms("Cu", [[0, 0, 0]], cell=[3, 4, 5], pbc=True)
    pure.calc = SinglePointCalculator(pure, energy=-1.0, forces=np.zeros((1, 3)))
    table = datasets.summary([*alloy, *clusters, pure])
    assert table.frames.to_dict() == {
        ("Au-Cu", "isolated"): 12,
        ("Au-Cu", "periodic"): 40,
        ("Cu", "periodic"): 1,
    }
    cells = table.loc[("Au-Cu", "periodic")]
    assert cells["with stress"] == 40
    assert cells["atoms"] == "4-4"
    energies = [atoms.get_potential_energy() / 4 for atoms in alloy]
    assert cells["energy min (eV/atom)"] == pytest.approx(min(energies))
    assert cells["energy max (eV/atom)"] == pytest.approx(max(energies))
    largest = max(np.linalg.norm(atoms.get_forces(), axis=1).max() for atoms in alloy)
    assert cells["force max (eV/A)"] == pytest.approx(largest)
    assert table.loc[("Au-Cu", "isolated"), "composition"] == "Au 33% Cu 67%"
    assert table.loc[("Cu", "periodic"), "closest pair"] == "Cu-Cu 3.00 A"


def test_closest_pair_looks_through_the_boundary():
    """The closest pair may be an image, and far pairs are found, too."""
    atoms = Atoms("CuAu", [[0.2, 0, 0], [8.8, 0, 0]], cell=[9, 9, 9], pbc=True)
    found = closest_pair(atoms)
    assert found.distance == pytest.approx(0.4)
    between = atoms.positions[found.j] - atoms.positions[found.i]
    np.testing.assert_allclose(found.vector, between + [np.sign(-between[0]) * 9, 0, 0], atol=1e-12)
    atoms.pbc = False
    assert closest_pair(atoms).distance == pytest.approx(8.6)
    assert closest_pair(atoms[:1]).distance == np.inf


def test_command_shows_the_table_of_a_file(tmp_path, alloy, capsys):
    """`kdlib info` takes a path, too."""
    write(tmp_path / "set.extxyz", alloy)
    assert main(["info", str(tmp_path / "set.extxyz")]) == 0
    said = capsys.readouterr().out
    assert "Au-Cu" in said
    assert "closest pair" in said


def test_sensitivities_begin_below_the_closest_pair(alloy, emt_frames):
    """1.5 Angstrom as in the paper, unless atoms come closer: 0.9 times the bond of H2."""
    assert network.soft_min(emt_frames) == 1.5
    assert network.soft_min(alloy) == 1.5
    hydrogen = Atoms("H2", [[0, 0, 0], [0.74, 0, 0]])
    assert network.soft_min([*alloy, hydrogen]) == pytest.approx(0.9 * 0.74, abs=1e-3)


def test_config_type_stands_for_a_phase():
    """Many datasets sort their frames by `config_type`."""
    surface, other = bulk("Cu"), bulk("Cu")
    surface.info["config_type"] = "surface"
    assert phase_of(surface) == "surface"
    assert phase_of(other) == "unknown"
