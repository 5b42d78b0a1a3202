"""Errors of a student against its teacher."""

import numpy as np
import pytest

from kdlib.training.accuracy import against_teacher


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
