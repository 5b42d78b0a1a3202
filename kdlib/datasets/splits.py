"""Division of a dataset into parts, and identities of frames and datasets."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kdlib.datasets.reserved import PARTS, broken_information, loss_weight
from kdlib.errors import InputError


@dataclass(frozen=True)
class Split:
    """Frozen division of a dataset."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    transfer: np.ndarray
    """Indices into the list of frames, ascending."""
    seed: int
    fractions: tuple[float, float, float]
    """Seed and shares of the draw."""
    sha256: str
    """Hash of the identities in each part and of the data."""


def split(
    frames: Sequence[Atoms], fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """Divide frames by a hash of each frame's identity and the seed.

    Frames whose ``info["part"]`` prescribes a part go there (larger cells to ``transfer``, actively
    learned frames to ``train``). ``fractions`` are the shares of train, valid and test.

    Raises
    ------
    InputError
        Fractions do not add up to one, a part is empty, or a frame's information is of no use here.
    """
    shares = tuple(float(x) for x in fractions)
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise InputError(f"split: fractions {shares} must be three positive numbers adding up to 1")
    for k, atoms in enumerate(frames):
        if rule := broken_information(atoms.info):
            raise InputError(f"split: frame {k}: {rule}")
    parts = np.array([_part(atoms, shares, seed) for atoms in frames])
    indices = {part: np.flatnonzero(parts == part) for part in PARTS}
    for part in PARTS[:3]:
        if not len(indices[part]):
            raise InputError(f"split: {len(frames)} frames leave the {part} part empty")
    digest = hashlib.sha256(fingerprint(frames).encode())
    for part in PARTS:
        digest.update(json.dumps([part, [identity(frames[k]) for k in indices[part]]]).encode())
    return Split(**indices, seed=seed, fractions=shares, sha256=digest.hexdigest())


def species(frames: Sequence[Atoms]) -> tuple[str, ...]:
    """Chemical symbols of a dataset, by atomic number."""
    numbers = np.unique(np.concatenate([atoms.numbers for atoms in frames]))
    return tuple(chemical_symbols[z] for z in numbers)


def identity(atoms: Atoms) -> str:
    """Name of a frame, the same in every version of its dataset."""
    if atoms.info.get("frame") is not None:
        return str(atoms.info["frame"])
    return _digest([atoms.numbers, atoms.positions, atoms.cell.array])


def frame_numbers(frames: Sequence[Atoms]) -> np.ndarray:
    """Identities if all are numbers, otherwise positions in the list."""
    known = [atoms.info.get("frame") for atoms in frames]
    if all(isinstance(number, int | np.integer) for number in known):
        return np.array(known, dtype=int)
    return np.arange(len(frames))


def fingerprint(frames: Sequence[Atoms], labels: Sequence[str] = ("energy", "forces")) -> str:
    """sha256 over structures, the named labels (or their absence), and weights of frames."""
    arrays = []
    for atoms in frames:
        known = atoms.calc.results
        arrays += [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc]
        arrays += [np.asarray(known.get(name, ())) for name in labels]
        if (weight := loss_weight(atoms)) is not None:
            arrays.append(np.asarray(weight))
    return _digest(arrays)


def _part(atoms: Atoms, shares: tuple[float, float, float], seed: int) -> str:
    if prescribed := atoms.info.get("part"):
        return str(prescribed)
    # By identity, not by position: a frame keeps its part when others are added to the dataset.
    digest = hashlib.sha256(f"{seed}:{identity(atoms)}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    return PARTS[int(np.searchsorted(np.cumsum(shares)[:2], draw, side="right"))]


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
