"""Content hashes: what a step of a run depends on, and whether its result changed.

A result file that holds the same numbers has the same hash, whoever made it and when; so a step
that is repeated and gives the same result does not make its dependents run again.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import kdlib
from kdlib.pipeline import notebook
from kdlib.results.files import fingerprint

_ROOT = Path(kdlib.__file__).parent


def digest(*parts: str | bytes) -> str:
    """Return the sha256 of some parts, with their lengths so that they cannot run together."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def file(path: Path) -> str:
    """Return the hash of a file's content: for a result file of its data, otherwise of its bytes.

    Raises
    ------
    InputError
        A result file is truncated, altered, or breaks the schema.
    """
    return fingerprint(path) if path.suffix == ".nc" else _of_bytes(path)


def packaged_data(texts: Iterable[str]) -> dict[str, str]:
    """Return the hashes of the files of `kdlib/datasets/data` that some texts name.

    A file is named by its whole name, or by the name up to the first dot, as `al-pbe` is.
    """
    names = set(texts)
    files = sorted(path for path in (_ROOT / "datasets" / "data").glob("*") if path.is_file())
    return {
        path.name: _of_bytes(path) for path in files if {path.name, path.name.split(".")[0]} & names
    }


def modules(cells: Iterable[str]) -> dict[str, str]:
    """Return the hashes of the kdlib modules that some code imports, directly or through others.

    A module that names a file of `kdlib/datasets/data` depends on that file, too.
    """
    todo = notebook.imported_modules("\n".join(cells))
    hashes: dict[str, str] = {}
    while todo:
        name = todo.pop()
        path = _module_path(name)
        if path is None or name in hashes:
            continue
        hashes[name], imports = _module(path, name)
        parents = {".".join(name.split(".")[:n]) for n in range(2, name.count(".") + 1)}
        todo |= imports | parents
    return dict(sorted(hashes.items()))


def _module_path(name: str) -> Path | None:
    """Return the source file of a kdlib module; None for other names and for the package itself."""
    first, *rest = name.split(".")
    if first != "kdlib" or not rest:
        return None
    base = _ROOT.joinpath(*rest)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _module(path: Path, name: str) -> tuple[str, set[str]]:
    """Return a module's hash and what it imports."""
    source = path.read_text()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    data = packaged_data(notebook.text_constants(source))
    return digest(source, *data.values()), notebook.imported_modules(source, package)


def _of_bytes(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
