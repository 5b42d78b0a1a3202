r"""The labeled frames of a distillation: the teacher's, one file each, and the user's own (DFT).

The name of a frame tells its origin: `r03/t12/fresh` is the fresh frame of trajectory 12 in round
3, and the path of its file. A label counts only for the configuration in that file; the user's
frames are named after their content, so that they keep their labels when their file is edited.

A student learns the user's frames from their own energies and forces and the teacher's atomic
energies: the paper's case. The two kinds of energies differ by a constant for each species (from
pseudopotentials or isolated atoms). The constants that bring

.. math:: E - E^T - \sum_i \Delta(s_i)

closest to zero over all frames are subtracted, so that only the real disagreement remains. One
frame in :data:`HELD_OUT` is held out for evaluation.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, progress
from kdlib.datasets import WEIGHT, readers
from kdlib.datasets.checks import broken_rule
from kdlib.distill.plan import Plan
from kdlib.errors import InputError
from kdlib.files import made, replacing
from kdlib.geometry.cells import digest, same, unlabeled
from kdlib.hipnn import Potential
from kdlib.teachers import BadLabels, Teacher, TeacherError
from kdlib.training import accuracy
from kdlib.training.accuracy import errors_of
from kdlib.training.references import AtomReferences

#: Folders of the teacher's labels: on its own frames and on the user's.
LABELS, OWN = "labels", "data"
#: File with the frames that got bad labels.
BAD = "bad_labels.json"
#: File with the user's frames in the order in which they came, and a hash of their labels.
KNOWN = "frames.json"
#: A teacher that has labeled frames but fails for so many of them is out of order.
TRIALS = 3
#: Where the teacher fails for all of so many frames, it is of no use for them.
HOPELESS = 4


def order(name: str) -> tuple[str | int, ...]:
    """Key that sorts names of frames in the order of their creation, numbers by value."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


