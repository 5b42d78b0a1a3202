r"""The labeled frames of a distillation: the teacher's, one file each, and the user's own (DFT).

The name of a frame tells its origin: `r03/t12/fresh` is the fresh frame of trajectory 12 in round
3, and the path of its file.

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

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, progress
from kdlib.datasets import WEIGHT
from kdlib.datasets.checks import broken_rule
from kdlib.distill.plan import Plan
from kdlib.errors import InputError
from kdlib.files import made, replacing
from kdlib.geometry.cells import bare
from kdlib.hipnn import Potential
from kdlib.teachers import Teacher, TeacherError
from kdlib.training import accuracy
from kdlib.training.accuracy import errors_of
from kdlib.training.references import AtomReferences

REFUSED = "refused.json"


def order(name: str) -> tuple[str | int, ...]:
    """Key that sorts names of frames in the order of their creation, numbers by value."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


class Pool:
    """Frames in a folder that a teacher has labeled, by their name."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = made(folder)

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
    def refused(self) -> dict[str, str]:
        """Name -> reason of frames that the teacher could not label."""
        path = self.folder / REFUSED
        return json.loads(path.read_text()) if path.exists() else {}

    def label(self, wanted: Mapping[str, Atoms], teacher: Teacher) -> int:
        """Label the frames that are neither labeled nor refused yet; return their number.

        Parameters
        ----------
        wanted
            Name -> configuration; its ``info`` is kept.
        teacher
            A frame for which it fails is refused, with the reason.

        Raises
        ------
        InputError
            When the teacher fails for all of at least four frames: it is of no use here.
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
        """Labeled frames in order, by default all; refused ones are skipped."""
        wanted = None if names is None else set(names)
        chosen = [name for name in self.names if wanted is None or name in wanted]
        return [ase.io.read(self._path(name)) for name in chosen]

    def _label_one(self, name: str, atoms: Atoms, teacher: Teacher) -> str:
        """Label and store a frame, or return the reason for refusing it."""
        try:
            labeled = teacher.label(atoms)
        except TeacherError as error:
            return str(error)
        if rule := broken_rule(labeled):
            return rule
        path = self._path(name)
        made(path.parent)
        with replacing(path) as part:
            ase.io.write(part, labeled, format="extxyz")
        return ""

    def _refuse(self, refused: Mapping[str, str]) -> None:
        with replacing(self.folder / REFUSED) as part:
            part.write_text(json.dumps(refused, indent=1) + "\n")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.extxyz"


#: Every N-th frame is held out.
HELD_OUT = 10


def read(plan: Plan) -> list[Atoms]:
    """Frames of the plan's files; without files none."""
    return datasets.load(list(plan.data)) if plan.data else []


def prepare(
    plan: Plan,
    given: Sequence[Atoms],
    folder: Path,
    teacher: Teacher,
) -> list[Atoms]:
    """Shift frames of :func:`read` to the teacher's energy scale and add its atomic energies.

    ``info["part"]`` is ``"train"`` or, if held out, ``"test"``. Frames that the teacher cannot
    label are skipped. ``folder`` stores the teacher's labels.
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
