"""The labeled frames of a distillation, and teachers that fail."""

import errno
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, distill, hipnn, teachers
from kdlib.datasets import readers
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
    """EMT that fails in chosen calls, or in all while ``broken`` says why."""

    def __init__(self, *bad, how="raise"):
        super().__init__()
        self.bad, self.how, self.calls, self.broken = bad, how, 0, ""

    def calculate(self, *args, **kwargs):
        """Energies and forces, or not."""
        super().calculate(*args, **kwargs)
        call, self.calls = self.calls, self.calls + 1
        if self.broken:
            raise RuntimeError(f"{self.broken} in call {call}")
        if call in self.bad:
            if self.how == "raise":
                raise RuntimeError("no convergence")
            self.results["forces"] = np.full_like(self.results["forces"], np.nan)


def test_bad_labels_are_left_out_for_good(tmp_path):
    """The other frames are labeled; the reason is kept, and the frame is not asked for again."""
    moody, pool = Moody(2, how="nan"), Pool(tmp_path)
    assert pool.label(wanted(), teachers.load(moody)) == 4
    assert "not finite" in pool.bad[NAMES[2]][0]
    assert pool.names == [NAMES[k] for k in (0, 1, 3, 4)]
    before = moody.calls
    assert Pool(tmp_path).label(wanted(), teachers.load(moody)) == 0
    assert moody.calls == before


def test_a_passing_failure_costs_no_frame(tmp_path):
    """A teacher that works again is asked a second time within the call."""
    pool, moody = Pool(tmp_path), Moody(1, 2)
    assert pool.label(wanted(), teachers.load(moody)) == 5
    assert pool.names == NAMES
    assert not pool.bad


def test_a_frame_that_failed_is_asked_for_in_the_next_call(tmp_path):
    """Two failures in a call leave a frame out of it, and out of nothing else."""
    pool, moody = Pool(tmp_path), Moody(2, 6)  # the third frame, and its second trial
    assert pool.label(wanted(), teachers.load(moody)) == 4
    assert pool.names == [NAMES[k] for k in (0, 1, 3, 4)]
    assert not pool.bad
    assert Pool(tmp_path).label(wanted(), teachers.load(moody)) == 1
    assert pool.names == NAMES


def test_frames_that_always_fail_do_not_stop_a_teacher_that_works(tmp_path):
    """Four of five frames fail whenever they are asked for; the call still resumes without them."""
    moody = Moody(*range(4), *range(6, 10), *range(10, 14), *range(15, 19))
    for n_labeled in (1, 0):
        assert Pool(tmp_path).label(wanted(), teachers.load(moody)) == n_labeled
    assert moody.calls == 19
    assert Pool(tmp_path).names == NAMES[4:]


def test_a_teacher_that_fails_in_the_middle_ends_the_call_and_loses_nothing(tmp_path):
    """Fewer frames are not learned in its place; what it labeled is kept, and the call resumes."""
    pool, moody = Pool(tmp_path), Moody()
    teacher = teachers.load(moody)
    assert pool.label(wanted(2), teacher) == 2
    moody.broken = "no license"
    with pytest.raises(InputError, match="labeled before.*repeat the call.*no license in call 5"):
        pool.label(wanted(), teacher)
    assert pool.names == NAMES[:2]
    moody.broken = ""
    assert pool.label(wanted(), teacher) == 3
    assert pool.names == NAMES


@pytest.mark.parametrize(("n", "how"), [(5, "raise"), (1, "raise"), (5, "nan"), (1, "nan")])
def test_a_teacher_that_labels_nothing_leaves_nothing(n, how, tmp_path):
    """The first reason is said, no file is written, and the mended teacher is asked for all."""
    words = "no convergence" if how == "raise" else "not finite"
    with pytest.raises(InputError, match=f"labels none of {n} frames: .*r00/c000: .*{words}"):
        Pool(tmp_path).label(wanted(n), teachers.load(Moody(*range(n), how=how)))
    assert not list(tmp_path.iterdir())
    assert Pool(tmp_path).label(wanted(n), teachers.load("emt")) == n


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


def test_labels_come_back_as_the_teacher_gave_them(tmp_path):
    """Energy, forces, stress and atomic energies survive the file to its eight digits."""
    pool, teacher = Pool(tmp_path), teachers.load("emt")
    pool.label(wanted(1), teacher)
    (frame,), expected = pool.frames(), teacher.label(wanted(1)[NAMES[0]]).calc.results
    for name in ("energy", "forces", "stress", "energies"):
        np.testing.assert_allclose(frame.calc.results[name], expected[name], atol=2e-8)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """Earlier labels stay whole, nothing half-written is left, and the labeling resumes."""
    write, calls = ase.io.write, []

    def full(file, *args, **kwargs):
        calls.append(file.name)
        write(file, *args, **kwargs)
        if len(calls) == 3:
            file.truncate(40)
            raise OSError(errno.ENOSPC, "No space left on device", file.name)

    monkeypatch.setattr(ase.io, "write", full)
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


def test_own_frames_keep_the_moments_that_the_teacher_looks_at(tiny, tmp_path):
    """Moments and charges of a file of own frames reach the teacher and the training set."""
    path, frames, seen = tmp_path / "own.xyz", _dft(3), []
    for atoms in frames:
        atoms.set_initial_magnetic_moments([1.0, -1.0, 1.0, -1.0])
        atoms.info["charge"] = 2
    ase.io.write(path, frames, format="extxyz")

    class Seeing(EMT):
        def calculate(self, atoms=None, *args, **kwargs):
            seen.append((atoms.get_initial_magnetic_moments()[1], atoms.info.get("charge")))
            super().calculate(atoms, *args, **kwargs)

    plan = replace(tiny, data=(str(path),))
    found = labeled.prepare(plan, labeled.read(plan), tmp_path / "data", teachers.load(Seeing()))
    assert set(seen) == {(-1.0, 2)}
    assert {atoms.get_initial_magnetic_moments()[1] for atoms in found} == {-1.0}


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


def test_a_species_of_the_data_alone_is_said_before_anything_is_computed(tiny, tmp_path):
    """The structures' cells never hold it, so that no student could learn its energy."""
    frames = _dft(3)
    frames[1].numbers[0] = 79
    path = tmp_path / "dft.extxyz"
    ase.io.write(path, frames)
    with pytest.raises(InputError, match=r"dft\.extxyz: Au is in no structure; give a structure"):
        distill.run(replace(tiny, data=(str(path),)), tmp_path / "out")
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


def test_labels_of_own_frames_can_be_chosen(tiny, tmp_path):
    """Two stresses that differ are refused, and the message's keys are fields of the plan."""
    atoms = Atoms("Cu2", cell=[3, 3, 6], positions=[[0, 0, 0], [0, 0, 3]], pbc=True)
    atoms.info |= {"total": -7.0, "stress": np.full(6, 0.01), "virial": np.full(6, 0.5)}
    atoms.arrays["pull"] = np.zeros((2, 3))
    readers.write([atoms], tmp_path / "own.extxyz")
    plan = replace(tiny, data=(str(tmp_path / "own.extxyz"),))
    plan = replace(plan, energy_key="total", forces_key="pull")
    with pytest.raises(InputError, match="choose one with stress_key or virial_key"):
        labeled.read(plan)
    (frame,) = labeled.read(replace(plan, stress_key="stress"))
    assert frame.get_potential_energy() == -7.0
    np.testing.assert_array_equal(frame.get_stress(), np.full(6, 0.01))
    (frame,) = labeled.read(replace(plan, virial_key="virial"))
    np.testing.assert_allclose(frame.get_stress(), -0.5 / 54)
