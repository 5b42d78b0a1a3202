"""Division of a dataset into parts, and identities of frames and datasets.

A frame's part follows from a hash of its identity, so it does not change when the dataset grows,
but training alone holds the extremes (:class:`Extremes`).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kdlib.datasets.reserved import PARTS, broken_information, loss_weight
from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.geometry.cells import closest_pair, mass_density


@dataclass(frozen=True)
class Extremes:
    """Bounds of the ordinary frames; those beyond belong to training.

    Validation and test then ask for interpolation. With the extremes spread by chance, one frame
    whose closest pair is far below all others can have a force error of 50 times the median, and
    selection, learning rate and verdicts follow that frame.
    """

    closest_pair: float
    """Smallest distance of two atoms in an ordinary frame, Angstrom."""
    density: tuple[float, float]
    """Mass densities of ordinary frames, g/cm^3; isolated molecules have none."""

    @classmethod
    def of(cls, frames: Sequence[Atoms], share: float = 0.01) -> "Extremes":
        """Bounds with this share of the frames beyond each of them."""
        pairs = np.array([closest_pair(atoms).distance for atoms in frames])
        pairs = pairs[np.isfinite(pairs)]
        densities = [mass_density(atoms) for atoms in frames if atoms.pbc.all()]

        # Bounds are values of frames, so that frames of equal density are all ordinary.
        def quantile(values: Sequence[float], at: float, method: str, without: float) -> float:
            return float(np.quantile(values, at, method=method)) if len(values) else without

        low = quantile(densities, share, "higher", 0.0)
        high = quantile(densities, 1 - share, "lower", np.inf)
        return cls(quantile(pairs, share, "higher", 0.0), (low, high))

    def hold(self, atoms: Atoms) -> bool:
        """Whether a frame is beyond a bound."""
        low, high = self.density
        if atoms.pbc.all() and not low <= mass_density(atoms) <= high:
            return True
        return closest_pair(atoms, within=self.closest_pair).distance < self.closest_pair


@dataclass(frozen=True)
class Split:
    """Frozen division of a dataset."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    compressed: np.ndarray
    transfer: np.ndarray
    """Indices into the list of frames, ascending."""
    seed: int
    fractions: tuple[float, float, float]
    """Seed and shares of the draw."""
    sha256: str
    """Hash of the identities in each part and of the data."""
    extremes: Extremes | None = None
    """Bounds beyond which frames belong to training."""
    moved: tuple[str, ...] = ()
    """Frames that the hash drew for validation or test, but that are beyond the bounds."""

    def parts(self, frames: Sequence[Atoms]) -> dict[str, list[Atoms]]:
        """Frames of each part, by its name in :data:`PARTS`."""
        return {part: [frames[k] for k in getattr(self, part)] for part in PARTS}


def split(
    frames: Sequence[Atoms],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    extremes: Extremes | None = None,
) -> Split:
    """Divide frames by a hash of each frame's identity and the seed.

    Frames whose ``info["part"]`` prescribes a part go there (larger cells to ``transfer``, actively
    learned frames to ``train``).

    Parameters
    ----------
    fractions
        Shares of train, valid and test.
    extremes
        Frames beyond these bounds that the hash draws for validation or test go to training.

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
    moved = [] if extremes is None else _beyond(frames, parts, extremes)
    parts[moved] = "train"
    indices = {part: np.flatnonzero(parts == part) for part in PARTS}
    for part in PARTS[:3]:
        if not len(indices[part]):
            why = ", since training keeps the extremes" if moved else ""
            raise InputError(f"split: {len(frames)} frames leave the {part} part empty{why}")
    digest = hashlib.sha256(fingerprint(frames).encode())
    for part in PARTS:
        digest.update(json.dumps([part, [identity(frames[k]) for k in indices[part]]]).encode())
    return Split(
        **indices, seed=seed, fractions=shares, sha256=digest.hexdigest(),
        extremes=extremes, moved=tuple(identity(frames[k]) for k in moved),
    )  # fmt: skip


def draw(atoms: Atoms, seed: int = 0) -> float:
    """Number from 0 to 1 that decides a frame's part.

    It follows from the identity, not the position: a frame keeps its part when others are added.
    """
    digest = hashlib.sha256(f"{seed}:{identity(atoms)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def kept_extremes(frames: Sequence[Atoms], path: str | Path) -> Extremes | None:
    """Bounds of a dataset, computed once and kept in a JSON file, so that added frames move none.

    None, and no file, for a dataset that prescribes parts of its own: its bounds are in its card.
    Frames of other species than those that the file was made for get new bounds.
    """
    path, system = Path(path), list(species(frames))
    if any("part" in atoms.info for atoms in frames):
        return None
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.get("species") != system:
        known = {"species": system, **asdict(Extremes.of(frames))}
        with replacing(path) as part:
            part.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return Extremes(known["closest_pair"], tuple(known["density"]))


def _beyond(frames: Sequence[Atoms], parts: np.ndarray, extremes: Extremes) -> list[int]:
    """Positions of the frames that the hash drew for validation or test, but training must hold."""
    drawn = [k for k in np.flatnonzero(parts != "train") if "part" not in frames[k].info]
    return [int(k) for k in drawn if extremes.hold(frames[k])]


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
    cumulated = np.cumsum(shares)[:2]
    return PARTS[int(np.searchsorted(cumulated, draw(atoms, seed), side="right"))]


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
