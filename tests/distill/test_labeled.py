"""The labeled frames of a distillation, and teachers that fail."""

import errno
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, distill, hipnn, teachers
from kdlib.distill import labeled
from kdlib.distill.labeled import Pool, order
from kdlib.errors import InputError
from kdlib.training.references import AtomReferences

NAMES = ["r00/c000", "r02/t09/worst", "r02/t10/fresh", "r02/t100/fresh", "test1/t00/fresh"]


def wanted(n=5):
    """Rattled copper cells by name."""
    found = {}
    for k, name in enumerate(NAMES[:n]):
        found[name] = bulk("Cu", cubic=True)
        found[name].rattle(0.1, seed=k)
    return found


class Moody(EMT):
    """EMT that fails in chosen calls."""

    def __init__(self, *bad, how="raise"):
        super().__init__()
        self.bad, self.how, self.calls = bad, how, 0

    def calculate(self, *args, **kwargs):
        """Energies and forces, or not."""
        super().calculate(*args, **kwargs)
        call, self.calls = self.calls, self.calls + 1
        if call in self.bad:
            if self.how == "raise":
                raise RuntimeError("no convergence")
            self.results["forces"] = np.full_like(self.results["forces"], np.nan)


@pytest.mark.parametrize(("how", "words"), [("raise", "no convergence"), ("nan", "not finite")])
def test_a_frame_that_the_teacher_cannot_label_is_left_out(tmp_path, how, words):
    """The others are labeled; the reason is kept, and the frame is not asked for again."""
    moody = Moody(2, how=how)
    pool = Pool(tmp_path)
    assert pool.label(wanted(), teachers.load(moody)) == 4
    assert words in pool.refused[NAMES[2]]
    assert pool.names == [NAMES[k] for k in (0, 1, 3, 4)]
    before = moody.calls
    assert Pool(tmp_path).label(wanted(), teachers.load(moody)) == 0
    assert moody.calls == before


def test_frames_come_in_the_order_in_which_they_were_made(tmp_path):
    """By round, trajectory and kind, numbers as numbers; tests come after all rounds."""
    made = [
        "r00/c099", "r00/c100", "r00/m00/f002", "r01/t02/fresh", "r01/t02/worst", "r01/t10/fresh",
        "r02/t01/fresh", "r99/t00/worst", "r100/t00/fresh", "test1/t01/fresh", "test2/t00/fresh",
        "test10/t00/fresh",
    ]  # fmt: skip
    assert sorted(sorted(made), key=order) == made
    pool, cell = Pool(tmp_path), wanted(1)[NAMES[0]]
    shuffled = {name: cell.copy() for name in sorted(made)}
    assert pool.label(shuffled, teachers.load("emt")) == len(made)
    assert [atoms.info["frame"] for atoms in pool.frames()] == made == pool.names
    assert pool.before("r01") == made[:3]
    assert pool.before("test2") == made[:10]
    assert pool.of("test1") == made[9:10]
    assert pool.of("r01") == made[3:6]
    assert [a.info["frame"] for a in pool.frames([made[5], made[1], "r50/t00/fresh"])] == [
        made[1], made[5]
    ]  # fmt: skip


def test_a_teacher_that_always_fails_is_of_no_use(tmp_path):
    """One clear error instead of an empty training set."""
    with pytest.raises(InputError, match="labels none of 5 frames"):
        Pool(tmp_path).label(wanted(), teachers.load(Moody(*range(5))))


def test_labels_come_back_as_the_teacher_gave_them(tmp_path):
    """Energy, forces, stress and atomic energies survive the file to its eight digits."""
    pool, teacher = Pool(tmp_path), teachers.load("emt")
    pool.label(wanted(1), teacher)
    (frame,), expected = pool.frames(), teacher.label(wanted(1)[NAMES[0]]).calc.results
    for name in ("energy", "forces", "stress", "energies"):
        np.testing.assert_allclose(frame.calc.results[name], expected[name], atol=2e-8)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """Earlier labels stay whole, nothing half-written is left, and the labeling resumes."""
    from kdlib.distill import labeled as module

    write, calls = module.ase.io.write, []

    def full(path, *args, **kwargs):
        calls.append(path)
        write(path, *args, **kwargs)
        if len(calls) == 3:
            path.write_text(path.read_text()[:40])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(module.ase.io, "write", full)
    pool, teacher = Pool(tmp_path), teachers.load("emt")
    with pytest.raises(InputError, match="No space left"):
        pool.label(wanted(), teacher)
    assert pool.names == NAMES[:2]
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2
    monkeypatch.undo()
    assert pool.label(wanted(), teacher) == 3


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
    """Energies that differ by a constant for each species agree after the fit."""
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
    """Held-out frames are evaluated, not trained on."""
    _, frames = prepared
    assert [k for k, a in enumerate(frames) if a.info["part"] == "test"] == [9]
    assert len(labeled.learned(frames)) == 11


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
    """Bad data are refused before the folder is created."""
    plan = replace(tiny, data=("nothing.extxyz",))
    with pytest.raises(InputError, match="nothing.extxyz"):
        distill.run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_distillation_with_data(tiny, tmp_path):
    """The frames join the training set with their weight; the report knows the held-out error."""
    path = tmp_path / "dft.extxyz"
    ase.io.write(path, _dft(20))
    plan = replace(tiny, data=(str(path),), data_weight=2.0, round_epochs=5, final_epochs=5)
    outcome = distill.run(plan, tmp_path / "out")
    folder = distill.deliver(plan, outcome, tmp_path / "out")
    learned = ase.io.read(folder / "training.extxyz", ":")
    weights = [atoms.info.get("loss_weight", 1.0) for atoms in learned]
    assert weights.count(2.0) == 18
    errors = outcome.record[-1]["data"]
    assert errors["student"]["n_frames"] == 2
    assert errors["teacher"]["force_rmse"] == pytest.approx(0, abs=1e-6)
    assert "your own frames" in distill.summary(plan, outcome, folder)
