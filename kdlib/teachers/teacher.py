"""A teacher: one or several ASE calculators whose labels are checked one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.mixing import AverageCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from kdlib.errors import InputError
from kdlib.results import hashes
from kdlib.teachers.packages import quiet, version_of

#: Atomic energies may miss the energy by this share of the sum of their magnitudes, the rounding of
#: float32 in cells of some thousand atoms. The difference is then spread evenly over the atoms.
ROUNDING = 1e-5


class TeacherError(RuntimeError):
    """A teacher can't label a configuration, which the caller may skip.

    The message names teacher, frame and rule.
    """


class BadLabels(TeacherError):
    """The teacher answered with what no student can learn from, and would do so again."""


@dataclass(frozen=True)
class Card:
    """Facts about a teacher for a report."""

    package: str = ""
    """Distribution of the calculator; by default that of its class."""
    atomic_energies: str = "property energies of the ASE calculator"
    """Origin of the atomic energies."""
    caveats: tuple[str, ...] = ()
    """Facts that users of the labels must know."""
    files: tuple[str, ...] = ()
    """Files that the labels depend on beside the package."""
    is_complete: bool = True
    """Whether nothing but package and files decides the labels; nobody knows of a factory."""


class Teacher:
    """Labels of one ASE calculator.

    The calculator's word on its properties counts until the first label: atomic energies that do
    not add up to the energy there are no partition of it, and are left out from then on.

    Attributes
    ----------
    name
        Name in reports and in ``info["teacher"]``.
    stress
        Whether periodic configurations get a stress.
    """

    def __init__(self, name: str, calculator: BaseCalculator, card: Card | None = None) -> None:
        offered = getattr(calculator, "implemented_properties", None)
        if isinstance(calculator, type) or offered is None or not hasattr(calculator, "get_forces"):
            raise InputError(f"teacher {name!r}: {_kind(calculator)} is not an ASE calculator")
        if missing := {"energy", "forces"} - set(offered):
            raise InputError(f"teacher {name!r}: gives no {' and no '.join(sorted(missing))}")
        self.name, self.stress = name, "stress" in offered
        self._calculator, self._card = calculator, card or Card()
        self._unpartitioned = "" if "energies" in offered else "the calculator has none"
        self._tried = False

    @property
    def atomic_energies(self) -> bool:
        """Whether the teacher gives atomic energies that add up to its energy."""
        return not self._unpartitioned

    def calculator(self) -> BaseCalculator:
        """ASE calculator for MD and timings; not a copy."""
        return self._calculator

    def label(self, atoms: Atoms) -> Atoms:
        """Copy of a configuration with the teacher's labels.

        Constraints are dropped: a model must learn the forces on fixed atoms.

        Returns
        -------
        Atoms
            Its calculator holds ``energy`` (eV, consistent with the forces), ``forces`` (n_atoms,
            3) eV/Angstrom, ``stress`` (xx, yy, zz, yz, xz, xy) eV/Angstrom^3 if periodic, and
            ``energies`` (n_atoms,) eV, which add up to ``energy``.

        Raises
        ------
        BadLabels
            The labels are not finite numbers of the right shape, or the atomic energies no longer
            add up to the energy.
        TeacherError
            The calculator failed; asked again, it may have an answer.
        """
        try:
            results = self._evaluate(atoms)
        except Exception as error:
            self._forget()  # or ASE would take the configuration for known
            reason = next(iter(str(error).splitlines()), "")
            rule = f"{type(error).__name__}: {reason}"
            raise TeacherError(self._fault(atoms, rule)) from error
        if rule := _broken(results, len(atoms)):
            raise BadLabels(self._fault(atoms, rule))
        if rule := _no_partition(results, len(atoms)):
            finite = np.isfinite(results["energies"]).all()
            if self._tried or (results["energies"].shape == (len(atoms),) and not finite):
                raise BadLabels(self._fault(atoms, rule))
            self._unpartitioned = rule
            del results["energies"]
        self._tried = True
        return _labeled(atoms, results, self.name)

    @property
    def origin(self) -> dict[str, str]:
        """What the labels depend on: calculator, version of its package, sha256 of its files."""
        files = {path: hashes.file(Path(path)) for path in self._card.files if Path(path).is_file()}
        return {f"{self.name}, {type(self._calculator).__name__}": self._package} | files

    @property
    def is_traceable(self) -> bool:
        """Whether another teacher of this name must differ in its :attr:`origin`."""
        return self._card.is_complete

    @property
    def _package(self) -> str:
        package = self._card.package or type(self._calculator).__module__.partition(".")[0]
        return f"{package} {version_of(package)}".strip()

    def about(self) -> dict[str, str]:
        """Facts about the teacher for a report."""
        partition = f"none: {self._unpartitioned}"
        return {
            "name": self.name,
            "package": self._package,
            "calculator": type(self._calculator).__name__,
            "atomic energies": self._card.atomic_energies if self.atomic_energies else partition,
            "stress": "of periodic configurations" if self.stress else "none",
            "caveats": "; ".join(self._card.caveats),
        }

    def _evaluate(self, atoms: Atoms) -> dict[str, np.ndarray]:
        bare = atoms.copy()
        bare.set_constraint()
        self._forget()  # ASE sees no change of tags, or of a charge in info
        with quiet():
            bare.calc = self._calculator
            results = {"forces": bare.get_forces(), "energy": _energy(bare)}
            if self.stress and bare.pbc.all():
                try:
                    results["stress"] = _stress(bare)
                except NotImplementedError:  # ASE's own error for this is one, too
                    self.stress = False
            if self.atomic_energies:
                try:
                    results["energies"] = bare.get_potential_energies()
                except NotImplementedError:
                    self._unpartitioned = "the calculator has none"
        return {name: np.array(value, dtype=float) for name, value in results.items()}

    def _forget(self) -> None:
        if hasattr(self._calculator, "reset"):
            self._calculator.reset()

    def _fault(self, atoms: Atoms, rule: str) -> str:
        frame = atoms.info.get("frame", atoms.get_chemical_formula())
        return f"teacher {self.name!r}: frame {frame}: {rule}"


def _kind(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def _energy(atoms: Atoms) -> float:
    """Energy consistent with the forces: the free energy of smeared electrons, if given."""
    try:
        return atoms.get_potential_energy(force_consistent=True)
    except NotImplementedError:
        return atoms.get_potential_energy()


def _stress(atoms: Atoms) -> np.ndarray:
    """Stress (xx, yy, zz, yz, xz, xy), from a calculator that gives these or the matrix."""
    stress = np.array(atoms.calc.get_stress(atoms), dtype=float)
    return full_3x3_to_voigt_6_stress(stress) if stress.shape == (3, 3) else stress


def _broken(results: dict[str, np.ndarray], n_atoms: int) -> str | None:
    """Rule that energy, forces or stress break, as the end of a sentence; None if there is none."""
    for name, shape in {"energy": (), "forces": (n_atoms, 3), "stress": (6,)}.items():
        if name not in results:
            continue
        if results[name].shape != shape:
            return f"{name} has shape {results[name].shape}, must be {shape}"
        if not np.isfinite(results[name]).all():
            return f"{name} is not finite"
    return None


def _no_partition(results: dict[str, np.ndarray], n_atoms: int) -> str | None:
    """Why atomic energies are no partition of the energy; None if they are, or if there are none.

    The rounding of a partition's sum is spread evenly over the atoms.
    """
    energies = results.get("energies")
    if energies is None:
        return None
    if energies.shape != (n_atoms,):
        return f"atomic energies have shape {energies.shape}, must be {(n_atoms,)}"
    if not np.isfinite(energies).all():
        return "atomic energies are not finite"
    missing = float(results["energy"] - energies.sum())
    if abs(missing) > ROUNDING * np.abs(energies).sum() + 1e-9:
        return f"atomic energies add up to {energies.sum():.6g} eV, not {results['energy']:.6g}"
    results["energies"] = energies + missing / n_atoms
    return None


def _labeled(atoms: Atoms, results: dict[str, np.ndarray], teacher: str) -> Atoms:
    frame = atoms.copy()
    frame.set_constraint()
    frame.info["teacher"] = teacher
    frame.calc = SinglePointCalculator(frame, **(results | {"energy": float(results["energy"])}))
    return frame


_CAVEAT = (
    "spreads are root mean square deviations from the mean of the members; that of the energy "
    "holds the constants by which their references differ"
)


class Ensemble:
    """Mean of the labels of two or more teachers.

    Attributes
    ----------
    name
        Names of the members, joined by ``+``.
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

    @property
    def origin(self) -> dict[str, str]:
        """What the labels of all members depend on."""
        return {key: value for member in self.members for key, value in member.origin.items()}

    @property
    def is_traceable(self) -> bool:
        """Whether every member is."""
        return all(member.is_traceable for member in self.members)

    def calculator(self) -> BaseCalculator:
        """ASE calculator of the mean."""
        return AverageCalculator([member.calculator() for member in self.members])

    def label(self, atoms: Atoms) -> Atoms:
        """Copy of a configuration with the mean of the members' labels, and their spread.

        Returns
        -------
        Atoms
            Those labels of :meth:`Teacher.label` that every member gives;
            ``arrays["forces_spread"]`` (n_atoms,) eV/Angstrom, the root mean square over the
            members of the distance of the force vector from the mean; and
            ``info["energy_spread"]``, the standard deviation of the energy, eV/atom.

        Raises
        ------
        TeacherError
            A member can't label the configuration.
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
        """Facts for a report: those of all members, then the caveat of a mean."""
        cards = [member.about() for member in self.members]
        joined = {key: " | ".join(card[key] for card in cards) for key in cards[0]}
        return joined | {"name": self.name, "caveats": f"{joined['caveats']} | {_CAVEAT}"}
