"""From a teacher and a structure to a student: rounds of training, exploring and labeling.

All results are saved as soon as they are computed, so that repeating an interrupted call resumes
it: labeled frames and finished rounds are reused, trainings resume from a checkpoint.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from ase import Atoms

from kdlib import datasets, files, processes, progress, teachers
from kdlib.distill import beginning, labeled, sampling, students
from kdlib.distill.labeled import Pool
from kdlib.distill.plan import Plan, keep
from kdlib.distill.sampling import Round, structures
from kdlib.distill.students import Trained
from kdlib.errors import InputError
from kdlib.geometry.cells import states
from kdlib.teachers import Teacher
from kdlib.training.accuracy import PHASES, against_teacher
from kdlib.training.references import AtomReferences

RECORD = "rounds.json"


@dataclass(frozen=True)
class Outcome:
    """Result of a distillation."""

    trained: list[Trained]
    """Students of the last training, for interaction energies."""
    references: AtomReferences
    """Atomic references subtracted from the energies."""
    record: list[dict]
    """A row per round: errors on fresh frames, frames, minutes; the last is the final student's."""
    ending: str
    """Why the rounds ended."""
    data: list[Atoms] = field(default_factory=list)
    """The user's own frames, including those held out."""

    @property
    def final(self) -> str:
        """Name of the test on whose frames the student is evaluated."""
        return self.record[-1]["round"]

    @property
    def best(self) -> Trained:
        """The student."""
        return students.best(self.trained)


@dataclass
class _Work:
    """A running distillation."""

    plan: Plan
    folder: Path
    teacher: Teacher
    given: list[Atoms]
    pool: Pool
    data: list[Atoms]
    executor: Executor
    record: list[dict]
    began: float

    @property
    def minutes(self) -> float:
        """Time spent, earlier calls included."""
        before = self.record[-1]["minutes"] if self.record else 0.0
        return before + (time.monotonic() - self.began) / 60

    def label(self, current: Round, wanted: dict[str, Atoms]) -> None:
        """Label frames of a round, unless later rounds have learned without those that failed."""
        rounds = [one["round"] for one in self.record if "ending" not in one]
        if all(labeled.order(name) <= labeled.order(current.name) for name in rounds):
            self.pool.label(wanted, self.teacher)

    def note(self, row: dict) -> dict:
        """Save the row of a round and return it; a row of an earlier call is kept."""
        for one in self.record:
            if one["round"] == row["round"]:
                return one
        minutes = self.minutes
        self.record[:] = [one for one in self.record if "ending" not in one]  # no end any more
        self.record.append(row | {"minutes": minutes})
        self.began = time.monotonic()
        with files.replacing(self.folder / RECORD) as part:
            part.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")
        return self.record[-1]


def run(plan: Plan, folder: str | Path) -> Outcome:
    """Distill a teacher into a student in a folder; repeating an interrupted call resumes it.

    Raises
    ------
    InputError
        When plan, structures or teacher cannot be used, before any computation if possible.
    InputError
        When the disk is full, or another process works in the folder.
    """
    with files.locked(folder), files.full_disk_reported(folder):
        return _run(plan, files.tidied(folder))


def _run(plan: Plan, home: Path) -> Outcome:
    given, own = structures(plan.structures), labeled.read(plan)
    _check_species(plan, given, own)
    teacher = teachers.load(plan.teacher)
    for name, atoms in zip(plan.structures, given, strict=True):
        if unseen := states(atoms):
            progress.line(f"{name}: the teacher sees its {' and '.join(unseen)}; the student's "
                          "energy depends on species and positions alone")  # fmt: skip
    keep(plan, home, begun=bool(beginning.begun(home)))
    beginning.check(plan, given, own, teacher, home)
    path = home / RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    data = labeled.prepare(plan, own, home / labeled.OWN, teacher)
    with processes.pool() as executor:
        work = _Work(
            plan, home, teacher, given, Pool(home / labeled.LABELS), data, executor, record,
            time.monotonic(),
        )  # fmt: skip
        _begin(work)
        first = work.pool.frames(work.pool.of(sampling.FIRST.name))
        references = AtomReferences.fit(first)
        ending = _rounds(work, references)
        return _finish(work, references, ending)


def _check_species(plan: Plan, given: Sequence[Atoms], own: Sequence[Atoms]) -> None:
    """Refuse own frames with species that no structure has: no cell to be sampled has them."""
    known = datasets.species(given)
    if unknown := [name for name in datasets.species([*given, *own]) if name not in known]:
        raise InputError(
            f"{', '.join(plan.data)}: {', '.join(unknown)} is in no structure; give a structure "
            "with it, or leave these frames out"
        )


