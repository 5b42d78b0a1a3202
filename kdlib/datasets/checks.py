"""Rules that every frame must obey before anything learns from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kdlib import units
from kdlib.datasets.reserved import broken_information
from kdlib.errors import InputError
from kdlib.geometry.cells import (
    OVERLAP,
    bare,
    closest_pair,
    digest,
    half_open,
    lattice,
    no_elements,
)
from kdlib.geometry.neighbors import spans


@dataclass(frozen=True)
class Limits:
    """Largest sensible values of labels: a larger one is a failed calculation or another unit."""

    energy: float = 1e6
    """eV/atom, of either sign, also of an atomic energy: uranium with all its electrons has -0.8e6.
    """
    energy_spread: float = 500.0
    """eV/atom, between an energy and what the other frames say for its composition: atoms with
    nearly the largest force repel each other by less.
    """
    force: float = 1e3
    """eV/Angstrom, on an atom."""
    net_force: float = 0.1
    """eV/Angstrom for each atom, of the sum over the atoms. Forces with a larger sum are not the
    gradient of an energy, which does not change when all atoms shift together. The usual reason is
    frozen atoms with forces set to zero; plane waves and grids leave about 0.01.
    """
    stress: float = 10.0
    """eV/Angstrom^3, of a component: 1.6 TPa, four times the pressure in the center of the Earth.
    """
    usual_stress: float = 100 * units.GPA
    """eV/Angstrom^3: units in which a stress that is too large would be no larger are named as the
    likely ones.
    """


LIMITS = Limits()
#: Labels that a frame may lack, but that are checked where it has them.
_OPTIONAL = ("stress", "energies")
#: Range of the search for close pairs, Angstrom; 0.5 would need tiny bins and 20 times longer.
_REACH = 2.0


def check(frames: Sequence[Atoms], source: str) -> list[Atoms]:
    """Return the frames if all of them obey the rules for training data.

    Raises
    ------
    InputError
        A frame breaks a rule; names ``source`` (file or dataset), frame and rule.
    """
    if not frames:
        raise InputError(f"{source}: holds no frames")
    for k, rule in broken(frames):
        raise InputError(f"{source}: frame {k}: {rule}")
    for k, atoms in enumerate(frames):
        atoms.info.setdefault("frame", k)
    return list(frames)


def broken(frames: Sequence[Atoms], where: Sequence[str] = ()) -> Iterator[tuple[int, str]]:
    """Yield position and rule of each frame that breaks one; ``where`` names frames in messages."""
    seen: dict[str, int] = {}
    sound = []
    for k, atoms in enumerate(frames):
        if rule := broken_rule(atoms) or broken_information(atoms.info):
            yield k, rule
            continue
        # A repeated frame could land in the training and in the test part; states of its atoms,
        # which no model here sees, do not make it another one.
        first = seen.setdefault(digest(bare(atoms)), k)
        if first != k:
            name = where[first] if where else f"frame {first}"
            difference = _difference(atoms, frames[first])
            yield k, f"is the configuration of {name} again{difference}; remove one of them"
            continue
        sound.append(k)
    yield from _apart(frames, sound)


def broken_rule(atoms: Atoms) -> str | None:
    """Rule that a single frame breaks, as the end of a sentence; None if there is none."""
    if not len(atoms):
        return "holds no atoms"
    known = atoms.calc.results if atoms.calc is not None else {}
    shapes = {"energy": (), "forces": (n := len(atoms), 3), "stress": (6,), "energies": (n,)}
    for label, shape in shapes.items():
        if known.get(label) is None:
            if label in _OPTIONAL:
                continue
            return f"has no {label}"
        if np.shape(known[label]) != shape:
            return f"{label} has shape {np.shape(known[label])}, must be {shape}"
        if not np.isfinite(known[label]).all():
            return f"{label} is not finite"
    if not np.isfinite(atoms.positions).all() or not np.isfinite(lattice(atoms)).all():
        return "positions or cell are not finite"
    if rule := half_open(atoms):
        return rule
    if not spans(atoms.cell.array, atoms.pbc):
        return "is periodic without a cell"
    rules = (no_elements, _too_close, _impossible_energies, _impossible_forces, _impossible_stress)
    return next((rule for check in rules if (rule := check(atoms))), None)


def _too_close(atoms: Atoms) -> str | None:
    distance = closest_pair(atoms, within=_REACH).distance
    if distance >= OVERLAP:
        return None
    return f"two atoms are {distance:.2f} Angstrom apart, closer than {OVERLAP}"


def _impossible_energies(atoms: Atoms) -> str | None:
    results = atoms.calc.results
    values = {"energy": results["energy"] / len(atoms), "atomic energy": results.get("energies")}
    for label, value in values.items():
        largest = 0.0 if value is None else np.abs(value).max()
        if largest > LIMITS.energy:
            return (
                f"has an {label} of {largest:.3g} eV/atom in size, larger than {LIMITS.energy:g} "
                "(a failed calculation, or J/mol?)"
            )
    return None


def _impossible_forces(atoms: Atoms) -> str | None:
    forces = np.asarray(atoms.calc.results["forces"])
    largest = np.linalg.norm(forces, axis=1).max()
    if largest > LIMITS.force:
        return (
            f"has a force of {largest:.3g} eV/Angstrom, larger than {LIMITS.force:g} (a failed "
            "calculation, or meV/Angstrom?)"
        )
    net = np.linalg.norm(forces.sum(axis=0)) / len(forces)
    if net > LIMITS.net_force:
        return (
            f"its forces add up to {net:.3g} eV/Angstrom for each atom, more than "
            f"{LIMITS.net_force:g}: they are not the gradient of an energy (frozen atoms?)"
        )
    return None


def _impossible_stress(atoms: Atoms) -> str | None:
    stress = atoms.calc.results.get("stress")
    if stress is None or not atoms.pbc.all():
        return None
    largest = np.abs(stress).max()
    if largest <= LIMITS.stress:
        return None
    others = {
        "GPa": units.GPA,
        "a virial in eV": 1 / atoms.get_volume(),
        "kbar": 1e3 * units.GPA_PER_BAR * units.GPA,
        "bar": units.GPA_PER_BAR * units.GPA,
    }
    likely = [name for name, unit in others.items() if largest * unit <= LIMITS.usual_stress]
    return (
        f"has a stress of {largest:.3g} eV/Angstrom^3 in size, larger than {LIMITS.stress:g} ("
        f"{likely[0] if likely else 'a failed calculation'}?)"
    )


def _apart(frames: Sequence[Atoms], sound: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Frames whose energy is far from the least-squares fit of the others to the composition."""
    counts = [np.bincount(frames[k].numbers, minlength=len(chemical_symbols)) for k in sound]
    shares = np.array([count / count.sum() for count in counts]).reshape(-1, len(chemical_symbols))
    shares = shares[:, shares.any(axis=0)]
    energies = np.array([frames[k].calc.results["energy"] / len(frames[k]) for k in sound])
    left = np.arange(len(sound))
    while len(left):
        fit = np.linalg.lstsq(shares[left], energies[left], rcond=None)[0]
        errors = np.abs(energies[left] - shares[left] @ fit)
        worst = int(errors.argmax())
        if errors[worst] <= LIMITS.energy_spread:
            return
        # The fit without the frame says how far it is from the others.
        others = np.delete(left, worst)
        fit = np.linalg.lstsq(shares[others], energies[others], rcond=None)[0]
        distance = abs(energies[left[worst]] - shares[left[worst]] @ fit)
        yield (
            sound[left[worst]],
            f"its energy is {distance:.3g} eV/atom from what the other frames say for its "
            f"composition, more than {LIMITS.energy_spread:g} (another unit or method, or not the "
            "energy of the whole cell?)",
        )
        left = others


def _difference(atoms: Atoms, other: Atoms) -> str:
    """How the energy of a repeated frame differs, if it does."""
    now, then = (frame.calc.results["energy"] for frame in (atoms, other))
    if np.isclose(now, then, rtol=0, atol=1e-3 * len(atoms)):
        return ""
    return f" with another energy ({now:.6g} eV, not {then:.6g})"
