"""Properties of crystals, on potentials whose answers are known."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from kdlib.md import crystals
from kdlib.md.crystals import CrystalProtocol


@pytest.fixture(scope="module")
def pairwise():
    """A pair potential, smooth at its cutoff: nearest neighbours at 2.8 Angstrom."""
    protocol = CrystalProtocol(volume=15.5, vacancy_cells=2)

    def calculators(like: Atoms | None) -> LennardJones:
        return LennardJones(sigma=2.55, epsilon=0.4, rc=7.0, ro=6.0, smooth=True)

    return crystals.properties(calculators, protocol)


def test_elastic_constants_of_pair_forces_obey_cauchy(pairwise):
    """Pair forces at zero pressure: C12 = C44."""
    assert float(pairwise.c12) == pytest.approx(float(pairwise.c44), rel=0.02)
    assert float(pairwise.c11) > float(pairwise.c12) > 0


def test_bulk_modulus_is_that_of_the_elastic_constants(pairwise):
    """B = (C11 + 2 C12) / 3."""
    modulus = float(pairwise.bulk_modulus.sel(structure="fcc"))
    assert float(pairwise.c11 + 2 * pairwise.c12) / 3 == pytest.approx(modulus, rel=1e-6)


def test_vacancy_in_pair_forces_costs_the_cohesive_energy(pairwise):
    """Unrelaxed it is exactly minus the energy per atom; relaxation gains a few percent."""
    cohesive = -float(pairwise.equilibrium_energy.sel(structure="fcc"))
    assert 0.9 * cohesive < float(pairwise.vacancy_energy) < cohesive


def test_fcc_of_emt_aluminium():
    """ASE's EMT aluminium: lattice constant 3.99 Angstrom, as its EOS tutorial finds."""
    found = crystals.properties(lambda _: EMT(), vacancy=False)
    fcc = found.sel(structure="fcc")
    assert float(fcc.lattice_constant) == pytest.approx(3.99, abs=0.02)
    assert 30 < float(fcc.bulk_modulus) < 50
    assert "vacancy_energy" not in found


def test_strains_keep_the_volume_to_second_order():
    """The determinants of both strains are one."""
    for strain in (crystals._tetragonal, crystals._monoclinic):
        assert np.linalg.det(strain(0.03)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("structure", crystals.STRUCTURES)
def test_lattice_constant_goes_with_the_volume(structure):
    """What `crystal` builds has the volume asked for and the lattice constant computed."""
    protocol = CrystalProtocol()
    atoms = crystals.crystal(structure, 16.0, protocol)
    assert atoms.get_volume() / len(atoms) == pytest.approx(16.0)
    a = crystals.lattice_constant(structure, 16.0, protocol.c_over_a)
    nearest = {"fcc": a / np.sqrt(2), "bcc": a * np.sqrt(0.75), "hcp": a}[structure]
    distances = atoms.repeat(3).get_all_distances(mic=True)
    shortest = distances[distances > 0.1].min()
    assert shortest == pytest.approx(nearest, rel=0.02 if structure == "hcp" else 1e-9)


def test_curve_without_a_minimum_gives_nan():
    """A model that only ever pushes has no lattice constant, and that is no crash."""
    found = crystals.properties(
        lambda _: EMT(), CrystalProtocol(ratios=(1.5, 1.6, 1.7, 1.8, 1.9)), vacancy=True
    )
    assert np.isnan(float(found.lattice_constant.sel(structure="fcc")))
    assert np.isnan(float(found.c11))
    assert np.isnan(float(found.vacancy_energy))
