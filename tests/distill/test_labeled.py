"""The labelled frames of a distillation, and teachers that fail."""

import errno

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from kdlib import teachers
from kdlib.distill.labeled import Pool, order
from kdlib.errors import InputError

NAMES = ["r00/c000", "r02/t09/worst", "r02/t10/fresh", "r02/t100/fresh", "test1/t00/fresh"]


def wanted(n=5):
    """Rattled copper cells by name."""
    found = {}
    for k, name in enumerate(NAMES[:n]):
        found[name] = bulk("Cu", cubic=True)
        found[name].rattle(0.1, seed=k)
    return found


class Moody(EMT):
    """EMT that misbehaves when its turn comes."""

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
    """The others are labelled; the reason is kept, and the frame is not asked for again."""
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
    """What was labelled before stays whole, nothing half-written is left, and it goes on."""
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
    with pytest.raises(OSError, match="No space left"):
        pool.label(wanted(), teacher)
    assert pool.names == NAMES[:2]
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2
    monkeypatch.undo()
    assert pool.label(wanted(), teacher) == 3
