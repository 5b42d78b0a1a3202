"""Registered datasets: a card each in ``kdlib/datasets/data``, and the packed frames that ship with some."""

import hashlib
import io
import json
import lzma
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import ase.io
from ase import Atoms

from kdlib.errors import InputError


def folder() -> resources.abc.Traversable:
    """Folder of the package that holds cards and packed frames."""
    return resources.files("kdlib") / "data"


def names() -> list[str]:
    """Datasets that :func:`kdlib.datasets.load` knows by name."""
    return sorted(
        entry.name.removesuffix(".json")
        for entry in folder().iterdir()
        if entry.name.endswith(".json")
    )


def entry(name: str) -> dict[str, str]:
    """Card of a dataset: key -> text."""
    if name not in names():
        raise InputError(f"{name}: not one of the datasets {', '.join(names())}")
    return json.loads((folder() / f"{name}.json").read_text())


def unpack(name: str) -> tuple[list[Atoms], str]:
    """Frames of a dataset that ships, not checked yet, and the file that they come from."""
    card = entry(name)
    packed = (folder() / card["file"]).read_bytes()
    if hashlib.sha256(packed).hexdigest() != card["sha256"]:
        raise InputError(f"{card['file']}: altered or truncated, its sha256 is not the card's")
    frames = ase.io.read(io.StringIO(lzma.decompress(packed).decode()), ":", format="extxyz")
    return frames, card["file"]


def write_packed(frames: Sequence[Atoms], path: Path) -> str:
    """Write frames as one xz-compressed extxyz file and return its sha256."""
    text = io.StringIO()
    ase.io.write(text, list(frames), format="extxyz")
    packed = lzma.compress(text.getvalue().encode(), preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(packed)
    return hashlib.sha256(packed).hexdigest()


def contents(frames: Sequence[Atoms]) -> list[str]:
    """Lines of a card on what a dataset holds."""
    counts = Counter(str(atoms.info.get("phase", "")) for atoms in frames)
    phases = ", ".join(f"{n} {phase}" for phase, n in sorted(counts.items()) if phase)
    sizes = sorted({len(atoms) for atoms in frames})
    atoms = sum(len(atoms) for atoms in frames)
    return [
        f"{'frames':<12} {len(frames)}" + (f": {phases}" if phases else ""),
        f"{'atoms':<12} {atoms} in cells of {sizes[0]} to {sizes[-1]}",
    ]
