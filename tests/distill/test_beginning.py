"""Edits between two calls of a distillation: structures, teachers and own frames."""

import sys
from dataclasses import replace
from types import ModuleType

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import teachers
from kdlib.distill import beginning, labeled
from kdlib.distill.labeled import LABELS, OWN, Pool
from kdlib.distill.sampling import structures
from kdlib.errors import InputError


def cell(seed=0, a=3.6):
    """A rattled cell of copper."""
    atoms = bulk("Cu", a=a, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def check(plan, teacher, folder):
    """Check a folder as a call of the command does."""
    folder.mkdir(exist_ok=True)
    beginning.check(plan, structures(plan.structures), labeled.read(plan), teacher, folder)


def label_one(folder, teacher):
    """Put the label of one frame into a folder."""
    assert Pool(folder / LABELS).label({"r00/c000": cell()}, teacher) == 1


def moved(atoms):
    """Copy with one atom displaced."""
    copy = atoms.copy()
    copy.positions[0, 0] += 0.01
    return copy


def strained(atoms):
    """Copy in a larger cell."""
    copy = atoms.copy()
    copy.set_cell(copy.cell.array * 1.01, scale_atoms=True)
    return copy


def magnetic(atoms):
    """Copy with a magnetic moment."""
    copy = atoms.copy()
    copy.set_initial_magnetic_moments([1.0] + [0.0] * (len(atoms) - 1))
    return copy


EDITS = {"moved": moved, "strained": strained, "magnetic": magnetic, "permuted": lambda a: a[::-1]}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_structure_is_refused_once_frames_are_labeled(edit, tiny, tmp_path):
    """Its name is the same, but the frames in the folder were made from another one."""
    path, teacher = tmp_path / "copper.xyz", teachers.load("emt")
    plan = replace(tiny, structures=(str(path),))
    for atoms in (EDITS[edit](cell()), cell()):  # nothing is labeled yet
        ase.io.write(path, atoms, format="extxyz")
        check(plan, teacher, tmp_path / "out")
    label_one(tmp_path / "out", teacher)
    with_note = cell()
    with_note.info["note"] = "rewritten"
    ase.io.write(path, with_note, format="extxyz")
    check(plan, teacher, tmp_path / "out")
    ase.io.write(path, EDITS[edit](cell()), format="extxyz")
    with pytest.raises(InputError, match=r"copper\.xyz: is another structure"):
        check(plan, teacher, tmp_path / "out")


def write_eam(path, comment="for tests", depth=1.0):
    """Write an invented potential of copper in the setfl format."""
    r, rho = np.arange(300) * 0.02, np.arange(300) * 0.1
    switch = np.clip(1 - r / 5.5, 0, None) ** 4
    head = ["invented", comment, "here", "1 Cu", "300 0.1 300 0.02 5.5", "29 63.55 3.61 fcc"]
    numbers = [-depth * np.sqrt(rho), 9 * np.exp(2.0 - r) * switch, r * np.exp(4 - 2 * r) * switch]
    path.write_text("\n".join([*head, *(f"{x:.12e}" for x in np.concatenate(numbers))]) + "\n")
    return teachers.load(f"eam:{path}")


def test_an_edited_file_of_the_teacher_is_refused_if_its_labels_differ(tiny, tmp_path, monkeypatch):
    """A frame labeled again decides: another comment is no other teacher, another depth is."""
    path, folder = tmp_path / "copper.eam.alloy", tmp_path / "out"
    check(tiny, write_eam(path), folder)
    label_one(folder, write_eam(path))
    check(tiny, write_eam(path, comment="with a new comment"), folder)
    with monkeypatch.context() as patch:  # the new comment is known now
        patch.setattr(teachers.Teacher, "label", lambda *args: 1 / 0)
        check(tiny, write_eam(path, comment="with a new comment"), folder)
    with pytest.raises(InputError, match=r"copper\.eam\.alloy: has changed .* r00/c000"):
        check(tiny, write_eam(path, depth=1.1), folder)


@pytest.mark.parametrize(
    ("epsilon", "refused"), [(0.2, False), (0.2 * (1 + 1e-5), False), (0.21, True)]
)
def test_a_factory_is_known_by_its_labels(epsilon, refused, tiny, tmp_path, monkeypatch):
    """Nobody knows which files a factory reads, so one frame is labeled again in each call."""
    module = ModuleType("invented")
    monkeypatch.setitem(sys.modules, "invented", module)
    for eps in (0.2, epsilon):
        module.factory = lambda eps=eps: LennardJones(sigma=2.3, epsilon=eps, rc=5, smooth=True)
        teacher = teachers.load("invented:factory")
        if eps == epsilon and refused:
            with pytest.raises(InputError, match="invented:factory: has changed"):
                check(tiny, teacher, tmp_path)
            return
        check(tiny, teacher, tmp_path)
        Pool(tmp_path / LABELS).label({"r00/c000": cell()}, teacher)


def test_a_folder_without_notes_on_its_beginning_is_resumed(tiny, tmp_path):
    """An older folder has its teacher verified by a label; from then on it has the notes."""
    teacher = teachers.load("emt")
    label_one(tmp_path, teacher)
    check(tiny, teacher, tmp_path)
    assert (tmp_path / beginning.STRUCTURES).exists()
    (tmp_path / beginning.TEACHER).unlink()
    other = teachers.load(LennardJones(sigma=2.3, epsilon=0.2, rc=5, smooth=True))
    with pytest.raises(InputError, match="has changed"):
        check(tiny, other, tmp_path)


class Counting(EMT):
    """EMT that counts its evaluations."""

    calls = 0

    def calculate(self, *args, **kwargs):
        """Energies and forces."""
        type(self).calls += 1
        super().calculate(*args, **kwargs)


def write_own(path, frames):
    """Write frames with labels that are EMT's but for a constant."""
    made = []
    for atoms in frames:
        energy = atoms.info.pop("shift", 0.0)
        atoms = atoms.copy()
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy() + 50 + energy}
        atoms.calc = SinglePointCalculator(atoms, **results, forces=atoms.get_forces())
        made.append(atoms)
    ase.io.write(path, made, format="extxyz")


