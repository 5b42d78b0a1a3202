"""Descriptions of a dataset and of a model's predictions on it."""

import numpy as np
import pytest

from kdlib import datasets, hipnn
from kdlib.datasets.summary import _density
from kdlib.results import schema
from kdlib.training import accuracy


def test_embedded_data_cover_solid_and_liquid_densities():
    """Aluminum: 2.7 g/cm3 (solid) and 2.3 g/cm3 (liquid) lie inside; 12 neighbors in fcc."""
    frames = datasets.load("al-pbe")
    split = datasets.split(frames)
    ds = datasets.coverage(frames, split)
    schema.validate(schema.describe(ds, "data"), "data")
    assert ds.density.min() < 2.3
    assert ds.density.max() > 2.7
    assert (ds.part == "test").sum() == len(split.test)
    fcc = ds.g.sel(phase="fcc")
    assert fcc.r[int(fcc.argmax("r"))].item() == pytest.approx(2.87, abs=0.15)
    assert fcc.max() > ds.g.sel(phase="liquid").max()


def test_density_of_a_known_cell(emt_frames):
    """Four aluminum atoms in a cube of 4.05 Angstrom weigh 2.697 g/cm3."""
    atoms = emt_frames[0].copy()
    atoms.calc = emt_frames[0].calc
    atoms.set_cell([4.05] * 3, scale_atoms=True)
    assert _density(atoms) == pytest.approx(2.697, abs=2e-3)


def test_parity_pairs_predictions_with_their_references(emt_frames, small_config):
    """Rows of the comparison belong together, and fcc has twelve neighbors in its first shell."""
    split = datasets.split(emt_frames)
    potential = hipnn.Potential(hipnn.build(small_config, seed=1))
    ds = accuracy.parity(potential, emt_frames, split, other=potential, first_shell=3.6)
    schema.validate(schema.describe(ds, "parity"), "parity")
    test = [emt_frames[k] for k in split.test]
    forces = np.concatenate([atoms.get_forces().ravel() for atoms in test])
    np.testing.assert_array_equal(ds.reference_force, forces)
    sums = ds.atomic_energy.groupby(ds.atom_frame).sum() / 4
    np.testing.assert_allclose(sums, ds.predicted_energy, rtol=1e-10)
    np.testing.assert_array_equal(ds.atomic_energy, ds.atomic_energy_other)
    assert ds.coordination.median() == 12
