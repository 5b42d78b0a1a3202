"""Liquid aluminium to start from: density, temperature, tiling."""

import numpy as np
import pytest

from kdlib.errors import InputError
from kdlib.md import liquid
from kdlib.md.dynamics import kinetic_energy, kinetic_temperature


def test_density_at_1200_K():
    """2294 kg/m^3 is 0.0512 atoms/Angstrom^3, and the liquid expands on heating."""
    assert liquid.density(1200) == pytest.approx(0.0512, abs=2e-5)
    assert liquid.density(1400) < liquid.density(1000)


@pytest.mark.parametrize("n_cells", [2, (2, 3, 1)])
def test_liquid_aluminium(n_cells):
    """Four atoms a cell, the liquid's density, 1200 K exactly, the centre of mass at rest."""
    atoms = liquid.liquid_aluminium(n_cells, seed=1)
    assert len(atoms) == 4 * np.prod(np.broadcast_to(n_cells, 3))
    assert len(atoms) / atoms.get_volume() == pytest.approx(liquid.density(1200))
    assert kinetic_temperature(atoms) == pytest.approx(1200)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-9)
    assert atoms.pbc.all()


def test_seed_decides_the_configuration():
    """The same seed gives the same atoms, another one others."""
    first, again, other = (liquid.liquid_aluminium(2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.positions, again.positions)
    np.testing.assert_array_equal(first.get_momenta(), again.get_momenta())
    assert np.abs(first.positions - other.positions).max() > 0.1


def test_kinetic_temperature_leaves_the_centre_of_mass_out():
    """N atoms at rest in the mean have 3 N - 3 degrees of freedom."""
    atoms = liquid.liquid_aluminium(2, seed=0, temperature=700.0)
    from_ase = atoms.get_temperature()  # counts 3 N
    assert kinetic_temperature(atoms) == pytest.approx(from_ase * 96 / 93)


@pytest.mark.parametrize(
    ("copies", "shape"), [(1, (1, 1, 1)), (8, (2, 2, 2)), (12, (2, 2, 3)), (96, (4, 4, 6))]
)
def test_tile_is_nearly_a_cube(copies, shape):
    """Copies are laid out as evenly as the number allows, at the same density."""
    block = liquid.liquid_aluminium(1, seed=0)
    tiled = liquid.tile(block, 4 * copies, 900.0, seed=0)
    ratios = tiled.cell.lengths() / block.cell.lengths()
    np.testing.assert_allclose(np.sort(ratios), shape)
    assert len(tiled) == 4 * copies
    assert kinetic_temperature(tiled) == pytest.approx(900.0)


def test_tile_needs_a_multiple():
    """A number of atoms that copies cannot make is refused."""
    with pytest.raises(InputError, match="10 atoms are not a multiple of a liquid of 4"):
        liquid.tile(liquid.liquid_aluminium(1, seed=0), 10, 900.0, seed=0)


def test_kinetic_energy_is_ases():
    """Computed without BLAS, it is the same number."""
    atoms = liquid.liquid_aluminium(2, seed=0)
    assert kinetic_energy(atoms) == pytest.approx(atoms.get_kinetic_energy(), rel=1e-12)
