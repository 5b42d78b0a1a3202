"""Roles of the teacher-student method, and frames augmented with a teacher's atomic energies.

A role is what a model learns from: the loss weights over the epochs, and with them whether a
teacher's atomic energies are among the targets. Everything else - data split, optimizer, number of
steps, minibatch order, initial weights at equal architecture - is the same for all roles of a seed.
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
    schedule: Callable[[int], WeightSchedule]
    """Maximum number of epochs -> loss weights over the epochs."""
    size: str
    """Architecture: ``"teacher"``, or ``"student"`` for those studied."""
    why: str
    """Origin of the role, for tables."""

    @property
    def learns_from_teacher(self) -> bool:
        """Whether training needs a teacher's atomic energies."""
        return self.schedule(1000).needs_atomic_energies


def _constant(**weights: float) -> Callable[[int], WeightSchedule]:
    return lambda max_epochs: WeightSchedule.constant(LossWeights(**weights))


#: The paper's roles and the controls that it lacks, by name.
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
            "not in the paper: the student's force weight without atomic energies",
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
            "not in the paper: Table 1 without atomic energies",
        ),
    )
}


def role(name: str) -> Role:
    """Role by name."""
    if name not in ROLES:
        raise InputError(f"role {name!r} is none of {', '.join(ROLES)}")
    return ROLES[name]


def augment(teacher: Potential | BaseCalculator, frames: Sequence[Atoms]) -> list[Atoms]:
    """Copies of frames with a teacher's atomic energies beside their own labels (eq. 4).

    Their calculators hold ``energies`` (n_atoms,), eV. An ASE calculator needs that property.

    Raises
    ------
    InputError
        The teacher has no atomic energies, or returns a value that is not finite.
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
