"""Roles, and atomic energies of teachers of several kinds."""

import dataclasses

import numpy as np
import pytest
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from kdlib import hipnn
from kdlib.errors import InputError
from kdlib.training import roles
from kdlib.training.losses import TABLE_1
from kdlib.training.roles import ROLES

PAPER = {
    "teacher": (1, 10, 0),
    "student": (1, 30, 100),
    "control": (1, 10, 0),
    "matched_control": (1, 30, 0),
    "same_size_student": (1, 30, 100),
}


@pytest.mark.parametrize("name", PAPER)
def test_static_roles_have_the_papers_weights(name):
    """Energy, force and atomic-energy weights as in A.1; the regularization is common."""
    weights = ROLES[name].schedule(500).at(1)
    assert (weights.energy, weights.force, weights.atomic_energy) == PAPER[name]
    assert (weights.l2, weights.hierarchicality) == (1e-6, 0.01)


def test_matched_control_differs_from_the_student_in_the_labels_alone():
    """Without the atomic-energy term the student is the matched control."""
    assert ROLES["student"].schedule(9).without_atomic_energies() == ROLES[
        "matched_control"
    ].schedule(9)


def test_born_again_and_its_control_follow_table_1():
    """At the authors' cap the schedule is Table 1, with and without labels."""
    assert ROLES["born_again"].schedule(500) == TABLE_1
    assert ROLES["born_again_control"].schedule(500) == TABLE_1.without_atomic_energies()
    assert ROLES["born_again"].learns_from_teacher
    assert not ROLES["born_again_control"].learns_from_teacher


def test_unknown_role_is_refused():
    """The message lists the roles there are."""
    with pytest.raises(InputError, match="matched_control"):
        roles.role("pupil")


def test_atomic_energies_add_up_to_the_teachers_energy(emt_frames, small_config):
    """Eq. 1 and 4: they add up to the teacher's energy, and the frame keeps its own."""
    teacher = hipnn.Potential(hipnn.build(small_config, seed=1))
    augmented = roles.augment(teacher, emt_frames[:4])
    sums = [atoms.calc.results["energies"].sum() for atoms in augmented]
    np.testing.assert_allclose(sums, teacher.predict(emt_frames[:4]).energy, rtol=1e-12)
    for atoms, own in zip(augmented, emt_frames, strict=False):
        assert atoms.get_potential_energy() == own.get_potential_energy()
        np.testing.assert_array_equal(atoms.get_forces(), own.get_forces())


def test_a_frame_does_not_see_the_frames_beside_it(emt_frames, small_config):
    """Its atomic energies are the same to the last bit whatever else is augmented."""
    config = dataclasses.replace(small_config, dtype="float32")
    teacher = hipnn.Potential(hipnn.build(config, seed=1))
    other = hipnn.Potential(hipnn.build(config, seed=2))
    alone = teacher.augment(emt_frames[7:8])[0].calc.results["energies"]
    for pairs in (None, other.joined(emt_frames[:9], max_atoms=1)):
        together = teacher.augment(emt_frames[:9], pairs)[7].calc.results["energies"]
        np.testing.assert_array_equal(together, alone)
    predicted = teacher.predict(emt_frames[7:8]).atomic_energies
    np.testing.assert_allclose(predicted, alone, rtol=0, atol=1e-6)


def test_any_calculator_with_atomic_energies_can_teach(emt_frames):
    """EMT's own atomic energies come through unchanged."""
    augmented = roles.augment(EMT(), emt_frames[:2])
    atoms = emt_frames[0].copy()
    atoms.calc = EMT()
    np.testing.assert_allclose(
        augmented[0].get_potential_energies(), atoms.get_potential_energies()
    )


class Silent(Calculator):
    """Energy only."""

    implemented_properties = ["energy"]

    def calculate(self, *args, **kwargs):
        """Fill ``results``, as ASE asks for."""
        super().calculate(*args, **kwargs)
        self.results["energy"] = 0.0


class Broken(Calculator):
    """Atomic energies that are not numbers."""

    implemented_properties = ["energies"]

    def calculate(self, *args, **kwargs):
        """Fill ``results``, as ASE asks for."""
        super().calculate(*args, **kwargs)
        self.results["energies"] = np.full(len(self.atoms), np.nan)


def test_teacher_without_atomic_energies_is_refused(emt_frames):
    """A calculator that knows only the total cannot teach the partition."""
    with pytest.raises(InputError, match="Silent: this ASE calculator gives no atomic energies"):
        roles.augment(Silent(), emt_frames[:1])


def test_teacher_that_returns_nan_is_refused(emt_frames):
    """The frame with the broken label is named."""
    with pytest.raises(InputError, match="frame 2: the teacher's atomic energies are not"):
        roles.augment(Broken(), emt_frames[2:3])
