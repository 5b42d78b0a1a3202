"""ANI-Al, the paper's data: download, HDF5 layout, units and the sign of the forces.

The files' groups hold ``species``, ``coordinates`` (Angstrom), ``cell`` (Angstrom), ``energy``
(Hartree) and ``force`` (Hartree/Angstrom). Whether ``force`` is the force or the gradient of the
energy is not documented, so the data decide: the closest pairs of atoms must repel.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from kdlib import units
from kdlib.datasets import registry
from kdlib.datasets.checks import broken
from kdlib.errors import InputError
from kdlib.files import locked
from kdlib.geometry.cells import Closest, closest_pair

logger = logging.getLogger(__name__)

NAME = "ani-al"
#: The closest 5 % of the pairs of about 1000 frames, at least ten, decide on the sign.
SIGN_FRAMES, SIGN_SHARE, SIGN_PAIRS = 1000, 0.05, 10
#: Share of these pairs that must agree.
SIGN_MAJORITY = 0.8
#: Largest share of frames that may break a rule; beyond it, our reading must be wrong.
MOST_BROKEN = 0.01
_KEYS = ("species", "coordinates", "cell", "energy", "force")


@dataclass(frozen=True)
class Loaded:
    """Frames, and notes on what was found while reading them."""

    frames: list[Atoms]
    notes: list[str]


def folder() -> Path:
    """Folder in the cache for the unpacked files."""
    return registry.cache() / f"{NAME}-{registry.entry(NAME)['git_blob'][:12]}"


def is_fetched() -> bool:
    """Whether the files are in the cache."""
    return os.path.isfile(folder() / registry.MANIFEST)  # False for whatever cannot be a file


def fetch(base_url: str = "") -> Path:
    """Download and unpack the archive unless the cache has it; return the folder."""
    if not is_fetched():
        with locked(registry.cache()):
            _fetch(folder(), base_url)
    return folder()


def _fetch(home: Path, base_url: str) -> None:
    card = registry.entry(NAME)
    if home.exists():
        raise InputError(f"{home}: incomplete, remove it and fetch again")
    archive = home.with_suffix(".tgz")
    registry.download(card["path"], archive, card["git_blob"], base_url)
    try:
        registry.extract(archive, home)
    finally:
        archive.unlink()


def load() -> Loaded:
    """Frames of the fetched dataset without those that break a rule, which the notes name.

    Raises
    ------
    InputError
        The dataset was not fetched, was altered, or has another layout.
    """
    if not is_fetched():
        raise InputError(f"{NAME}: not downloaded yet, run: kdlib fetch {NAME}")
    files = registry.unpacked(folder(), ".h5")
    if not files:
        raise InputError(f"{folder()}: holds no HDF5 file")
    found = read(files)
    rules = dict(broken(found.frames))
    if len(rules) > MOST_BROKEN * len(found.frames):
        k, rule = next(iter(rules.items()))
        name = found.frames[k].info["frame"]
        raise InputError(f"{NAME}: {len(rules)} frames break a rule; frame {name}: {rule}")
    left_out = [f"left out: frame {found.frames[k].info['frame']}, {r}" for k, r in rules.items()]
    for note in (*found.notes, *left_out):
        logger.info("%s: %s", NAME, note)
    kept = [atoms for k, atoms in enumerate(found.frames) if k not in rules]
    return Loaded(kept, [*found.notes, *left_out])


def read(files: Sequence[Path]) -> Loaded:
    """Unchecked frames of HDF5 files in ANI-Al's layout, in eV and eV/Angstrom."""
    frames = [atoms for path in files for atoms in _frames(path)]
    if not frames:
        raise InputError(f"{files[0]}: holds no frames")
    source = ", ".join(path.name for path in files)
    sign, note = _sign(frames, source)
    if sign < 0:
        for atoms in frames:
            atoms.calc.results["forces"] *= -1.0
    return Loaded(frames, [note])


