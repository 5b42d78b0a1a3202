"""The labelled frames of a distillation, and teachers that fail."""

import errno

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from kdlib import teachers
from kdlib.distill.labeled import Pool
from kdlib.errors import InputError


def wanted(n=5):
    """Rattled copper cells by number."""
    found = {}
    for k in range(n):
        found[k] = bulk("Cu", cubic=True)
        found[k].rattle(0.1, seed=k)
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
    assert words in pool.refused[2]
    assert pool.numbers == [0, 1, 3, 4]
    before = moody.calls
    assert Pool(tmp_path).label(wanted(), teachers.load(moody)) == 0
    assert moody.calls == before


def test_a_teacher_that_always_fails_is_of_no_use(tmp_path):
    """One clear error instead of an empty training set."""
    with pytest.raises(InputError, match="labels none of 5 frames"):
        Pool(tmp_path).label(wanted(), teachers.load(Moody(*range(5))))


def test_labels_come_back_as_the_teacher_gave_them(tmp_path):
    """Energy, forces, stress and atomic energies survive the file to its eight digits."""
    pool, teacher = Pool(tmp_path), teachers.load("emt")
    pool.label(wanted(1), teacher)
    (frame,), expected = pool.frames(), teacher.label(wanted(1)[0]).calc.results
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
    assert pool.numbers == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    assert pool.label(wanted(), teacher) == 3
