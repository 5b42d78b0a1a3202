"""Frames of one's own, mixed with the teacher's."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, distill, hipnn, teachers
from kdlib.distill import labeled
from kdlib.errors import InputError
from kdlib.training.references import AtomReferences

#: Constants of the species between "DFT" and the teacher, eV.
OFFSET = {"Cu": -100.0, "Au": 40.0}


def _dft(n_frames, symbols=("Cu",), scale=1.0):
    """EMT whose energies are scaled and moved by a constant for each species."""
    frames = []
    for seed in range(n_frames):
        rng = np.random.default_rng(seed)
        atoms = bulk("Cu", cubic=True)
        atoms.symbols = rng.choice(symbols, len(atoms))
        atoms.rattle(0.1, rng=rng)
        atoms.calc = EMT()
        energy = scale * atoms.get_potential_energy() + sum(OFFSET[s] for s in atoms.symbols)
        results = {"energy": energy, "forces": scale * atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture
def prepared(tiny, tmp_path):
    given = _dft(12, ("Cu", "Au"))
    plan = replace(tiny, data_weight=3.0)
    return given, labeled.prepare(plan, given, tmp_path, teachers.load("emt"))


def test_energies_are_on_the_teachers_scale(prepared):
    """A constant for each species is all that told the two apart: nothing is left."""
    given, frames = prepared
    for own, joined in zip(given, frames, strict=True):
        taught = own.copy()
        taught.calc = EMT()
        assert joined.get_potential_energy() == pytest.approx(taught.get_potential_energy())
        np.testing.assert_array_equal(joined.get_forces(), own.calc.results["forces"])


def test_they_carry_the_teachers_atomic_energies_and_a_weight(prepared):
    """The paper's case: forces of DFT, atomic energies of the teacher."""
    given, frames = prepared
    taught = given[0].copy()
    taught.calc = EMT()
    found = frames[0].calc.results["energies"]
    np.testing.assert_allclose(found, taught.get_potential_energies(), atol=1e-12)
    assert {atoms.info[datasets.WEIGHT] for atoms in frames} == {3.0}


def test_one_in_ten_is_held_out(prepared):
    """Those held out are measured, not learnt."""
    _, frames = prepared
    assert [k for k, a in enumerate(frames) if a.info["part"] == "test"] == [9]
    assert len(labeled.learnt(frames)) == 11


def test_the_teachers_own_error_is_said(tiny, tmp_path, small_config):
    """Forces of a teacher against labels that are 1.5 times its own: half of its forces."""
    frames = labeled.prepare(tiny, _dft(10, scale=1.5), tmp_path, teachers.load("emt"))
    potential = hipnn.Potential(hipnn.build(replace(small_config, species=("Cu",)), 0))
    found = labeled.compare(potential, frames, AtomReferences({"Cu": 0.0}))
    held_out = frames[9].copy()
    held_out.calc = EMT()
    rms = np.sqrt(np.mean(held_out.get_forces() ** 2))
    assert found["teacher"]["force_rmse"] == pytest.approx(0.5 * rms)


def test_a_missing_file_is_said_before_anything_is_computed(tiny, tmp_path):
    """The folder is not even made."""
    plan = replace(tiny, data=("nothing.extxyz",))
    with pytest.raises(InputError, match="nothing.extxyz"):
        distill.run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_distillation_with_data(tiny, tmp_path):
    """The frames join the training set with their weight; the report knows the held-out error."""
    path = tmp_path / "dft.extxyz"
    ase.io.write(path, _dft(20))
    plan = replace(tiny, data=(str(path),), data_weight=2.0, round_epochs=5, final_epochs=5)
    outcome = distill.run(plan, tmp_path / "out")
    folder = distill.deliver(plan, outcome, tmp_path / "out")
    learnt = ase.io.read(folder / "training.extxyz", ":")
    weights = [atoms.info.get("loss_weight", 1.0) for atoms in learnt]
    assert weights.count(2.0) == 18
    errors = outcome.record[-1]["data"]
    assert errors["student"]["n_frames"] == 2
    assert errors["teacher"]["force_rmse"] == pytest.approx(0, abs=1e-6)
    assert "your own frames" in distill.summary(plan, outcome, folder)
