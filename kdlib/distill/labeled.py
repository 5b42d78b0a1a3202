r"""The labeled frames of a distillation: the teacher's, one file each, and the user's own (DFT).

A student learns energies and forces of the user's frames from their own labels, and the teacher's
atomic energies beside them: the paper's case. The two kinds of energies differ by a constant for
each species (of pseudopotentials, of isolated atoms): the one that brings

.. math:: E - E^T - \sum_i \Delta(s_i)

nearest to zero over all frames is taken off, so that the student's energies are the teacher's up to
what the two really disagree about. One frame in :data:`HELD_OUT` is not learned but measured.
"""

import json
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
from kdlib.hipnn import Potential
from kdlib.teachers import Teacher, TeacherError
from kdlib.training import accuracy
from kdlib.training.accuracy import errors_of
from kdlib.training.references import AtomReferences

REFUSED = "refused.json"


class Pool:
    """Frames that a teacher has labelled, by their number.

    Parameters
    ----------
    folder
        Where they lie.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the labelled frames, ascending."""
        return sorted(int(path.stem.split("_")[1]) for path in self.folder.glob("frame_*.extxyz"))

    @property
    def refused(self) -> dict[int, str]:
        """Number -> reason of frames that the teacher could not label."""
        path = self.folder / REFUSED
        found = json.loads(path.read_text()) if path.exists() else {}
        return {int(k): reason for k, reason in found.items()}

    def label(self, wanted: Mapping[int, Atoms], teacher: Teacher) -> int:
        """Label the frames that are neither there nor refused.

        Parameters
        ----------
        wanted
            Number -> configuration; its ``info`` is kept.
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
        done, refused = set(self.numbers), self.refused
        missing = [k for k in sorted(wanted) if k not in done and k not in refused]
        failures: dict[int, str] = {}
        with progress.bar(total=len(missing), desc="labels", unit="frame") as bar:
            for k in missing:
                wanted[k].info["frame"] = k
                if reason := self._label_one(k, wanted[k], teacher):
                    failures[k] = reason
                    progress.line(f"frame {k} is left out: {reason}")
                    self._refuse(refused | failures)
                bar.update()
        if len(missing) >= 4 and len(failures) == len(missing):
            raise InputError(
                f"{teacher.name} labels none of {len(missing)} frames; the last: {reason}"
            )
        return len(missing) - len(failures)

    def frames(self, numbers: Iterable[int] | None = None) -> list[Atoms]:
        """Labelled frames, by number.

        Parameters
        ----------
        numbers
            Which; by default all. Those that were refused are left out.
        """
        there = self.numbers
        chosen = there if numbers is None else sorted(set(numbers) & set(there))
        return [ase.io.read(self._path(k)) for k in chosen]

    def _label_one(self, k: int, atoms: Atoms, teacher: Teacher) -> str:
        """Label and store a frame; the reason why not, if it is refused."""
        try:
            labelled = teacher.label(atoms)
        except TeacherError as error:
            return str(error)
        if rule := broken_rule(labelled):
            return rule
        with replacing(self._path(k)) as part:
            ase.io.write(part, labelled, format="extxyz")
        return ""

    def _refuse(self, refused: Mapping[int, str]) -> None:
        with replacing(self.folder / REFUSED) as part:
            part.write_text(json.dumps(refused, indent=1) + "\n")

    def _path(self, k: int) -> Path:
        return self.folder / f"frame_{k:06d}.extxyz"


#: One frame in so many is held out.
HELD_OUT = 10
#: Numbers of such frames begin here, beyond those of all rounds.
FIRST = 10_000_000


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
    bare = {FIRST + k: Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc)
            for k, a in enumerate(given)}  # fmt: skip
    pool.label(bare, teacher)
    taught = pool.frames(bare)
    own = [given[int(atoms.info["frame"]) - FIRST] for atoms in taught]
    shift = _shift(own, taught)
    return [_joined(plan, *pair, shift) for pair in zip(own, taught, strict=True)]


def learnt(frames: Sequence[Atoms]) -> list[Atoms]:
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


def _joined(plan: Plan, own: Atoms, taught: Atoms, shift: AtomReferences) -> Atoms:
    number = int(taught.info["frame"])
    frame = Atoms(own.numbers, own.positions, cell=own.cell, pbc=own.pbc)
    held_out = number % HELD_OUT == HELD_OUT - 1
    frame.info = {
        "frame": number, "sampling": "data", "part": "test" if held_out else "train",
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
