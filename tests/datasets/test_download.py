"""Archives that would write outside their folder, and git's hash of a file."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kdlib.datasets import registry
from kdlib.errors import InputError


def test_git_blob_id_is_gits(tmp_path):
    """`git hash-object` of "hello" and a newline is ce013625030ba8dba906f756967f9e9ca394464a."""
    path = tmp_path / "greeting"
    path.write_bytes(b"hello\n")
    assert registry.git_blob_id(path) == "ce013625030ba8dba906f756967f9e9ca394464a"
    path.write_bytes(b"")
    assert registry.git_blob_id(path) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    odd = tarfile.TarInfo(name)
    odd.type, odd.linkname = kind, target
    return odd


MALICIOUS = {
    "parent path": (member("../outside.h5", tarfile.REGTYPE), "leads out of its folder"),
    "parent inside": (member("a/../../outside.h5", tarfile.REGTYPE), "leads out of its folder"),
    "absolute path": (member("/tmp/outside.h5", tarfile.REGTYPE), "has an absolute path"),
    "symbolic link": (member("link.h5", tarfile.SYMTYPE, "../outside"), "is a link"),
    "hard link": (member("link.h5", tarfile.LNKTYPE, "data.h5"), "is a link"),
    "device": (member("null.h5", tarfile.CHRTYPE), "is neither a file nor a folder"),
    "pipe": (member("pipe.h5", tarfile.FIFOTYPE), "is neither a file nor a folder"),
    "parent folder": (member("../outside", tarfile.DIRTYPE), "leads out of its folder"),
}


@pytest.mark.parametrize(("odd", "rule"), MALICIOUS.values(), ids=MALICIOUS)
def test_malicious_archive_is_refused_whole(
    odd: tarfile.TarInfo, rule: str, tmp_path: Path, pack: Callable[..., bytes]
) -> None:
    """Archive, member and rule are named; neither its harmless files nor others appear."""
    archive = tmp_path / "bad.tgz"
    archive.write_bytes(pack({"data.h5": b"harmless"}, odd))
    with pytest.raises(InputError, match=rf"bad\.tgz: member '{odd.name}' {rule}"):
        registry.extract(archive, tmp_path / "deep" / "folder")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.tgz", "deep"]


def test_unpacked_files_are_listed_with_their_sums(tmp_path, pack):
    """Folders are made, contents kept, other endings ignored, and nothing else is left."""
    archive = tmp_path / "good.tgz"
    archive.write_bytes(pack({"a/b/data.h5": b"1", "./data.h5": b"2", "note": b"3"}))
    folder = tmp_path / "folder"
    registry.extract(archive, folder)
    found = registry.unpacked(folder, ".h5")
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in found} == {
        "a/b/data.h5": b"1",
        "data.h5": b"2",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"good.tgz", "folder"}


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"text"])
def test_damaged_archive_is_refused(damage, tmp_path, pack):
    """A truncated archive, or none, is an error of one line and leaves nothing behind."""
    archive = tmp_path / "cut.tgz"
    archive.write_bytes(damage(pack({"data.h5": bytes(range(256)) * 500})))
    with pytest.raises(InputError, match=r"cut\.tgz: not a readable archive"):
        registry.extract(archive, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.tgz"]


def test_cache_follows_the_environment(tmp_path, monkeypatch):
    """KDLIB_CACHE decides; without it the system's folder for caches does."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    assert registry.cache() == tmp_path
    monkeypatch.delenv("KDLIB_CACHE")
    assert registry.cache().name == "kdlib"