def _begin(work: _Work) -> None:
    """Label the first cells and the teacher's own runs."""
    plan = work.plan
    work.label(sampling.FIRST, sampling.first(plan, work.given))
    kept = work.folder / "rounds" / sampling.FIRST.name
    if not (kept / "done").exists() and not work.record:
        found = sampling.by_teacher(plan, work.given, work.teacher)
        work.label(sampling.FIRST, found)
        if len({name.split("/")[1] for name in found}) == plan.n_teacher_runs:
            with files.replacing(files.made(kept) / "done") as part:
                part.touch()
        else:
            work.pool.asked_again(work.teacher)  # if it fails for good, the call ends here
    n = len(work.pool.of(sampling.FIRST.name))
    progress.line(f"{n} first frames labeled by {work.teacher.name}, {work.minutes:.1f} min")
    if not work.teacher.atomic_energies:
        why = work.teacher.about()["atomic energies"]
        progress.line(f"atomic energies of {work.teacher.name}: {why}")


def _rounds(work: _Work, references: AtomReferences) -> str:
    """Run rounds until the target is met or a budget is used up; return why they ended."""
    plan = work.plan
    for number in range(1, plan.max_rounds + 1):
        _, found, row = _measured(work, Round(number), references, plan.round_epochs)
        progress.line(_line(work.note(row), work))
        if _is_met(plan, row):
            return f"the target of {plan.target_force_rmse:g} eV/Angstrom is met"
        work.label(Round(number), found)
        if len(work.pool.names) >= plan.max_frames:
            return f"{plan.max_frames} frames are labeled"
        if work.minutes >= plan.max_minutes:
            return f"{plan.max_minutes:g} minutes are used"
    return f"{plan.max_rounds} rounds are done"


def _finish(work: _Work, references: AtomReferences, ending: str) -> Outcome:
    """Train the final student, and evaluate it on frames that no model was trained on."""
    trained, _, row = _measured(work, _test(work), references, work.plan.final_epochs)
    final = work.note(row | {"ending": ending})
    progress.line(f"{final['ending']}; {_line(final, work)}")
    return Outcome(trained, references, work.record, final["ending"], work.data)


def _measured(
    work: _Work, current: Round, references: AtomReferences, n_epochs: int
) -> tuple[list[Trained], dict[str, Atoms], dict]:
    """Train on the frames of earlier rounds, explore, and evaluate on fresh frames.

    Returns
    -------
    tuple
        Students, configurations found, and the row of the record.
    """
    plan, folder = work.plan, work.folder
    learned = work.pool.before(current.name)
    frames = work.pool.frames(learned) + labeled.learned(work.data)
    trained = students.train(plan, frames, references, folder / "runs", n_epochs, work.executor)
    run_dirs, kept = [one.run_dir for one in trained], folder / "rounds" / current.name
    found, series = sampling.explore(plan, work.given, run_dirs, current, kept, work.executor)
    fresh = {k: a for k, a in found.items() if a.info["sampling"] == "fresh"}
    work.label(current, fresh)
    student = students.best(trained)
    row = {
        "round": current.name, "frames": len(learned),
        "errors": _errors(work, student, fresh, references),
        "data": labeled.compare(student.potential, work.data, references),
        "disagreement": float(series.disagreement.median()),
        "survived": float(series.survived.mean()),
        "least": float(series.survived.groupby(series.molten).mean().min()),
    }  # fmt: skip
    return trained, found, row


def _test(work: _Work) -> Round:
    """Test of the finished student: the last one, or a new one if more has been learned since."""
    test = Round(1, is_test=True)
    while work.pool.of(test.name) and not _is_current(test, work):
        test = Round(test.number + 1, is_test=True)
    return test


def _is_current(test: Round, work: _Work) -> bool:
    last = work.record[-1] if work.record else {"round": ""}
    return last["round"] == test.name and last["frames"] == len(work.pool.before(test.name))


def _errors(
    work: _Work, student: Trained, fresh: dict[str, Atoms], references: AtomReferences
) -> dict:
    frames = references.subtract(work.pool.frames(fresh))
    if not frames:
        raise InputError("all of the students' runs failed before the first sample: more first "
                         "frames (n_start) or a narrower temperature range may help")  # fmt: skip
    return against_teacher(student.potential, frames)


def _is_met(plan: Plan, row: dict) -> bool:
    """Whether a round's errors are small enough and its MD is stable enough."""
    # Fresh frames come from surviving runs, so with few of them a small error means little.
    return _worst(row["errors"]) <= plan.target_force_rmse and row["least"] >= plan.least_survival


def _worst(errors: dict) -> float:
    """Larger of the force errors of solid and melt, eV/Angstrom."""
    found = [errors[state]["force_rmse"] for state in PHASES]
    return max(value for value in found if value == value)


def _line(row: dict, work: _Work) -> str:
    solid, molten = (row["errors"][state]["force_rmse"] for state in PHASES)
    where = "final" if "ending" in row else f"round {row['round']}"
    return (
        f"{where}: {row['frames']} frames, force RMSE on fresh frames {solid:.3f} (solid) and "
        f"{molten:.3f} (molten) eV/Angstrom, {row['survived']:.0%} of MD survived, "
        f"{work.minutes:.1f} min"
    )
