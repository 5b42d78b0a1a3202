"""Reference data: the registry, loading, checking and splitting.

A frame is an ``ase.Atoms`` whose calculator holds ``energy`` (eV per cell, consistent with the
forces) and ``forces`` (eV/Angstrom). Energies are never shifted: the energy of isolated atoms lives
in the model.
"""

import hashlib
import io
import json
import lzma
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kdlib.errors import InputError
from kdlib.neighbors import neighbor_pairs

#: Two atoms closer than this (Angstrom) are a broken frame, not compressed matter.
CLOSEST_PAIR = 0.5
#: Parts of a split; ``transfer`` holds frames set apart by the dataset itself (larger cells).
PARTS = ("train", "valid", "test", "transfer")


def names() -> list[str]:
    """Datasets that :func:`load` knows by name."""
    return sorted(
        entry.name.removesuffix(".json")
        for entry in _data_folder().iterdir()
        if entry.name.endswith(".json")
    )


def load(name_or_path: str | Path) -> list[Atoms]:
    """Frames of a registered dataset, or of a file that ASE reads, checked one by one.

    Parameters
    ----------
    name_or_path
        ``"al-pbe"`` or the path of an extxyz file, ASE database, ...

    Returns
    -------
    list[Atoms]
        ``info["frame"]`` is the frame's identity; ``info["part"]``, where present, the part that
        the dataset itself prescribes.

    Raises
    ------
    InputError
        Naming file, frame and rule, when a file is missing or altered or a frame can't be right.
    """
    if str(name_or_path) in names():
        return _load_registered(str(name_or_path))
    path = Path(name_or_path)
    if not path.is_file():
        raise InputError(f"{path}: neither a file nor one of the datasets {', '.join(names())}")
    return check(_read(path), str(path))


def check(frames: Sequence[Atoms], source: str) -> list[Atoms]:
    """Return the frames when every one of them obeys the rules for training data.

    Parameters
    ----------
    frames
        Labelled configurations.
    source
        File or dataset that error messages name.
    """
    if not frames:
        raise InputError(f"{source}: holds no frames")
    for k, atoms in enumerate(frames):
        atoms.info.setdefault("frame", k)
        if broken := _broken_rule(atoms):
            raise InputError(f"{source}: frame {k}: {broken}")
    return list(frames)


