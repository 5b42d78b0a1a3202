"""What a run of a profile has computed, as one file: result files, models and histories."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.hipnn.potential import CONFIG, WEIGHTS
from kdlib.training.runs import HISTORY, is_finished
from kdlib.training.sweep import INDEX

#: Bytes; a larger file does not belong into a repository.
LARGEST = 20_000_000


def pack(folder: Path, path: Path, without_weights: Sequence[str] = ()) -> Path:
    """Write the result files and the finished trainings of a run into a ``.tar.xz`` file.

    The same results give the same bytes. Unpacked into ``results``, it is the folder of the run,
    without executed notebooks, logs and checkpoints.

    Parameters
    ----------
    folder
        Results of a profile.
    path
        File to write.
    without_weights
        Patterns of names of trainings of which the configuration and the history alone are kept,
        such as ``"control_128-40-4_*"``.

    Raises
    ------
    InputError
        There is nothing to keep, or too much.
    """
    kept = list(_kept(folder, without_weights))
    if not kept:
        raise InputError(f"{folder}: holds no results of a run")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
        for file in kept:
            content = file.read_bytes()
            entry = tarfile.TarInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    size = packed.tell()
    if size > LARGEST:
        raise InputError(
            f"{folder}: its archive would have {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}; "
            "leave out the weights of more trainings"
        )
    with replacing(path) as part:
        part.write_bytes(packed.getvalue())
    return path


def _kept(folder: Path, without_weights: Sequence[str]) -> Iterator[Path]:
    """Files of the archive, in order."""
    yield from sorted(folder.glob("*.nc"))
    yield from sorted(folder.glob("liquids/*.nc"))
    home = folder / "runs"
    for run in sorted(path.parent for path in home.glob(f"*/{HISTORY}")):
        if is_finished(run):
            yield from (run / CONFIG, run / HISTORY)
            if not any(fnmatch(run.name, pattern) for pattern in without_weights):
                yield run / WEIGHTS
    yield from home.glob(INDEX)
