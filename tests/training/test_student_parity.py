"""Values of student and teacher beside each other."""

import numpy as np
import pytest

from kdlib.distill.labeled import Pool
from kdlib.hipnn import load
from kdlib.training.accuracy import parity


def _difference(ds, name):
    return (ds[f"predicted_{name}"] - ds[f"reference_{name}"]).values


def test_a_teacher_is_on_the_diagonal(teacher, frames):
    """Energies, forces and atomic energies of its own labels, and as many points as there are."""
    ds = parity(teacher, frames)
    n_atoms = sum(len(atoms) for atoms in frames)
    assert dict(ds.sizes) == {"frame": 4, "sample": 3 * n_atoms, "atom": n_atoms}
    for name in ("energy", "force", "atomic"):
        assert ds[f"reference_{name}"].std() > 1e-5
        np.testing.assert_allclose(_difference(ds, name), 0, atol=1e-9)
    assert ds.frame_molten.values.tolist() == [0, 0, 1, 1]
    assert ds.sample_molten.sum() == ds.sizes["sample"] / 2


def test_points_of_a_melt_are_the_melts(teacher, frames):
    """Labels of melts that are wrong leave the diagonal there and nowhere else."""
    for atoms in frames[2:]:
        atoms.calc.results["forces"] = atoms.calc.results["forces"] + 0.3
        atoms.calc.results["energy"] += 0.02 * len(atoms)
    ds = parity(teacher, frames)
    np.testing.assert_allclose(_difference(ds, "energy"), -0.02 * ds.frame_molten, atol=1e-9)
    np.testing.assert_allclose(_difference(ds, "force"), -0.3 * ds.sample_molten, atol=1e-9)


def test_energies_above_the_mean_of_a_species_are_compared(teacher, frames):
    """A constant on every atomic energy is no difference."""
    for atoms in frames:
        atoms.calc.results["energies"] = atoms.calc.results["energies"] + 5.0
    ds = parity(teacher, frames)
    np.testing.assert_allclose(_difference(ds, "atomic"), 0, atol=1e-9)
    assert float(ds.reference_atomic.mean()) == pytest.approx(0, abs=1e-9)


def test_points_of_a_delivered_student_have_the_errors_of_its_record(finished):
    """Delivered with the energies of atoms, it is compared with the teacher's whole energies."""
    folder, outcome = finished
    pool = Pool(folder / "labels")
    fresh = pool.frames(pool.of(outcome.final))
    ds, errors = parity(load(folder), fresh), outcome.record[-1]["errors"]["all"]
    for name in ("energy", "force"):
        rmse = np.sqrt(np.mean(_difference(ds, name) ** 2))
        assert rmse == pytest.approx(errors[f"{name}_rmse"], rel=1e-3)
