"""New versions of the shipped dataset, for those who maintain it."""

import json
from pathlib import Path

from al_pbe.campaign import collected
from kdlib import datasets
from kdlib.files import replacing

#: Where the package keeps its data, in a checkout.
DATA = Path(__file__).parents[1] / "kdlib" / "datasets" / "data"


def pack(labels: str | Path, version: str, data: Path = DATA) -> int:
    """Add labelled frames to ``al-pbe``, with a new checksum and version on its card.

    Parameters
    ----------
    labels
        Folder of labelled frames.
    version
        Of the dataset from now on.
    data
        Folder of the packed file and its card.

    Returns
    -------
    int
        Number of frames.
    """
    frames = collected(Path(labels))
    card = data / "al-pbe.json"
    entry = json.loads(card.read_text())
    path = data / entry["file"]
    with replacing(path) as part:
        entry |= {"version": version, "sha256": datasets.write_packed(frames, part)}
    with replacing(card) as part:
        part.write_text(json.dumps(entry, indent=1) + "\n")
    return len(frames)
