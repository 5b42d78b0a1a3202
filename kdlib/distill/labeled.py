r"""The labeled frames of a distillation: the teacher's, one file each, and the user's own (DFT).

A frame is named by where it comes from, part by part: `r03/t12/fresh` is the fresh frame of
trajectory 12 in round 3, and its file lies in folders of these names.

A student learns energies and forces of the user's frames from their own labels, and the teacher's
atomic energies beside them: the paper's case. The two kinds of energies differ by a constant for
each species (of pseudopotentials, of isolated atoms): the one that brings

.. math:: E - E^T - \sum_i \Delta(s_i)

nearest to zero over all frames is taken off, so that the student's energies are the teacher's up to
what the two really disagree about. One frame in :data:`HELD_OUT` is not learned but measured.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, progress
from kdlib.datasets import WEIGHT
from kdlib.datasets.checks import broken_rule
from kdlib.distill.plan import Plan
from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.geometry.cells import bare
from kdlib.hipnn import Potential
from kdlib.teachers import Teacher, TeacherError
from kdlib.training import accuracy
from kdlib.training.accuracy import errors_of
from kdlib.training.references import AtomReferences

REFUSED = "refused.json"


def order(name: str) -> tuple[str | int, ...]:
    """Key that sorts names of frames as they were made: numbers in them count as numbers."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


class Pool:
    """Frames that a teacher has labelled, by their name.

    Parameters
    ----------
    folder
        Where they lie.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def names(self) -> list[str]:
        """Names of the labelled frames, in their order."""
        files = (path.relative_to(self.folder) for path in self.folder.rglob("*.extxyz"))
        return sorted((path.with_suffix("").as_posix() for path in files), key=order)

    def before(self, name: str) -> list[str]:
        """Names of the labelled frames that come before a round or a frame."""
        return [one for one in self.names if order(one) < order(name)]

    def of(self, name: str) -> list[str]:
        """Names of the labelled frames of one round."""
        return [one for one in self.names if one.startswith(f"{name}/")]

    @property
    def refused(self) -> dict[str, str]:
        """Name -> reason of frames that the teacher could not label."""
        path = self.folder / REFUSED
        return json.loads(path.read_text()) if path.exists() else {}

    def label(self, wanted: Mapping[str, Atoms], teacher: Teacher) -> int:
        """Label the frames that are neither there nor refused.

        Parameters
        ----------
        wanted
            Name -> configuration; its ``info`` is kept.
        teacher
            Says energies and forces. A frame for which it fails is refused, with the reason.

        Returns
        -------
        int
            Number of frames that were labelled now.

        Raises
        ------
        InputError
            When the teacher fails for every one of at least four frames: it is of no use here.
        """
        done, refused = set(self.names), self.refused
        asked = sorted(wanted, key=order)
        missing = [name for name in asked if name not in done and name not in refused]
        failures: dict[str, str] = {}
        with progress.bar(total=len(missing), desc="labels", unit="frame") as bar:
            for name in missing:
                wanted[name].info["frame"] = name
                if reason := self._label_one(name, wanted[name], teacher):
                    failures[name] = reason
                    progress.line(f"frame {name} is left out: {reason}")
                    self._refuse(refused | failures)
                bar.update()
        if len(missing) >= 4 and len(failures) == len(missing):
            raise InputError(
                f"{teacher.name} labels none of {len(missing)} frames; the last: {reason}"
            )
        return len(missing) - len(failures)

    def frames(self, names: Iterable[str] | None = None) -> list[Atoms]:
        """Labelled frames, in the order of their names.

        Parameters
        ----------
        names
            Which; by default all. Those that were refused are left out.
        """
        wanted = None if names is None else set(names)
        chosen = [name for name in self.names if wanted is None or name in wanted]
        return [ase.io.read(self._path(name)) for name in chosen]

    def _label_one(self, name: str, atoms: Atoms, teacher: Teacher) -> str:
        """Label and store a frame; the reason why not, if it is refused."""
        try:
            labelled = teacher.label(atoms)
        except TeacherError as error:
            return str(error)
        if rule := broken_rule(labelled):
            return rule
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            ase.io.write(part, labelled, format="extxyz")
        return ""

    def _refuse(self, refused: Mapping[str, str]) -> None:
        with replacing(self.folder / REFUSED) as part:
            part.write_text(json.dumps(refused, indent=1) + "\n")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.extxyz"


#: One frame in so many is held out.
HELD_OUT = 10


def read(plan: Plan) -> list[Atoms]:
    """Frames of the plan's files; without files none.

    Raises
    ------
    kdlib.InputError
        Naming file, frame and rule.
    """
    return datasets.load(list(plan.data)) if plan.data else []


def prepare(
    plan: Plan,
    given: Sequence[Atoms],
    folder: Path,
    teacher: Teacher,
) -> list[Atoms]:
    """Frames on the teacher's scale of energies, with its atomic energies beside their labels.

    Parameters
    ----------
    plan
        Says their weight in the loss.
    given
        Frames as :func:`read` returns them.
    folder
        Keeps the teacher's labels.
    teacher
        A frame that it cannot label is left out.

    Returns
    -------
    list[Atoms]
        ``info["part"]`` is ``"train"`` or, of those held out, ``"test"``.
    """
    if not given:
        return []
    pool = Pool(folder)
    unlabeled = {f"data/{k:06d}": bare(atoms) for k, atoms in enumerate(given)}
    pool.label(unlabeled, teacher)
    taught = {k: atoms for k, name in enumerate(unlabeled) for atoms in pool.frames([name])}
    own = [given[k] for k in taught]
    shift = _shift(own, list(taught.values()))
    return [_joined(plan, k, given[k], atoms, shift) for k, atoms in taught.items()]


def learned(frames: Sequence[Atoms]) -> list[Atoms]:
    """Those that train."""
    return [atoms for atoms in frames if atoms.info["part"] == "train"]


def compare(
    potential: Potential, frames: Sequence[Atoms], references: AtomReferences
) -> dict[str, dict[str, float]]:
    """Errors of student and teacher against the frames' own labels, on those held out.

    Parameters
    ----------
    potential
        Student of interaction energies.
    frames
        As :func:`prepare` returns them.
    references
        Energies of atoms that are taken off.

    Returns
    -------
    dict
        ``student``: as :func:`kdlib.training.accuracy.errors_of`; ``teacher``: its ``force_rmse``.
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
    """Constants of the species between the two kinds of energies."""
    differences = []
    for atoms, labelled in zip(own, taught, strict=True):
        frame = Atoms(atoms.numbers)
        gap = atoms.calc.results["energy"] - labelled.calc.results["energy"]
        frame.calc = SinglePointCalculator(frame, energy=gap)
        differences.append(frame)
    if not differences:
        raise InputError("distill: the teacher can label none of the frames of data")
    return AtomReferences.fit(differences)


def _joined(plan: Plan, k: int, own: Atoms, taught: Atoms, shift: AtomReferences) -> Atoms:
    """The k-th frame with its own labels and the teacher's atomic energies."""
    frame = bare(own)
    held_out = k % HELD_OUT == HELD_OUT - 1
    frame.info = {
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
