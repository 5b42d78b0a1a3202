"""Accuracy of labels, with classical potentials of two qualities in the place of DFT."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from al_pbe import quality
from al_pbe.labeling import CONVERGED, PRODUCTION, LabelSettings

calls = []


def labeler(atoms: Atoms, settings: LabelSettings) -> Atoms:
    """EMT; at the coarse cutoff all forces are 0.1 too large and the energy 0.02 per atom."""
    calls.append(settings)
    working = atoms.copy()
    working.calc = EMT()
    shift = 1.0 if settings.cutoff == PRODUCTION.cutoff else 0.0
    labeled = atoms.copy()
    labeled.calc = SinglePointCalculator(
        labeled,
        energy=working.get_potential_energy() + shift * 0.02 * len(atoms),
        forces=working.get_forces() + shift * 0.1,
    )
    return labeled


@pytest.fixture
def frames():
    found = []
    for k, phase in enumerate(("fcc", "fcc", "liquid", "fcc")):
        atoms = bulk("Al", cubic=True)
        atoms.rattle(0.1, seed=k)
        atoms.info.update(frame=k, phase=phase)
        found.append(labeler(atoms, PRODUCTION))
    return found


def test_differences_by_hand(frames, tmp_path):
    """Against the better cutoff the planted errors are found; against the same one, zero."""
    variants = {"converged": CONVERGED, "scf": quality.VARIANTS["scf"]}
    ds = quality.accuracy(frames, tmp_path, variants, labeler)
    np.testing.assert_allclose(ds.force_difference.sel(variant="converged"), 0.1, rtol=1e-5)
    np.testing.assert_allclose(ds.energy_difference.sel(variant="converged"), 0.02, rtol=1e-5)
    np.testing.assert_allclose(ds.force_difference.sel(variant="scf"), 0, atol=1e-7)


def test_finished_calculations_are_not_repeated(frames, tmp_path):
    """A second call reads files."""
    variants = {"converged": CONVERGED}
    first = quality.accuracy(frames, tmp_path, variants, labeler)
    calls.clear()
    assert quality.accuracy(frames, tmp_path, variants, labeler).equals(first)
    assert calls == []


def test_what_is_not_computed_is_nan(frames, tmp_path):
    """A variant that was not requested is read if it is finished, and NaN otherwise."""
    variants = {"converged": CONVERGED, "scf": quality.VARIANTS["scf"]}
    quality.accuracy(frames[:1], tmp_path, variants, labeler)
    ds = quality.accuracy(frames[:2], tmp_path, variants, labeler, compute=["converged"])
    assert np.isfinite(ds.force_difference.sel(variant="converged")).all()
    assert np.isfinite(ds.force_difference.sel(variant="scf").values).tolist() == [True, False]


def test_failed_calculation_leaves_the_others(frames, tmp_path):
    """A frame whose DFT does not converge is reported and skipped."""

    def stubborn(atoms: Atoms, settings: LabelSettings) -> Atoms:
        if atoms.info["frame"] == 1:
            raise RuntimeError("Did not converge!")
        return labeler(atoms, settings)

    ds = quality.accuracy(frames, tmp_path, {"converged": CONVERGED}, stubborn)
    found = np.isfinite(ds.force_difference.sel(variant="converged").values)
    assert found.tolist() == [True, False, True, True]


def test_every_kind_is_chosen(frames):
    """The first of each kind before the second of any; none too large, none of active learning."""
    for atoms, k in zip(frames, (0, 1, 4002, 6003), strict=True):
        atoms.info["frame"] = k
    kinds = [quality.kind(a) for a in quality.chosen(frames)]
    assert kinds == ["fcc", "compressed", "fcc"]
    assert len(quality.chosen(frames, n_frames=2)) == 2
    assert quality.chosen([a.repeat(3) for a in frames]) == []


def test_table_pools_forces_and_averages_energies(frames, tmp_path):
    """0.1 and 0.3 in two frames are 0.22 rms, not 0.2; a variant without numbers has no row."""
    ds = quality.accuracy(frames[:2], tmp_path, labeler=labeler, compute=["converged"])
    ds["force_difference"].loc[{"variant": "converged"}] = [0.1, 0.3]
    ds["energy_difference"].loc[{"variant": "converged"}] = [0.01, 0.03]
    found = quality.table(ds)
    assert found.index.tolist() == ["converged"]
    assert found["rms force difference"].item() == pytest.approx(0.05**0.5)
    assert found["mean energy difference"].item() == pytest.approx(20)
    assert found["scatter of it"].item() == pytest.approx(10)
