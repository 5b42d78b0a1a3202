"""Rules that every frame must obey before anything learns from it."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms

from kdlib.errors import InputError
from kdlib.geometry.cells import OVERLAP, closest_pair, half_open

#: A larger force (eV/Angstrom) on an atom means a failed calculation or another unit.
LARGEST_FORCE = 1e3
#: Forces whose sum over the atoms exceeds this (eV/Angstrom for each atom) are not the gradient of
#: an energy, which does not change when all atoms shift together. The usual reason is frozen atoms
#: with forces set to zero; plane waves and grids leave about 0.01.
NET_FORCE = 0.1
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
    seen: dict[bytes, int] = {}
    for k, atoms in enumerate(frames):
        if rule := broken_rule(atoms):
            yield k, rule
            continue
        # A repeated frame could land in the training and in the test part.
        first = seen.setdefault(_configuration(atoms), k)
        if first != k:
            name = where[first] if where else f"frame {first}"
            difference = _difference(atoms, frames[first])
            yield k, f"is the configuration of {name} again{difference}; remove one of them"


def broken_rule(atoms: Atoms) -> str | None:
    """Rule that a single frame breaks, as the end of a sentence; None if there is none."""
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
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        return "positions or cell are not finite"
    if rule := half_open(atoms):
        return rule
    if atoms.pbc.all() and abs(np.linalg.det(atoms.cell.array)) < 1e-6:
        return "is periodic without a cell"
    return _too_close(atoms) or _impossible_forces(np.asarray(known["forces"]))


def _too_close(atoms: Atoms) -> str | None:
    distance = closest_pair(atoms, within=_REACH).distance
    if distance >= OVERLAP:
        return None
    return f"two atoms are {distance:.2f} Angstrom apart, closer than {OVERLAP}"


def _impossible_forces(forces: np.ndarray) -> str | None:
    largest = np.linalg.norm(forces, axis=1).max()
    if largest > LARGEST_FORCE:
        return f"has a force of {largest:.3g} eV/Angstrom, larger than {LARGEST_FORCE:g}"
    net = np.linalg.norm(forces.sum(axis=0)) / len(forces)
    if net > NET_FORCE:
        return (
            f"its forces add up to {net:.3g} eV/Angstrom for each atom, more than {NET_FORCE:g}: "
            "they are not the gradient of an energy (frozen atoms?)"
        )
    return None


def _configuration(atoms: Atoms) -> bytes:
    digest = hashlib.sha256()
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _difference(atoms: Atoms, other: Atoms) -> str:
    """How the energy of a repeated frame differs, if it does."""
    now, then = (frame.calc.results["energy"] for frame in (atoms, other))
    if np.isclose(now, then, rtol=0, atol=1e-3 * len(atoms)):
        return ""
    return f" with another energy ({now:.6g} eV, not {then:.6g})"
