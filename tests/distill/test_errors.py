"""Errors of a student against its teacher."""

import numpy as np
import pytest
from ase.build import bulk

from kdlib import hipnn, teachers
from kdlib.distill.errors import against_teacher
from kdlib.hipnn import HipnnConfig, Potential


@pytest.fixture(scope="module")
def teacher():
    """An untrained model in double precision, with a stress and atomic energies."""
    config = HipnnConfig(8, 8, 1, species=("Cu",), cutoff=5.0, soft_max=4.5, dtype="float64")
    return Potential(hipnn.build(config, seed=1))


@pytest.fixture
def frames(teacher):
    """Four cells labelled by it, two of them said to be melts."""
    labeller, found = teachers.load(teacher.calculator(device="cpu")), []
    for k in range(4):
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        atoms.rattle(0.1, seed=k)
        atoms.info["molten"] = k >= 2
        found.append(labeller.label(atoms))
    return found


def test_a_teacher_has_no_error_against_itself(teacher, frames):
    """Forces, energy and stress of its own labels are met to rounding, in solid and melt."""
    found = against_teacher(teacher, frames)
    assert [found[state]["n_frames"] for state in ("all", "solid", "molten")] == [4, 2, 2]
    for state in found.values():
        assert state["force_rms"] > 1e-3
        for name in ("force_rmse", "energy_rmse", "stress_rmse"):
            assert state[name] < 1e-10


def test_errors_are_pooled_and_by_state(teacher, frames):
    """Forces that are wrong by 0.3 in melts only show there; all pool solid and melt."""
    for atoms in frames[2:]:
        atoms.calc.results["forces"] = atoms.calc.results["forces"] + 0.3
        atoms.calc.results["energy"] += 0.02 * len(atoms)
        atoms.calc.results["stress"] = atoms.calc.results["stress"] + 0.001
    found = against_teacher(teacher, frames)
    assert found["solid"]["force_rmse"] < 1e-10
    assert found["molten"]["force_rmse"] == pytest.approx(0.3)
    assert found["all"]["force_rmse"] == pytest.approx(0.3 / np.sqrt(2))
    assert found["molten"]["energy_rmse"] == pytest.approx(0.02)
    assert found["molten"]["stress_rmse"] == pytest.approx(0.001)


def test_no_frame_no_number(teacher, frames):
    """Without melts their error is not a number."""
    assert np.isnan(against_teacher(teacher, frames[:2])["molten"]["force_rmse"])
