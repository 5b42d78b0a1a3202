"""Content hashes: what a step of a run depends on, and whether its result changed.

Result files with the same numbers have the same hash, whoever made them and when; a step that is
repeated with the same result does not make its dependents run again.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import kdlib
from kdlib.errors import InputError
from kdlib.results import sources
from kdlib.results.files import fingerprint

_ROOT = Path(kdlib.__file__).parent


def digest(*parts: str | bytes) -> str:
    """Return the sha256 of parts and their lengths, so that parts cannot run together."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def file(path: Path) -> str:
    """Return the hash of a result file's data, or of any other file's bytes.

    Raises
    ------
    InputError
        A result file is truncated, altered, or breaks the schema; or the file cannot be read.
    """
    try:
        return fingerprint(path) if path.suffix == ".nc" else _of_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def packaged_data(texts: Iterable[str]) -> dict[str, str]:
    """Return the hashes of files in `kdlib/datasets/data` that are named in ``texts``.

    A text names a file by its whole name or by the part before the first dot, e.g. `al-pbe`.
    """
    names = set(texts)
    files = sorted(path for path in (_ROOT / "datasets" / "data").glob("*") if path.is_file())
    return {
        path.name: _of_bytes(path) for path in files if {path.name, path.name.split(".")[0]} & names
    }


def modules(cells: Iterable[str]) -> dict[str, str]:
    """Return the hashes of the kdlib modules that code cells import, directly or indirectly.

    A module that names a file of `kdlib/datasets/data` depends on that file, too; docstrings and
    comments do not count.
    """
    return {name: _module(path) for name, path in sources.closure("\n".join(cells)).items()}


def _module(path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    data = packaged_data(sources.text_constants(source))
    return digest(sources.syntax(source), *data.values())


def _of_bytes(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
