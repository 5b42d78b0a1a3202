"""Roles of the teacher-student method, and the atomic energies that a teacher hands on.

A role is what a model learns from: which loss weights over the epochs, and whether a teacher's
atomic energies are among the targets. Everything else - data split, optimizer, number of steps,
minibatch order, initial weights at equal architecture - is the same for all roles of a seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from kdlib.datasets import with_energies
from kdlib.errors import InputError
from kdlib.hipnn import Potential
from kdlib.training.losses import TABLE_1, LossWeights, WeightSchedule


@dataclass(frozen=True)
class Role:
    """What a model learns from."""

    name: str
    """As in result files."""
    schedule: Callable[[int], WeightSchedule]
    """Epoch cap -> loss weights over the epochs."""
    size: str
    """``"teacher"`` for the teacher's architecture, ``"student"`` for the architectures studied."""
    why: str
    """Where the role comes from, for tables."""

    @property
    def learns_from_teacher(self) -> bool:
        """Whether training needs a teacher's atomic energies."""
        return self.schedule(1000).needs_atomic_energies


def _constant(**weights: float) -> Callable[[int], WeightSchedule]:
    return lambda max_epochs: WeightSchedule.constant(LossWeights(**weights))


#: The paper's roles and the controls that it leaves out, by name.
ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role("teacher", _constant(energy=1, force=10), "teacher", "paper 2.3, A.1"),
        Role(
            "student", _constant(energy=1, force=30, atomic_energy=100), "student", "paper 2.3, A.1"
        ),
        Role("control", _constant(energy=1, force=10), "student", "paper 2.3, A.1"),
        Role(
            "matched_control",
            _constant(energy=1, force=30),
            "student",
            "not in the paper: the student's force weight without its labels",
        ),
        Role(
            "total_energy_control",
            _constant(energy=1, force=30, total_energy=100),
            "student",
            "not in the paper: the teacher's total energy without its partition",
        ),
        Role(
            "same_size_student",
            _constant(energy=1, force=30, atomic_energy=100),
            "teacher",
            "paper 3.5: static loss at the teacher's size",
        ),
        Role("born_again", TABLE_1.scaled, "teacher", "paper 3.5, Table 1"),
        Role(
            "born_again_control",
            TABLE_1.without_atomic_energies().scaled,
            "teacher",
            "not in the paper: Table 1 without the labels",
        ),
    )
}


def role(name: str) -> Role:
    """Role by name."""
    if name not in ROLES:
        raise InputError(f"role {name!r} is none of {', '.join(ROLES)}")
    return ROLES[name]


def augment(teacher: Potential | BaseCalculator, frames: Sequence[Atoms]) -> list[Atoms]:
    """Frames that carry a teacher's atomic energies beside their own labels (eq. 4).

    Parameters
    ----------
    teacher
        A trained potential, or any ASE calculator with the property ``energies``.

    Returns
    -------
    list[Atoms]
        Copies whose calculators hold ``energies`` (n_atoms,), eV.

    Raises
    ------
    InputError
        When the teacher has no atomic energies or returns a value that is not finite.
    """
    if isinstance(teacher, Potential):
        return teacher.augment(frames)
    return with_energies(frames, [_from_calculator(teacher, atoms) for atoms in frames])


def _from_calculator(calculator: BaseCalculator, atoms: Atoms) -> np.ndarray:
    copy = atoms.copy()
    copy.calc = calculator
    try:
        return np.asarray(copy.get_potential_energies(), dtype=float)
    except (PropertyNotImplementedError, NotImplementedError):
        name = type(calculator).__name__
        raise InputError(f"{name}: this ASE calculator gives no atomic energies") from None
