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

    Raises
    ------
    InputError
        There is neither such a folder nor such a model.
    """
    path, name = named(name_or_path), str(name_or_path)
    if os.path.exists(path):
        return path
    if name not in names():
        raise InputError(f"{path}: no such model file or folder, and none of the models that come "
                         f"with kdlib ({', '.join(names())})")  # fmt: skip
    return FOLDER / name


def card(name: str) -> str:
    """Card of one of the models as text."""
    record = json.loads((FOLDER / name / CARD).read_text(encoding="utf-8"))
    lines = [f"{name} - {record.pop('title')}", ""]
    for key, value in record.items():
        if isinstance(value, Mapping):
            lines += [f"{key}:", *(f"  {part:<26} {text}" for part, text in value.items())]
        else:
            lines.append(f"{key:<12} {value}")
    lines += [f"{'folder':<12} {FOLDER / name}", f"{'use':<12} kdlib.load({name!r}).calculator()"]
    return "\n".join(lines)