def card(name: str) -> str:
    """Dataset card as text: how the data were made, what they hold, how to cite them."""
    entry = _entry(name)
    frames = load(name)
    counts = Counter(str(a.info.get("phase", "unknown")) for a in frames)
    sizes = sorted({len(a) for a in frames})
    lines = [f"{name} - {entry['title']}", ""]
    lines += [f"{key:<12} {entry[key]}" for key in entry if key not in ("title", "file")]
    lines += [
        f"{'frames':<12} {len(frames)}: "
        + ", ".join(f"{n} {phase}" for phase, n in sorted(counts.items())),
        f"{'atoms':<12} {sum(len(a) for a in frames)} in cells of {sizes[0]} to {sizes[-1]}",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Split:
    """Frozen division of a dataset.

    Attributes
    ----------
    train, valid, test, transfer
        Indices into the list of frames, ascending.
    seed, fractions
        What the division was drawn with.
    sha256
        Over the identities in each part and the data themselves.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    transfer: np.ndarray
    seed: int
    fractions: tuple[float, float, float]
    sha256: str


def split(
    frames: Sequence[Atoms], fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> Split:
    """Divide frames by a hash of each frame's identity and the seed.

    A frame never changes its part when others are added. Frames whose ``info["part"]`` prescribes
    a part go there (larger cells to ``transfer``, actively learned frames to ``train``).

    Parameters
    ----------
    frames
        As :func:`load` returns them.
    fractions
        Shares of train, valid and test; they must add up to one.
    seed
        Another seed is another split.
    """
    shares = tuple(float(x) for x in fractions)
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise InputError(f"split: fractions {shares} must be three positive numbers adding up to 1")
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
    """Name of a frame within its dataset, the same in every version of it."""
    if "frame" in atoms.info:
        return str(atoms.info["frame"])
    return _digest([atoms.numbers, atoms.positions, atoms.cell.array])


def frame_numbers(frames: Sequence[Atoms]) -> np.ndarray:
    """Identities as numbers where they are numbers, otherwise positions in the list."""
    known = [atoms.info.get("frame") for atoms in frames]
    if all(isinstance(number, int | np.integer) for number in known):
        return np.array(known, dtype=int)
    return np.arange(len(frames))


def fingerprint(frames: Sequence[Atoms]) -> str:
    """sha256 over structures, energies and forces."""
    arrays = []
    for atoms in frames:
        known = atoms.calc.results
        arrays += [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc]
        arrays += [np.asarray(known["energy"]), np.asarray(known["forces"])]
    return _digest(arrays)


def write_packed(frames: Sequence[Atoms], path: Path) -> str:
    """Write frames as one xz-compressed extxyz file and return its sha256."""
    text = io.StringIO()
    ase.io.write(text, list(frames), format="extxyz")
    packed = lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(packed)
    return hashlib.sha256(packed).hexdigest()


def _data_folder() -> resources.abc.Traversable:
    return resources.files("kdlib") / "data"


def _entry(name: str) -> dict:
    if name not in names():
        raise InputError(f"{name}: not one of the datasets {', '.join(names())}")
    return json.loads((_data_folder() / f"{name}.json").read_text())


def _load_registered(name: str) -> list[Atoms]:
    entry = _entry(name)
    packed = (_data_folder() / entry["file"]).read_bytes()
    if hashlib.sha256(packed).hexdigest() != entry["sha256"]:
        raise InputError(f"{entry['file']}: altered or truncated, its sha256 is not the card's")
    frames = ase.io.read(io.StringIO(lzma.decompress(packed).decode()), ":", format="extxyz")
    return check(frames, entry["file"])


def _read(path: Path) -> list[Atoms]:
    frames = []
    try:
        for atoms in ase.io.iread(path):
            frames.append(atoms)  # noqa: PERF402 - the count names the frame that fails
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: frame {len(frames)}: ASE cannot read it ({reason})") from error
    return frames


def _broken_rule(atoms: Atoms) -> str | None:
    known = atoms.calc.results if atoms.calc is not None else {}
    for label, shape in (("energy", ()), ("forces", (len(atoms), 3))):
        if known.get(label) is None:
            return f"has no {label}"
        if np.shape(known[label]) != shape:
            return f"{label} has shape {np.shape(known[label])}, must be {shape}"
        if not np.isfinite(known[label]).all():
            return f"{label} is not finite"
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        return "positions or cell are not finite"
    if atoms.pbc.any() and not atoms.pbc.all():
        return "is periodic along some cell vectors only, must be along all or none"
    if atoms.pbc.all() and abs(np.linalg.det(atoms.cell.array)) < 1e-6:
        return "is periodic without a cell"
    return _too_close(atoms)


def _too_close(atoms: Atoms) -> str | None:
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, CLOSEST_PAIR)
    if not len(pairs):
        return None
    distance = np.linalg.norm(pairs.vectors(atoms.positions, atoms.cell.array), axis=1).min()
    return f"two atoms are {distance:.2f} Angstrom apart, closer than {CLOSEST_PAIR}"


def _part(atoms: Atoms, shares: tuple[float, float, float], seed: int) -> str:
    if prescribed := atoms.info.get("part"):
        if prescribed not in PARTS:
            raise InputError(f"frame {identity(atoms)}: part {prescribed!r} is none of {PARTS}")
        return str(prescribed)
    digest = hashlib.sha256(f"{seed}:{identity(atoms)}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    return PARTS[int(np.searchsorted(np.cumsum(shares)[:2], draw, side="right"))]


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
