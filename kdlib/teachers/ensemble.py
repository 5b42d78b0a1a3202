"""Several teachers as one: the mean of their labels, and how far they are apart."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.mixing import AverageCalculator
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib.errors import InputError
from kdlib.teachers.teacher import Teacher

_CAVEAT = (
    "spreads are root mean square deviations from the mean of the members; that of the energy "
    "holds the constants by which their references differ"
)


class Ensemble:
    """Mean of the labels of several teachers.

    Parameters
    ----------
    members
        Two teachers or more.

    Attributes
    ----------
    name
        Names of the members, joined by ``+``.
    members
        As given.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        if len(members) < 2:
            raise InputError(f"an ensemble needs two teachers or more, got {len(members)}")
        self.members = tuple(members)
        self.name = " + ".join(member.name for member in self.members)

    @property
    def atomic_energies(self) -> bool:
        """Whether every member gives atomic energies."""
        return all(member.atomic_energies for member in self.members)

    @property
    def stress(self) -> bool:
        """Whether every member gives a stress."""
        return all(member.stress for member in self.members)

    def calculator(self) -> BaseCalculator:
        """ASE calculator of the mean."""
        return AverageCalculator([member.calculator() for member in self.members])

    def label(self, atoms: Atoms) -> Atoms:
        """Copy of a configuration with the mean of the members' labels, and their spread.

        Parameters
        ----------
        atoms
            Configuration.

        Returns
        -------
        Atoms
            Labels as in :meth:`Teacher.label <kdlib.teachers.Teacher.label>`, those that every
            member gives; ``arrays["forces_spread"]`` (n_atoms,) eV/Angstrom, the root mean square
            over the members of the distance of the force vector from the mean; and
            ``info["energy_spread"]``, the standard deviation of the energy, eV/atom.

        Raises
        ------
        TeacherError
            From the first member that can't label the configuration.
        """
        labels = [member.label(atoms) for member in self.members]
        common = set.intersection(*(set(frame.calc.results) for frame in labels))
        given = {name: np.array([frame.calc.results[name] for frame in labels]) for name in common}
        mean = {name: values.mean(axis=0) for name, values in given.items()}
        frame = labels[0].copy()
        frame.info["teacher"] = self.name
        frame.info["energy_spread"] = float(given["energy"].std() / len(atoms))
        squares = ((given["forces"] - mean["forces"]) ** 2).sum(axis=2)
        frame.arrays["forces_spread"] = np.sqrt(squares.mean(axis=0))
        frame.calc = SinglePointCalculator(frame, **(mean | {"energy": float(mean["energy"])}))
        return frame

    def about(self) -> dict[str, str]:
        """What a report says: the members one after the other, then the caveat of a mean."""
        cards = [member.about() for member in self.members]
        joined = {key: " | ".join(card[key] for card in cards) for key in cards[0]}
        return joined | {"name": self.name, "caveats": f"{joined['caveats']} | {_CAVEAT}"}