class Pool:
    """Frames in a folder that a teacher has labeled, by their name."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def names(self) -> list[str]:
        """Names of the labeled frames, in order."""
        files = (path.relative_to(self.folder) for path in self.folder.rglob("*.extxyz"))
        return sorted((path.with_suffix("").as_posix() for path in files), key=order)

    def before(self, name: str) -> list[str]:
        """Names of the labeled frames before a round or a frame."""
        return [one for one in self.names if order(one) < order(name)]

    def of(self, name: str) -> list[str]:
        """Names of the labeled frames of one round."""
        return [one for one in self.names if one.startswith(f"{name}/")]

    @property
    def bad(self) -> dict[str, list[str]]:
        """Name -> rule that the labels of a frame broke, and digest of its configuration."""
        path = self.folder / BAD
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def label(self, wanted: Mapping[str, Atoms], teacher: Teacher) -> int:
        """Label the frames that have no labels yet, neither good nor bad; return how many got some.

        Where the teacher fails but still works, it is asked a second time; frames for which it
        fails again are left out, and the next call asks for them once more.

        Parameters
        ----------
        wanted
            Name -> configuration; its ``info`` is kept.

        Raises
        ------
        InputError
            The teacher fails for all frames, and nothing is written; or it has ceased to work:
            what it has labeled is kept.
        """
        is_first = not self.names
        missing = self._missing(wanted)
        errors = self._ask(missing, wanted, teacher)
        failed = [name for name, error in errors.items() if not isinstance(error, BadLabels)]
        if failed and self.names:
            self.asked_again(teacher)
            errors = {name: error for name, error in errors.items() if name not in failed}
            errors |= self._ask(failed, wanted, teacher)
        labels_none = bool(errors) and not set(wanted) & set(self.names)
        if labels_none and (len(errors) >= HOPELESS or is_first):
            raise InputError(
                f"{teacher.name} labels none of {len(missing)} frames: {_first(errors)}"
            )
        for name, error in errors.items():
            progress.line(f"frame {name} is left out: {error}")
        self._keep_bad(
            {
                name: [str(error), digest(wanted[name])]
                for name, error in errors.items()
                if isinstance(error, BadLabels)
            }
        )
        return len(missing) - len(errors)

    def asked_again(self, teacher: Teacher) -> tuple[Atoms, Atoms]:
        """Let the teacher label one of its frames again; return it with old and with new labels.

        Raises
        ------
        InputError
            The teacher fails for several frames that it has labeled before.
        """
        errors = {}
        for name in self.names[:TRIALS]:
            (old,) = self.frames([name])
            try:
                return old, teacher.label(old)
            except TeacherError as error:
                errors[name] = error
        raise InputError(f"{teacher.name} fails for frames that it has labeled before, which are "
                         f"kept; when it works, repeat the call: {_first(errors)}")  # fmt: skip

    def frames(self, names: Iterable[str] | None = None) -> list[Atoms]:
        """Labeled frames in order, by default all; those without labels are skipped."""
        wanted = None if names is None else set(names)
        chosen = [name for name in self.names if wanted is None or name in wanted]
        return [self._frame(name) for name in chosen]

    def _frame(self, name: str) -> Atoms:
        (frame,) = readers.frames_of(self._path(name))
        return frame

    def _missing(self, wanted: Mapping[str, Atoms]) -> list[str]:
        """Names of frames whose configuration has no labels, neither good nor bad."""
        labeled, bad = set(self.names), self.bad
        return [
            name
            for name in sorted(wanted, key=order)
            if not (name in labeled and same(self._frame(name), wanted[name]))
            and not (name in bad and bad[name][1] == digest(wanted[name]))
        ]

    def _keep_bad(self, found: Mapping[str, list[str]]) -> None:
        if found:
            with replacing(self.folder / BAD) as part:
                part.write_text(json.dumps(self.bad | found, indent=1) + "\n", encoding="utf-8")

    def _ask(
        self, names: Sequence[str], wanted: Mapping[str, Atoms], teacher: Teacher
    ) -> dict[str, TeacherError]:
        """Label and store frames; return name -> error of those that could not be labeled."""
        errors = {}
        with progress.bar(total=len(names), desc="labels", unit="frame") as bar:
            for name in names:
                wanted[name].info["frame"] = name
                try:
                    self._store(name, teacher.label(wanted[name]))
                except TeacherError as error:
                    errors[name] = error
                bar.update()
        return errors

    def _store(self, name: str, labeled: Atoms) -> None:
        if rule := broken_rule(labeled):
            raise BadLabels(rule)
        path = self._path(name)
        made(path.parent)
        readers.write(labeled, path)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.extxyz"


def _first(errors: Mapping[str, TeacherError]) -> TeacherError:
    """First failure, or else the first bad label: a failure is more likely to be the reason."""
    failures = (error for error in errors.values() if not isinstance(error, BadLabels))
    return next(failures, next(iter(errors.values())))


#: Every N-th frame is held out.
HELD_OUT = 10


def read(plan: Plan) -> list[Atoms]:
    """Frames of the plan's files; without files none."""
    if not plan.data:
        return []
    keys = (plan.energy_key, plan.forces_key, plan.stress_key, plan.virial_key)
    return datasets.load(list(plan.data), *keys)


def prepare(
    plan: Plan,
    given: Sequence[Atoms],
    folder: Path,
    teacher: Teacher,
) -> list[Atoms]:
    """Shift frames of :func:`read` to the teacher's energy scale and add its atomic energies.

    ``info["part"]`` is ``"train"`` or, if held out, ``"test"``. Frames that the teacher cannot
    label are skipped. ``folder`` stores the teacher's labels, and the order in which frames first
    came: in an edited file, a frame keeps its place and its part.
    """
    if not given:
        return []
    pool, own = Pool(folder), _named(given)
    known = _known(folder)
    places = {name: k for k, name in enumerate({**known, **own})}
    pool.label({name: unlabeled(atoms) for name, atoms in own.items()}, teacher)
    with replacing(folder / KNOWN) as part:
        prints = {name: _print(own[name]) if name in own else "" for name in places}
        part.write_text(json.dumps(prints, indent=1) + "\n", encoding="utf-8")
    taught = {name: atoms for name in own for atoms in pool.frames([name])}
    shift = _shift([own[name] for name in taught], list(taught.values()))
    return [
        _joined(plan, places[name], own[name], taught[name], shift)
        for name in sorted(taught, key=places.__getitem__)
    ]