def _frames(path: Path) -> Iterator[Atoms]:
    """Frames of one file in the units of this package; the sign of the forces is as stored."""
    for name, group in _groups(path):
        numbers = _checked(group, f"{path}: group {name}")
        for k in range(len(group["energy"])):
            atoms = Atoms(
                numbers,
                np.asarray(group["coordinates"][k], dtype=float),
                cell=np.asarray(group["cell"][k], dtype=float),
                pbc=True,
                info={"frame": f"{path.stem}/{name}/{k}"},
            )
            atoms.calc = SinglePointCalculator(
                atoms,
                energy=float(group["energy"][k]) * units.HARTREE,
                forces=np.asarray(group["force"][k], dtype=float) * units.HARTREE_PER_ANGSTROM,
            )
            yield atoms


def _groups(path: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Name and arrays of every group of one file that holds datasets."""
    try:
        with h5py.File(path) as file:
            for group in _leaves(file):
                arrays = [(k, v) for k, v in group.items() if isinstance(v, h5py.Dataset)]
                yield group.name.strip("/"), {key: array[()] for key, array in arrays}
    except OSError as error:
        raise InputError(f"{path}: not an HDF5 file in the layout of {NAME} ({error})") from error


def _leaves(group: h5py.Group) -> Iterator[h5py.Group]:
    """Groups at any depth below one that hold datasets instead of further groups."""
    for item in group.values():
        if not isinstance(item, h5py.Group) or not len(item):
            raise OSError(f"{item.name} is no group with content")
        if isinstance(next(iter(item.values())), h5py.Dataset):
            yield item
        else:
            yield from _leaves(item)


def _checked(group: dict[str, np.ndarray], where: str) -> np.ndarray:
    """Atomic numbers of a group, after checking that its arrays fit together."""
    if missing := [key for key in _KEYS if key not in group]:
        raise InputError(f"{where} has no {missing[0]!r}")
    words = [s.decode() if isinstance(s, bytes) else s for s in group["species"]]
    try:
        named = [atomic_numbers[s.strip()] if isinstance(s, str) else int(s) for s in words]
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: unknown species {error}") from None
    n_frames, n_atoms = len(group["energy"]), len(named)
    shapes = {
        "coordinates": (n_frames, n_atoms, 3),
        "force": (n_frames, n_atoms, 3),
        "cell": (n_frames, 3, 3),
    }
    for key, shape in shapes.items():
        if np.shape(group[key]) != shape:
            raise InputError(f"{where}: {key} has shape {np.shape(group[key])}, must be {shape}")
    return np.array(named)


def _sign(frames: Sequence[Atoms], source: str) -> tuple[int, str]:
    """Return the sign that turns the stored `force` into the force, and the evidence for it.

    Raises
    ------
    InputError
        The closest pairs neither repel nor attract by a clear majority.
    """
    step = max(1, len(frames) // SIGN_FRAMES)
    chosen = [atoms for atoms in frames[::step] if np.isfinite(atoms.positions).all()]
    closest = [(closest_pair(atoms), atoms) for atoms in chosen]
    closest.sort(key=lambda found: found[0].distance)
    deciding = closest[: max(SIGN_PAIRS, int(SIGN_SHARE * len(closest)))]
    apart = float(np.mean([_push(pair, atoms) > 0 for pair, atoms in deciding]))
    nearest, widest = deciding[0][0].distance, deciding[-1][0].distance
    pairs = f"the {len(deciding)} closest pairs ({nearest:.2f} to {widest:.2f} Angstrom)"
    if apart >= SIGN_MAJORITY:
        return 1, f"sign: force is minus the gradient; {apart:.0%} of {pairs} repel"
    if apart <= 1 - SIGN_MAJORITY:
        return -1, (
            f"sign: force is the gradient and was reversed; as stored, {1 - apart:.0%} of "
            f"{pairs} would attract"
        )
    raise InputError(f"{source}: the sign of force is not clear, {apart:.0%} of {pairs} repel")


def _push(pair: Closest, atoms: Atoms) -> float:
    """Force that drives the atoms of a pair apart, eV/Angstrom."""
    forces = atoms.calc.results["forces"]
    return float((forces[pair.j] - forces[pair.i]) @ pair.vector / (2 * pair.distance))
