"""Models that come with the package, each with a card: what it learned from, errors, range, speed.

They lie in ``models/``, a folder for each, as :func:`kdlib.hipnn.load` reads it, with a
``card.json`` beside; ``python -m al_pbe models`` writes them.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from kdlib.errors import InputError
from kdlib.files import named

FOLDER = Path(__file__).parent / "models"
CARD = "card.json"


def names() -> list[str]:
    """Names of the models, such as ``"al-16-8-1"``."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}"))


def located(name_or_path: str | Path) -> Path:
    """Folder of a model: of one that comes with the package, by its name, or the path itself.

    A folder of the user's own goes before a name.
    """
    path = named(name_or_path)
    if not os.path.exists(path) and str(name_or_path) in names():
        return FOLDER / str(name_or_path)
    return path


def card(name: str) -> str:
    """Card of a model as text.

    Raises
    ------
    InputError
        The package has no such model.
    """
    if name not in names():
        raise InputError(f"no model {name!r} comes with kdlib (there are: {', '.join(names())})")
    record = json.loads((FOLDER / name / CARD).read_text(encoding="utf-8"))
    lines = [f"{name} - {record.pop('title')}", ""]
    for key, value in record.items():
        if isinstance(value, Mapping):
            lines += [f"{key}:", *(f"  {part:<26} {text}" for part, text in value.items())]
        else:
            lines.append(f"{key:<12} {value}")
    lines += [f"{'folder':<12} {FOLDER / name}", f"{'use':<12} kdlib.load({name!r}).calculator()"]
    return "\n".join(lines)
