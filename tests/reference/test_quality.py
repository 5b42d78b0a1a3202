"""Accuracy of labels, with classical potentials of two qualities in the place of DFT."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib.reference import quality
from kdlib.reference.labelling import CONVERGED, PRODUCTION, LabelSettings

calls = []


def labeller(atoms: Atoms, settings: LabelSettings) -> Atoms:
    """EMT; at the coarse cutoff all forces are 0.1 too large and the energy 0.02 per atom."""
    calls.append(settings)
    working = atoms.copy()
    working.calc = EMT()
    shift = 1.0 if settings.cutoff == PRODUCTION.cutoff else 0.0
    labelled = atoms.copy()
    labelled.calc = SinglePointCalculator(
        labelled,
        energy=working.get_potential_energy() + shift * 0.02 * len(atoms),
        forces=working.get_forces() + shift * 0.1,
    )
    return labelled


@pytest.fixture
def frames():
    found = []
    for k, phase in enumerate(("fcc", "fcc", "liquid", "fcc")):
        atoms = bulk("Al", cubic=True)
        atoms.rattle(0.1, seed=k)
        atoms.info.update(frame=k, phase=phase)
        found.append(labeller(atoms, PRODUCTION))
    return found


def test_differences_by_hand(frames, tmp_path):
    """Against the better cutoff the planted errors come out; against the same one, zero."""
    variants = {"converged": CONVERGED, "scf": quality.VARIANTS["scf"]}
    ds = quality.accuracy(frames, tmp_path, variants, labeller)
    np.testing.assert_allclose(ds.force_difference.sel(variant="converged"), 0.1, rtol=1e-5)
    np.testing.assert_allclose(ds.energy_difference.sel(variant="converged"), 0.02, rtol=1e-5)
    np.testing.assert_allclose(ds.force_difference.sel(variant="scf"), 0, atol=1e-7)


def test_finished_calculations_are_not_repeated(frames, tmp_path):
    """A second call reads files."""
    variants = {"converged": CONVERGED}
    first = quality.accuracy(frames, tmp_path, variants, labeller)
    calls.clear()
    assert quality.accuracy(frames, tmp_path, variants, labeller).equals(first)
    assert calls == []


def test_every_phase_is_chosen(frames):
    """At most so many of each, and none too large."""
    assert [a.info["frame"] for a in quality.chosen(frames, per_phase=2)] == [0, 1, 2]
    assert quality.chosen([a.repeat(3) for a in frames]) == []