def changes(given: Sequence[Atoms], folder: Path) -> str:
    """How the user's frames differ from those of the last call, in words; empty if they do not."""
    then = {name: value for name, value in _known(folder).items() if value}
    now = {name: _print(atoms) for name, atoms in _named(given).items()}
    counts = {
        "new": len(now.keys() - then.keys()),
        "missing": len(then.keys() - now.keys()),
        "with other labels": sum(then[name] != now[name] for name in then.keys() & now.keys()),
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{', '.join(said)} of {len(now)} frames" if said else ""


def _named(given: Sequence[Atoms]) -> dict[str, Atoms]:
    """Frames by a name that follows from their configuration."""
    return {f"data/{digest(atoms)[:16]}": atoms for atoms in given}


def _known(folder: Path) -> dict[str, str]:
    """Name -> hash of the user's labels, empty for a frame that was removed; in order."""
    path = folder / KNOWN
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _print(atoms: Atoms) -> str:
    return datasets.fingerprint([atoms], ("energy", "forces", "stress"))


def learned(frames: Sequence[Atoms]) -> list[Atoms]:
    """Frames of the training part."""
    return [atoms for atoms in frames if atoms.info["part"] == "train"]


def compare(
    potential: Potential, frames: Sequence[Atoms], references: AtomReferences
) -> dict[str, dict[str, float]]:
    """Errors of student and teacher on held-out frames of :func:`prepare`.

    The result holds ``student``, from :func:`kdlib.training.accuracy.errors_of`, and ``teacher``,
    its ``force_rmse``.
    """
    chosen = [atoms for atoms in frames if atoms.info["part"] == "test"]
    if not chosen:
        return {}
    missing = [atoms.arrays["teacher_forces"] - atoms.calc.results["forces"] for atoms in chosen]
    return {
        "student": errors_of(potential, references.subtract(chosen)),
        "teacher": {"force_rmse": accuracy.rmse(np.concatenate(missing))},
    }


def _shift(own: Sequence[Atoms], taught: Sequence[Atoms]) -> AtomReferences:
    """Constants per species between the two kinds of energies."""
    differences = []
    for atoms, labeled in zip(own, taught, strict=True):
        frame = Atoms(atoms.numbers)
        gap = atoms.calc.results["energy"] - labeled.calc.results["energy"]
        frame.calc = SinglePointCalculator(frame, energy=gap)
        differences.append(frame)
    if not differences:
        raise InputError("distill: the teacher can label none of the frames of data")
    return AtomReferences.fit(differences)


def _joined(plan: Plan, k: int, own: Atoms, taught: Atoms, shift: AtomReferences) -> Atoms:
    """The k-th frame with its own labels and the teacher's atomic energies."""
    frame = unlabeled(own)
    held_out = k % HELD_OUT == HELD_OUT - 1
    frame.info |= {
        "frame": taught.info["frame"], "sampling": "data", "part": "test" if held_out else "train",
        "molten": False, WEIGHT: plan.data_weight,
    }  # fmt: skip
    frame.arrays["teacher_forces"] = taught.calc.results["forces"]
    results = {name: own.calc.results[name] for name in ("forces", "stress")
               if name in own.calc.results}  # fmt: skip
    results["energy"] = float(own.calc.results["energy"] - shift.of(own).sum())
    if "energies" in taught.calc.results:
        results["energies"] = taught.calc.results["energies"]
    frame.calc = SinglePointCalculator(frame, **results)
    return frame
