"""What a run of a profile has computed, as a few files: result files, models and histories."""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from kdlib.errors import InputError
from kdlib.files import made, replacing
from kdlib.hipnn.potential import CONFIG, WEIGHTS
from kdlib.training.runs import HISTORY, is_finished
from kdlib.training.sweep import INDEX

#: Bytes of all files together; more does not belong into a repository.
LARGEST = 20_000_000
RESULTS = "results"


def pack(folder: Path, out: Path, without_weights: Sequence[str] = ()) -> list[Path]:
    """Write a ``.tar.xz`` file of the results of a run, and one of the trainings of each role.

    The same content gives the same bytes, so that a repository keeps a file once. Unpacked into
    ``results``, they are the folder of the run, without executed notebooks, logs and checkpoints.

    Parameters
    ----------
    folder
        Results of a profile.
    out
        Folder of the files; others of their kind in it are removed.
    without_weights
        Patterns of names of trainings of which the configuration and the history alone are kept,
        such as ``"control_128-40-4_*"``.

    Raises
    ------
    InputError
        There is nothing to keep, or too much; then nothing is written.
    """
    parts: dict[str, list[Path]] = {}
    for name, file in _kept(folder, without_weights):
        parts.setdefault(name, []).append(file)
    if not parts:
        raise InputError(f"{folder}: holds no results of a run")
    packed = {out / f"{name}.tar.xz": _tar(folder, files) for name, files in parts.items()}
    size = sum(map(len, packed.values()))
    if size > LARGEST:
        raise InputError(
            f"{folder}: its archive would have {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}; "
            "leave out the weights of more trainings"
        )
    made(out)
    for path, content in packed.items():
        with replacing(path) as part:
            part.write_bytes(content)
    for path in set(out.glob("*.tar.xz")) - set(packed):
        path.unlink()
    return sorted(packed)


def _kept(folder: Path, without_weights: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Files to keep, in order, each with the name of the archive that it belongs to."""
    home = folder / "runs"
    for pattern in ("*.nc", "liquids/*.nc", f"runs/{INDEX}"):
        yield from ((RESULTS, path) for path in sorted(folder.glob(pattern)))
    for run in sorted(path.parent for path in home.glob(f"*/{HISTORY}")):
        if is_finished(run):
            role = re.split(r"_\d+-\d+-\d+_s", run.name)[0]
            whole = not any(fnmatch(run.name, pattern) for pattern in without_weights)
            for name in (CONFIG, HISTORY, *([WEIGHTS] if whole else [])):
                yield role, run / name


def _tar(folder: Path, files: Sequence[Path]) -> bytes:
    """Archive of files, without owners and times."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
        for file in files:
            content = file.read_bytes()
            entry = tarfile.TarInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
