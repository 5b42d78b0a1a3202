"""Labels of a frame, under the names and in the layouts that files have.

Labels are looked for among the results that ASE's readers recognize (``atoms.calc``), in
``atoms.info``, in ``atoms.arrays`` and in the data of a database's row. Five rules decide:

- Where a code reports ``energy`` and ``free_energy``, the free energy is taken: with smeared
  occupations the forces are its gradient, while ``energy`` is extrapolated to zero smearing. (In
  `al-pbe` the free energy is stored under the name ``energy``.)
- Equal values are one label, in whatever layout and under whatever name they stand: a stress may
  have 3x3 components or six (xx, yy, zz, yz, xz, xy), or be a virial, -stress x volume.
- Different values under two names, such as ``energy`` of a potential beside ``REF_energy``, are an
  error that asks for the name: no guess decides what a model learns.
- A single atom needs no forces, in no cell and in any: they are zero, since an energy does not
  change when all atoms shift together.
- A stress, a virial or atomic energies of another layout, such as virials of single atoms, are no
  labels here and are left out.

Atomic energies are kept where an ASE reader recognizes them as ``energies``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from types import MappingProxyType

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from kdlib.datasets.reserved import broken_information
from kdlib.errors import InputError
from kdlib.geometry.cells import odd_arrays, partly_occupied, unlabeled

_PREFIXES = ("REF_", "ref_", "DFT_", "dft_", "QM_", "qm_")


def _prefixed(*names: str) -> tuple[str, ...]:
    return names + tuple(prefix + name for name in names for prefix in _PREFIXES)


#: Usual names of the energy of a cell, eV.
ENERGY_NAMES = (*_prefixed("energy"), "Energy", "energy_dft", "total_energy")
#: ASE's name of the energy that is consistent with the forces.
FREE_ENERGY = "free_energy"
#: Usual names of the forces, eV/Angstrom.
FORCES_NAMES = (*_prefixed("forces", "force"), "Forces", "forces_dft", "force_dft")
#: Usual names of the stress, eV/Angstrom^3, and of the virial -stress x volume, eV.
STRESS_NAMES = _prefixed("stress")
VIRIAL_NAMES = _prefixed("virial", "virials")
#: All of these.
USUAL_NAMES = frozenset((*ENERGY_NAMES, *FORCES_NAMES, *STRESS_NAMES, *VIRIAL_NAMES))


@dataclass(frozen=True)
class Keys:
    """Names of the labels in own files; an empty one stands for all usual names."""

    energy: str = ""
    forces: str = ""
    stress: str = ""
    """With this key alone, virials are not looked at."""
    virial: str = ""
    """With this key alone, stresses are not looked at."""

    @property
    def given(self) -> frozenset[str]:
        """Names that are not empty."""
        return frozenset(astuple(self)) - {""}


@dataclass(frozen=True)
class Labeled:
    """A frame with its labels under their ASE names, and what was found but left out."""

    frame: Atoms
    left_out: tuple[str, ...]
    """Name and layout of each label that has none of the layouts known here."""


class _LayoutError(InputError):
    """A value that cannot be the label whose name it has."""


_NOTHING: Mapping[str, object] = MappingProxyType({})


def labeled(atoms: Atoms, keys: Keys | None = None, data: Mapping = _NOTHING) -> Labeled:
    """Frame with only its structure, states, information and labels.

    Constraints are dropped: a model must learn the forces on fixed atoms, too. Missing labels are
    reported by :func:`kdlib.datasets.check`.

    Parameters
    ----------
    data
        More values by name: those that a database keeps beside a frame.

    Raises
    ------
    InputError
        Labels under two names differ, a label or a state of atoms is not made of numbers, a site is
        partly occupied, or the information breaks a rule of :mod:`kdlib.datasets.reserved`.
    """
    if rule := odd_arrays(atoms) or partly_occupied(atoms) or broken_information(atoms.info):
        raise InputError(rule)
    keys = keys or Keys()
    known = dict(atoms.calc.results) if atoms.calc is not None else {}
    places = (known, atoms.info, atoms.arrays, data)
    left_out: list[str] = []
    found = {
        "energy": _energy(places, keys.energy),
        "forces": _forces(places, keys.forces, len(atoms)),
        "stress": _stress(places, keys, atoms, left_out),
        "energies": _atomic_energies(known, len(atoms), left_out),
    }
    frame, dropped = unlabeled(atoms), USUAL_NAMES | keys.given
    frame.info = {k: v for k, v in atoms.info.items() if k not in dropped}
    frame.calc = SinglePointCalculator(
        frame, **{name: value for name, value in found.items() if value is not None}
    )
    return Labeled(frame, tuple(left_out))


_Places = Sequence[Mapping[str, object]]
_Value = np.ndarray | float


def _energy(places: _Places, key: str) -> float | None:
    """Force-consistent energy of a frame, or else what ASE calls `energy`."""
    known, *others = places
    if not key and known.get(FREE_ENERGY) is not None:
        # A copy of the extrapolated energy elsewhere is no second opinion.
        others = [_without(place, "energy", known.get("energy")) for place in others]
        places = ({**known, "energy": known[FREE_ENERGY]}, *others)
    return _one(_values(places, key, ENERGY_NAMES), _scalar, "energy", "energy_key")


def _without(place: Mapping[str, object], name: str, value: object) -> Mapping[str, object]:
    return {k: v for k, v in place.items() if k != name or value is None or not np.all(v == value)}


def _forces(places: _Places, key: str, n_atoms: int) -> np.ndarray | None:
    try:
        found = _values(places, key, FORCES_NAMES)
    except InputError:
        if n_atoms != 1:
            raise
        found = []
    if not found and n_atoms == 1:
        return np.zeros((1, 3))

    def read(value: object) -> np.ndarray:
        forces = _numbers(value)
        return forces[None] if n_atoms == 1 and forces.shape == (3,) else forces

    return _one(found, read, "forces", "forces_key")


def _stress(places: _Places, keys: Keys, atoms: Atoms, left_out: list[str]) -> np.ndarray | None:
    """Stress (xx, yy, zz, yz, xz, xy), eV/Angstrom^3, positive where the cell wants to shrink."""
    if not atoms.pbc.all() or atoms.cell.rank != 3:
        return None

    def read(key: str, other: str, names: Iterable[str], label: str) -> np.ndarray | None:
        if other and not key:
            return None
        found = _there(places, (key,) if key else names)
        if not key:
            found = _readable(found, _voigt, left_out)
        return _one(found, _voigt, label, f"{label}_key")

    stress = read(keys.stress, keys.virial, STRESS_NAMES, "stress")
    virial = read(keys.virial, keys.stress, VIRIAL_NAMES, "virial")
    if virial is None:
        return stress
    from_virial = -virial / atoms.get_volume()
    if stress is not None and not np.allclose(
        stress, from_virial, rtol=1e-3, atol=1e-6, equal_nan=True
    ):
        raise InputError(
            "stress and virial disagree, the virial must be -stress x volume, in eV: choose one "
            "with stress_key or virial_key"
        )
    return from_virial


def _atomic_energies(
    known: Mapping[str, object], n_atoms: int, left_out: list[str]
) -> np.ndarray | None:
    def read(value: object) -> np.ndarray:
        energies = _numbers(value)
        if energies.size != n_atoms:
            raise _LayoutError(f"has shape {energies.shape}, must be {(n_atoms,)}")
        return energies.reshape(n_atoms)

    return _one(_readable(_there((known,), ("energies",)), read, left_out), read, "energies", "")


_Found = list[tuple[str, object]]


def _there(places: _Places, names: Iterable[str]) -> _Found:
    """Names and values, wherever they stand."""
    return [(n, place[n]) for n in names for place in places if place.get(n) is not None]


def _values(places: _Places, key: str, names: Iterable[str]) -> _Found:
    """Values under a given name, which must be there, or under the usual ones."""
    found = _there(places, (key,) if key else names)
    if key and not found:
        everything = set().union(*places) - {"numbers", "positions"}
        there = ", ".join(sorted(everything)) or "nothing else"
        raise InputError(f"has no {key!r}; it holds {there}")
    return found


def _readable(found: _Found, read: Callable[[object], _Value], left_out: list[str]) -> _Found:
    """Values that have a layout of their label; the others are noted."""
    kept = []
    for name, value in found:
        try:
            read(value)
        except _LayoutError as error:
            left_out.append(f"{name} {error}")
            continue
        except InputError:
            pass  # it is said with the name, where the value is read
        kept.append((name, value))
    return kept


def _one(
    found: _Found, read: Callable[[object], _Value], label: str, argument: str
) -> _Value | None:
    """Return the one value that is found, once or more often; None if there is none."""
    if not found:
        return None
    (first, value), *others = [(name, _read(name, value, read)) for name, value in found]
    for name, other in others:
        if _equal(value, other):
            continue
        if name == first:
            raise InputError(f"{name!r} is there twice, with different values: remove one of them")
        raise InputError(
            f"{first!r} and {name!r} are both names of {label} and differ: choose one with "
            f"{argument}"
        )
    return value


def _read(name: str, value: object, read: Callable[[object], _Value]) -> _Value:
    try:
        return read(value)
    except InputError as error:
        raise InputError(f"{name} {error}") from None


def _equal(one: _Value, other: _Value) -> bool:
    return np.shape(one) == np.shape(other) and np.allclose(
        one, other, rtol=1e-9, atol=1e-6, equal_nan=True
    )


def _numbers(value: object) -> np.ndarray:
    try:
        if np.asarray(value).dtype.kind in "bc":  # float() would make something of them
            raise TypeError
        return np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise _LayoutError(f"is not made of numbers but {str(value)[:20]!r}") from None


def _scalar(value: object) -> float:
    number = _numbers(value)
    if number.size != 1:
        raise _LayoutError(f"has shape {number.shape}, must be one number for a cell")
    return float(number.ravel()[0])


def _voigt(value: object) -> np.ndarray:
    tensor = _numbers(value)
    if tensor.size == 6 and tensor.ndim == 1:
        return tensor
    if tensor.size != 9:
        raise _LayoutError(f"has shape {tensor.shape}, must hold 6 or 9 numbers")
    tensor = tensor.reshape(3, 3)
    size = np.abs(tensor).max()
    if np.isfinite(size) and not np.allclose(tensor, tensor.T, rtol=0, atol=1e-3 * size + 1e-12):
        raise InputError("is not symmetric")
    return full_3x3_to_voigt_6_stress((tensor + tensor.T) / 2)
