"""Measures of a student, on ASE's EMT as its own student."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT

from kdlib.distill import measures
from kdlib.distill.measures import Measures, densities

SMALL = Measures(n_atoms=32, nve_ps=0.4, timestep=4.0, rest_steps=200, rdf_ps=0.4)
#: Of densities: NPT of a picosecond, and of a fifth of one.
SHORT = Measures(n_atoms=32, npt_ps=1.0, timestep=4.0, npt_frames=8)
BRIEF = replace(SHORT, npt_ps=0.2)
FINE = Measures(volumes=(0.985, 0.99, 0.995, 1.0, 1.005, 1.01, 1.015, 1.02))
#: EMT's relaxed fcc copper, Angstrom^3/atom (its lattice constant is 3.59 Angstrom), and g/cm3.
RELAXED = 3.59**3 / 4
RELAXED_DENSITY = 63.546 * 1.66054 / RELAXED


class Pressed(EMT):
    """EMT plus an energy linear in the volume, that is, a constant pressure."""

    pressure = 0.004  # eV/Angstrom^3, that is 0.64 GPa

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions", "cell")):
        """Add the energy and its pressure to those of EMT."""
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] -= self.pressure * self.atoms.get_volume()
        self.results["stress"] = self.results["stress"] - self.pressure * np.array(
            [1] * 3 + [0] * 3
        )


class Mute(EMT):
    """EMT that knows no stress."""

    def get_property(self, name, atoms=None, allow_calculation=True):
        """Refuse a stress."""
        if name == "stress":
            raise PropertyNotImplementedError(name)
        return super().get_property(name, atoms, allow_calculation)


class Bomb(EMT):
    """EMT with enormous forces away from one corner."""

    def get_property(self, name, atoms=None, allow_calculation=True):
        """Push every atom apart from the others."""
        value = super().get_property(name, atoms, allow_calculation)
        return 1e6 * np.sign(atoms.positions - 2.0) if name == "forces" else value


def test_a_teacher_as_its_own_student_has_its_curve():
    """Both curves are one, with the volume that EMT relaxes to."""
    ds = measures.curves(EMT(), EMT(), [bulk("Cu")], SMALL)
    np.testing.assert_allclose(ds.curve[0], ds.curve[1], atol=1e-12)
    np.testing.assert_allclose(ds.relaxed_volume, RELAXED, rtol=5e-3)


def test_a_curve_without_a_minimum_has_no_volume():
    """A curve of a crystal stretched by 70 % has no minimum, so its volume is NaN."""
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
    """A student with enormous forces has a stable time of zero."""
    ds = measures.conservation(Bomb(), bulk("Cu"), 1600.0, 1.1, SMALL)
    np.testing.assert_array_equal(ds.stable, 0)


def test_rdf_of_a_teacher_as_its_own_student_is_at_the_floor():
    """Two runs of one potential from one start differ by nothing."""
    start = bulk("Cu", cubic=True).repeat(2)
    start.rattle(0.2, seed=0)
    ds = measures.liquids(EMT(), EMT(), start, 1600.0, SMALL)
    assert float(ds.rdf_error) == pytest.approx(0, abs=1e-9)
    assert float(ds.rdf_floor) > 0.05


@pytest.fixture(scope="module")
def own():
    """EMT as its own student."""
    return densities(EMT(), EMT(), bulk("Cu"), SHORT).density


def test_crystal_expands_with_temperature(own):
    """At 300 K and no pressure EMT copper is a little less dense than relaxed, by at most 3 %."""
    assert 0.97 * RELAXED_DENSITY < float(own.sel(model="student")) < RELAXED_DENSITY


def test_a_teacher_as_its_own_student_has_its_density(own):
    """No difference of pressure, none of density."""
    assert float(own[0]) == pytest.approx(float(own[1]), rel=1e-12)


def test_teacher_that_presses_outwards_is_less_dense():
    """At low temperature, the estimated density agrees with the energy-volume curve."""
    cold = replace(BRIEF, cold=10.0, npt_ps=0.4)
    told = densities(EMT(), Pressed(), bulk("Cu", a=3.59), cold).density
    curves = measures.curves(EMT(), Pressed(), [bulk("Cu", a=3.59)], FINE).relaxed_volume
    teacher, student = curves.values[:, 0]
    assert teacher > 1.003 * student
    assert float(told[0] / told[1]) - 1 == pytest.approx(student / teacher - 1, rel=0.05)


def test_teacher_without_stress_has_no_density():
    """Without the teacher's stress, only the student's density is known."""
    speaking, mute = (densities(EMT(), t, bulk("Cu"), BRIEF).density for t in (EMT(), Mute()))
    assert np.isnan(mute.sel(model="teacher"))
    assert float(mute.sel(model="student")) == float(speaking.sel(model="student"))


def test_an_exploding_student_has_no_density():
    """A run that flies apart gives NaN, not a crash."""
    assert densities(Bomb(), EMT(), bulk("Cu"), SHORT).density.isnull().all()
