"""Liquids to start from: a melt of aluminum, copies of a frame of anything else."""

import numpy as np
import pytest
from ase.build import bulk

from kdlib.md import liquid
from kdlib.md.dynamics import MeltProtocol, kinetic_energy, kinetic_temperature

MELT = MeltProtocol(melt_steps=5, quench_steps=5, equilibration_steps=5)


def test_density_at_1200_K():
    """2294 kg/m^3 is 0.0512 atoms/Angstrom^3, and the liquid expands on heating."""
    assert liquid.density(1200) == pytest.approx(0.0512, abs=2e-5)
    assert liquid.density(1400) < liquid.density(1000)


@pytest.mark.parametrize("n_cells", [2, (2, 3, 1)])
def test_crystal_to_be_melted(n_cells):
    """Four atoms a cell, the liquid's density, 1200 K exactly, the center of mass at rest."""
    atoms = liquid.liquid_aluminum(n_cells, seed=1)
    assert len(atoms) == 4 * np.prod(np.broadcast_to(n_cells, 3))
    assert len(atoms) / atoms.get_volume() == pytest.approx(liquid.density(1200))
    assert kinetic_temperature(atoms) == pytest.approx(1200)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-9)
    assert atoms.pbc.all()


def test_seed_decides_the_configuration():
    """The same seed gives the same atoms, another one others."""
    first, again, other = (liquid.liquid_aluminum(2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.positions, again.positions)
    np.testing.assert_array_equal(first.get_momenta(), again.get_momenta())
    assert np.abs(first.positions - other.positions).max() > 0.1


def test_kinetic_temperature_leaves_the_center_of_mass_out():
    """N atoms at rest in the mean have 3 N - 3 degrees of freedom."""
    atoms = liquid.liquid_aluminum(2, seed=0, temperature=700.0)
    from_ase = atoms.get_temperature()  # counts 3 N
    assert kinetic_temperature(atoms) == pytest.approx(from_ase * 96 / 93)


def test_copies_of_a_liquid_have_velocities_of_their_own():
    """At the temperature asked for, and no copy moves as another."""
    block = liquid.liquid_aluminum(1, seed=0)
    found = liquid.enlarged(block, 48, 900.0, seed=0)
    assert len(found) == 48
    assert kinetic_temperature(found) == pytest.approx(900.0)
    assert len(np.unique(found.get_momenta().round(9), axis=0)) == 48


def test_kinetic_energy_is_ases():
    """Computed without BLAS, it is the same number."""
    atoms = liquid.liquid_aluminum(2, seed=0)
    assert kinetic_energy(atoms) == pytest.approx(atoms.get_kinetic_energy(), rel=1e-12)


def test_other_materials_start_from_copies_of_a_typical_frame(alloys):
    """The frame of median volume with all species, at its own density, at the temperature asked."""
    atoms = liquid.configuration(alloys, 100, MELT)
    assert len(atoms) == 100
    assert atoms.get_volume() / len(atoms) == pytest.approx(3.9**3 / 4)
    assert kinetic_temperature(atoms) == pytest.approx(MELT.temperature)
    assert "not aluminum" in atoms.info["origin"]
    assert "25 copies of frame 2, 100 atoms" in atoms.info["origin"]


def test_aluminum_is_melted_at_its_experimental_density():
    """Nothing changes for aluminum: 4 n^3 atoms, whatever the frames' own density."""
    frames = [bulk("Al", a=3.5, cubic=True)]
    atoms = liquid.configuration(frames, 108, MELT)
    assert len(atoms) == 108
    assert len(atoms) / atoms.get_volume() == pytest.approx(liquid.density(MELT.temperature))
    assert atoms.info["origin"].startswith("liquid aluminum at 1200 K")


def test_molecules_are_put_into_boxes(molecules):
    """Copies of a molecule stay four Angstrom apart, or further."""
    atoms = liquid.configuration(molecules, 16, MELT)
    assert len(atoms) == 16
    assert atoms.pbc.all()
    distances = atoms.get_all_distances(mic=True)
    distances[distances < 1e-9] = np.inf
    assert sorted(set(distances.min(axis=1).round(6))) == [2.5]
    between = distances[distances > 2.6]
    assert between.min() == pytest.approx(4.0)


def test_sizes_are_multiples_of_the_cell():
    """Nearest multiples; those that fit stay, and different sizes stay different."""
    sizes = {"stock": [108, 432], "fused": [216, 108, 6912]}
    assert liquid.fitting(sizes, 108) == {"stock": [108, 432], "fused": [108, 216, 6912]}
    assert liquid.fitting({"fused": [10, 20, 100]}, 40) == {"fused": [40, 80, 120]}