def relabeled(atoms):
    """Copy whose own energy, not the teacher's, is another one."""
    copy = atoms.copy()
    copy.info["shift"] = 0.3
    return copy


#: Edit of twelve frames -> the new frames, how many the teacher labels, and what is said.
OWN_EDITS = {
    "reversed": (lambda f: f[::-1], 0, ""),
    "one in front": (lambda f: [cell(99), *f], 1, "1 new of 13 frames"),
    "one removed": (lambda f: f[1:], 0, "1 missing of 11 frames"),
    "one moved": (lambda f: [*f[:5], moved(f[5]), *f[6:]], 1, "1 new, 1 missing of 12 frames"),
    "one permuted": (lambda f: [f[0][::-1], *f[1:]], 1, "1 new, 1 missing of 12 frames"),
    "one magnetic": (lambda f: [magnetic(f[0]), *f[1:]], 1, "1 new, 1 missing of 12 frames"),
    "one strained": (lambda f: [*f[:11], strained(f[11])], 1, "1 new, 1 missing of 12 frames"),
    "other energy": (lambda f: [relabeled(f[0]), *f[1:]], 0, "1 with other labels of 12 frames"),
}


@pytest.mark.parametrize("edit", OWN_EDITS)
def test_frames_of_an_edited_file_keep_their_labels_and_parts(edit, tiny, tmp_path):
    """The teacher labels what is new; each frame has its own labels, and its part as before."""
    change, n_asked, said = OWN_EDITS[edit]
    path, frames, teacher = tmp_path / "own.xyz", list(map(cell, range(12))), None
    plan, found = replace(tiny, data=(str(path),)), []
    for some in (frames, change(frames)):
        write_own(path, some)
        Counting.calls, teacher = 0, teachers.load(Counting())
        check(plan, teacher, tmp_path / "out")
        given = labeled.read(plan)
        changes = labeled.changes(given, tmp_path / "out" / OWN)
        assert changes == (said if found else "12 new of 12 frames")
        found.append(labeled.prepare(plan, given, tmp_path / "out" / OWN, teacher))
    assert Counting.calls == n_asked
    assert len(found[1]) == len(given)
    for atoms in found[1]:
        taught = atoms.copy()
        taught.calc = EMT()
        np.testing.assert_allclose(atoms.arrays["teacher_forces"], taught.get_forces(), atol=2e-8)
    before, after = ({a.info["frame"]: a.info["part"] for a in some} for some in found)
    assert all(after[name] == part for name, part in before.items() if name in after)
    assert set(before.values()) == {"train", "test"}
    if edit == "reversed":
        assert [a.info["frame"] for a in found[1]] == list(before)


@pytest.mark.parametrize("edit", OWN_EDITS)
def test_frames_that_rounds_have_learned_from_are_not_exchanged(edit, tiny, tmp_path):
    """The rounds would be those of other frames: what changed is said; the order may change."""
    change, _, said = OWN_EDITS[edit]
    path, folder, frames = tmp_path / "own.xyz", tmp_path / "out", list(map(cell, range(12)))
    plan, teacher = replace(tiny, data=(str(path),)), teachers.load("emt")
    write_own(path, frames)
    check(plan, teacher, folder)
    labeled.prepare(plan, labeled.read(plan), folder / OWN, teacher)
    (folder / "rounds" / "r01").mkdir(parents=True)
    (folder / "rounds" / "r01" / "trajectories.nc").touch()
    write_own(path, change(frames))
    if said:
        with pytest.raises(InputError, match=rf"own\.xyz: {said} since the rounds .* another f"):
            check(plan, teacher, folder)
    else:
        check(plan, teacher, folder)


def test_own_frames_of_an_older_folder_are_refused(tiny, tmp_path):
    """It kept their labels by position, so that nobody knows whose they are."""
    write_own(tmp_path / "own.xyz", [cell()])
    (tmp_path / "rounds" / "r01").mkdir(parents=True)
    (tmp_path / "rounds" / "r01" / "trajectories.nc").touch()
    plan = replace(tiny, data=(str(tmp_path / "own.xyz"),))
    with pytest.raises(InputError, match="earlier version of kdlib .* another folder"):
        check(plan, teachers.load("emt"), tmp_path)


@pytest.mark.parametrize("edit", EDITS)
def test_a_label_counts_for_its_configuration_only(edit, tmp_path):
    """Under the same name, another configuration is labeled anew, and one rounded is not."""
    pool, teacher, name = Pool(tmp_path), teachers.load("emt"), "r00/c000"
    assert pool.label({name: cell()}, teacher) == 1
    rounded = cell()
    rounded.positions = rounded.positions.round(8)
    assert pool.label({name: rounded}, teacher) == 0
    assert pool.label({name: EDITS[edit](cell())}, teacher) == 1
    (found,) = pool.frames([name])
    expected = teacher.label(EDITS[edit](cell())).calc.results["forces"]
    np.testing.assert_allclose(found.calc.results["forces"], expected, atol=2e-8)
