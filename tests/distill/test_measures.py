"""Measures of a student, on ASE's EMT as its own student."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from kdlib.distill import measures
from kdlib.distill.measures import Measures

SMALL = Measures(n_atoms=32, nve_ps=0.4, npt_ps=2.0, timestep=4.0, rdf_ps=0.4)
#: EMT's relaxed fcc copper, Angstrom^3/atom (its lattice constant is 3.59 Angstrom).
RELAXED = 3.59**3 / 4


def test_a_teacher_as_its_own_student_has_its_curve():
    """Both curves are one, with the volume that EMT relaxes to."""
    ds = measures.curves(EMT(), EMT(), [bulk("Cu")], SMALL)
    np.testing.assert_allclose(ds.curve[0], ds.curve[1], atol=1e-12)
    np.testing.assert_allclose(ds.relaxed_volume, RELAXED, rtol=5e-3)


def test_a_curve_without_a_minimum_has_no_volume():
    """Of a crystal stretched by 70 % no volume of the curve is the lowest: none is made up."""
    ds = measures.curves(EMT(), EMT(), [bulk("Cu", a=4.4)], SMALL)
    assert ds.relaxed_volume.isnull().all()


def test_energy_is_conserved_and_states_are_told_apart():
    """EMT keeps its energy in crystal and melt; the melt is hotter, so it strays further."""
    ds = measures.conservation(EMT(), bulk("Cu"), 1600.0, 1.1, SMALL)
    assert ds.state.values.tolist() == ["solid", "molten"]
    np.testing.assert_allclose(ds.stable, SMALL.nve_ps, rtol=0.05)
    assert abs(ds.energy_change).max() < 0.01
    assert abs(ds.energy_change.sel(state="solid")).max() > 0


def test_an_exploding_student_is_a_number_not_a_crash():
    """A student without forces worth the name is stable for no time, and has no density."""

    class Bomb(EMT):
        def get_property(self, name, atoms=None, allow_calculation=True):
            value = super().get_property(name, atoms, allow_calculation)
            return 1e3 * np.sign(atoms.positions - 2.0) if name == "forces" else value

    ds = measures.conservation(Bomb(), bulk("Cu"), 1600.0, 1.1, SMALL)
    np.testing.assert_array_equal(ds.stable, 0)


def test_rdf_of_a_teacher_as_its_own_student_is_at_the_floor():
    """Two runs of one potential from one start differ by nothing."""
    start = bulk("Cu", cubic=True).repeat(2)
    start.rattle(0.2, seed=0)
    ds = measures.liquids(EMT(), EMT(), start, 1600.0, SMALL)
    assert float(ds.rdf_error) == pytest.approx(0, abs=1e-9)
    assert float(ds.rdf_floor) > 0.05
