r"""The user's own labelled frames (DFT), mixed with the teacher's: the paper's case.

The student learns energies and forces of such a frame from its own labels, and the teacher's atomic
energies for it beside them. The two kinds of energies differ by a constant for each species (of
pseudopotentials, of isolated atoms): the one that brings

.. math:: E - E^T - \sum_i \Delta(s_i)

nearest to zero over all frames is taken off, so that the student's energies are the teacher's up to
what the two really disagree about. One frame in :data:`HELD_OUT` is not learnt but measured.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets
from kdlib.training import accuracy
from kdlib.training.references import AtomReferences
from kdlib.datasets import WEIGHT
from kdlib.training.student_errors import errors_of
from kdlib.distill.plan import Plan
from kdlib.distill.labeled import Pool
from kdlib.errors import InputError
from kdlib.hipnn import Potential
from kdlib.progress import Reporter
from kdlib.teachers import Teacher

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
    reporter: Reporter | None = None,
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
    reporter
        Shows a bar over frames.

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
    pool.label(bare, teacher, reporter)
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
        ``student``: as :func:`kdlib.training.student_errors.errors_of`; ``teacher``: its ``force_rmse``.
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
