"""Registered datasets: cards, packed frames that ship with the package, and downloads.

A download is checked by its git blob id; links and paths that leave the archive are refused.
"""

import hashlib
import io
import json
import lzma
import os
import tarfile
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path, PurePosixPath
from types import ModuleType

import ase.io
from ase import Atoms

from kdlib import progress
from kdlib.errors import InputError
from kdlib.files import made, named, replacing, writing


def folder() -> resources.abc.Traversable:
    """Folder of cards and packed frames in the package."""
    return resources.files("kdlib") / "datasets" / "data"


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
    return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))


def unpack(name: str) -> tuple[list[Atoms], str]:
    """Unchecked frames of a shipped dataset, and the name of their file."""
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
    """Lines of a card about the content of a dataset."""
    counts = Counter(str(atoms.info.get("phase", "")) for atoms in frames)
    phases = ", ".join(f"{n} {phase}" for phase, n in sorted(counts.items()) if phase)
    sizes = sorted({len(atoms) for atoms in frames})
    atoms = sum(len(atoms) for atoms in frames)
    return [
        f"{'frames':<12} {len(frames)}" + (f": {phases}" if phases else ""),
        f"{'atoms':<12} {atoms} in cells of {sizes[0]} to {sizes[-1]}",
    ]


#: Environment variable with the folder of downloads.
CACHE_VARIABLE = "KDLIB_CACHE"
#: Environment variable with an address to download from instead of GitHub.
MIRROR_VARIABLE = "KDLIB_MIRROR"
#: Where GitHub serves the raw files of a repository.
GITHUB = "https://raw.githubusercontent.com"
#: File beside unpacked files, with the sha256 of each.
MANIFEST = "manifest.json"
_CHUNK = 2**20


def cache() -> Path:
    """Folder of downloads: ``$KDLIB_CACHE``, or the system's folder for caches."""
    return named(os.environ.get(CACHE_VARIABLE) or _pooch().os_cache("kdlib"))


def download(path: str, target: Path, git_blob: str, base_url: str = "") -> None:
    """Download a file to ``target``; it appears whole and checked, or not at all.

    Parameters
    ----------
    path
        Path on the server, e.g. ``owner/repository/HEAD/folder/file``.
    git_blob
        Expected result of :func:`git_blob_id`.
    base_url
        Address before `path`; by default ``$KDLIB_MIRROR`` or GitHub's.

    Raises
    ------
    InputError
        The connection failed or was cut, or the content is another one.
    """
    url = f"{(base_url or os.environ.get(MIRROR_VARIABLE) or GITHUB).rstrip('/')}/{path}"
    made(target.parent)
    fetch = _pooch().HTTPDownloader(progressbar=progress.is_shown(), chunk_size=_CHUNK)
    try:
        with replacing(target) as part:
            fetch(url, str(part), None)
            found = git_blob_id(part)
            if found != git_blob:
                raise InputError(f"{url}: not the expected file, its git blob id is {found}")
    except OSError as error:  # those of requests are OSErrors, too
        raise InputError(f"{url}: download failed ({_first_cause(error)}); try again") from error


def _pooch() -> ModuleType:
    """Import pooch without its warning about widgets in notebooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pooch
    return pooch


def _first_cause(error: BaseException) -> str:
    """Message of the first error, without those of the layers above."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split()) or type(error).__name__


def git_blob_id(path: Path) -> str:
    """Git's name of a content: the sha1 of ``blob <size>``, a zero byte, and the content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def extract(archive: Path, folder: Path) -> None:
    """Unpack the files of a tar archive into a folder, which appears complete or not at all.

    An archive with anything but regular files and folders below `folder` is refused. The sha256 of
    every file goes into a manifest.

    Raises
    ------
    InputError
        Names archive, member and rule, or says that the archive is damaged.
    """
    made(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as temporary:
        content = Path(temporary) / "content"
        content.mkdir()
        try:
            with tarfile.open(archive) as tar:
                for member in tar.getmembers():
                    if rule := _refused(member, content):
                        raise InputError(f"{archive.name}: member {member.name!r} {rule}")
                with writing(folder):
                    tar.extractall(content, filter="data")
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{archive.name}: not a readable archive ({reason})") from error
        files = [path for path in sorted(content.rglob("*")) if path.is_file()]
        sums = {path.relative_to(content).as_posix(): _sha256(path) for path in files}
        (content / MANIFEST).write_text(
            json.dumps({"sha256": sums}, indent=1) + "\n", encoding="utf-8"
        )
        os.replace(content, folder)


def _refused(member: tarfile.TarInfo, folder: Path) -> str:
    """Rule that a member of an archive breaks; empty if it may be unpacked."""
    if member.name.startswith("/"):  # tarfile's filter would strip the slash and accept the rest
        return "has an absolute path"
    if member.issym() or member.islnk():  # the filter would accept those that stay inside
        return "is a link"
    try:
        tarfile.data_filter(member, str(folder))
    except tarfile.OutsideDestinationError:
        return "leads out of its folder"
    except tarfile.SpecialFileError:
        return "is neither a file nor a folder"
    return ""


def unpacked(folder: Path, ending: str) -> list[Path]:
    """Files of an unpacked archive with this ending, sorted.

    Raises
    ------
    InputError
        Names a file that is missing or was altered since.
    """
    sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    paths = [PurePosixPath(name) for name in sorted(sums)]
    # Some systems add a hidden companion of each file to an archive.
    chosen = [path for path in paths if path.suffix == ending and path.name[0] != "."]
    for name in chosen:
        if not (folder / name).is_file() or _sha256(folder / name) != sums[str(name)]:
            raise InputError(
                f"{folder / name}: missing or altered since it was unpacked; remove {folder} and "
                "fetch it again"
            )
    return [folder / name for name in chosen]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
