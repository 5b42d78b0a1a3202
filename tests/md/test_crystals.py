"""Crystals against known answers, and models beside DFT with EMT in the place of both."""

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from al_pbe import records
from kdlib import figures
from kdlib.md import crystals
from kdlib.md.crystals import CrystalProtocol


@pytest.fixture(scope="module")
def pairwise():
    """A pair potential, smooth at its cutoff: nearest neighbors at 2.8 Angstrom."""
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


def test_fcc_of_emt_aluminum():
    """ASE's EMT aluminum: lattice constant 3.99 Angstrom, as its EOS tutorial finds."""
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
    """A purely repulsive model has no lattice constant and causes no crash."""
    found = crystals.properties(
        lambda _: EMT(), CrystalProtocol(ratios=(1.5, 1.6, 1.7, 1.8, 1.9)), vacancy=True
    )
    assert np.isnan(float(found.lattice_constant.sel(structure="fcc")))
    assert np.isnan(float(found.c11))
    assert np.isnan(float(found.vacancy_energy))


#: Protocol of the comparison of models with DFT, which are pair potentials and EMT here.
COMPARED = CrystalProtocol(ratios=(0.85, 0.90, 0.95, 1.0, 1.05, 1.10), vacancy_steps=3)


class Trained:
    """In the place of a trained potential: the teacher is EMT, the student a pair potential."""

    def __init__(self, role: str) -> None:
        self.role = role

    def calculator(self, backend: str, device: str):
        """Calculator, whatever the backend."""
        pairs = LennardJones(sigma=2.55, epsilon=0.4, rc=7.0, ro=6.0, smooth=True)
        return EMT() if self.role == "teacher" else pairs


@pytest.fixture(scope="module")
def accuracy():
    """A teacher of one size and two students of another; no student of the teacher's size."""
    dims = ("role", "architecture", "seed", "split")
    force = np.full((2, 2, 2, 1), np.nan)
    force[0, 0, :], force[1, 1, :] = 0.1, 0.2
    names = ["teacher", "student"], ["128-40-4", "16-8-1"], [0, 1], ["test"]
    return xr.Dataset({"force_rmse": (dims, force)}, dict(zip(dims, names, strict=True)))


@pytest.fixture(scope="module")
def compared(accuracy, tmp_path_factory):
    """Both roles beside what EMT, as DFT, says of the crystals."""
    folder = tmp_path_factory.mktemp("dft")
    physics = records.physics(folder, protocol=COMPARED, make=lambda *_: EMT())
    found = crystals.models(lambda role, architecture, seed: Trained(role), accuracy, COMPARED)
    return crystals.compare(found, physics)


def test_model_that_is_the_reference_has_no_deviation(compared):
    """EMT against EMT: equal curves and numbers; the pair potential differs in all of them."""
    teacher = {"role": "teacher", "architecture": "128-40-4"}
    np.testing.assert_allclose(
        compared.energy.sel(teacher).transpose("seed", "structure", "ratio"),
        np.broadcast_to(compared.reference_energy, (2, 3, 6)),
    )
    numbers = compared.value.sel(teacher).mean("seed")
    np.testing.assert_allclose(numbers, compared.reference_value, rtol=1e-6)
    student = compared.value.sel(role="student", architecture="16-8-1", seed=0)
    assert (abs(student / compared.reference_value - 1).dropna("quantity") > 1e-3).all()


def test_models_that_were_not_trained_are_missing(compared):
    """There is no teacher of the students' size."""
    assert compared.value.sel(role="teacher", architecture="16-8-1").isnull().all()


def test_table_stands_models_beside_both_kinds_of_dft(compared):
    """A row for each quantity, with its unit."""
    found = crystals.table(compared)
    assert found.columns.tolist() == ["unit", "DFT, label", "DFT, converged", "teacher", "student"]
    assert found.unit.to_dict() == crystals.QUANTITIES
    np.testing.assert_allclose(
        found.teacher.astype(float), found["DFT, label"].astype(float), rtol=1e-6
    )


def test_comparison_can_be_drawn(compared):
    """The figure takes it as it is."""
    assert len(figures.crystals(compared).axes) == 2
