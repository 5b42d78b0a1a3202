"""New versions of the shipped dataset, for its maintainers."""

import json
from pathlib import Path

from al_pbe.campaign import collected
from kdlib import datasets
from kdlib.files import replacing

#: Data folder of the package in a checkout.
DATA = Path(__file__).parents[1] / "kdlib" / "datasets" / "data"


def pack(labels: str | Path, version: str, data: Path = DATA) -> int:
    """Add a folder of labeled frames to ``al-pbe``; return its number of frames.

    The card in folder ``data`` gets the new version and checksum.
    """
    frames = collected(Path(labels))
    card = data / "al-pbe.json"
    entry = json.loads(card.read_text(encoding="utf-8"))
    path = data / entry["file"]
    with replacing(path) as part:
        entry |= {"version": version, "sha256": datasets.write_packed(frames, part)}
    with replacing(card) as part:
        part.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    return len(frames)
