"""Files that appear whole or not at all, folders for one run, and disks that are full."""

import errno
from pathlib import Path

import pytest

from kdlib import files
from kdlib.errors import InputError


@pytest.fixture
def room(monkeypatch):
    """Bytes that are left on every disk."""
    left = {"free": 10**9}
    usage = lambda path: type("Usage", (), left)  # noqa: E731
    monkeypatch.setattr("kdlib.files.shutil.disk_usage", usage)
    return left


def test_another_librarys_words_are_understood(room, tmp_path):
    """An error of no known type that speaks of the space becomes the one of a full disk."""
    with (
        pytest.raises(OSError, match="No space left") as caught,
        files.full_disk_reported(tmp_path),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_whatever_breaks_on_a_full_disk(room, tmp_path):
    """When a worker vanishes, the disk is checked; its folder may not exist yet."""
    room["free"] = 1000
    with (
        pytest.raises(OSError, match="No space left"),
        files.full_disk_reported(tmp_path / "not" / "yet"),
    ):
        raise RuntimeError("a process was terminated abruptly")


def test_other_errors_pass(room, tmp_path):
    """With room on the disk an error stays what it is, and bad input always does."""
    with pytest.raises(RuntimeError, match="abruptly"), files.full_disk_reported(tmp_path):
        raise RuntimeError("a process was terminated abruptly")
    room["free"] = 0
    with pytest.raises(InputError), files.full_disk_reported(tmp_path):
        raise InputError("bad")


def _write(path: Path, text: str, then: Exception | None = None) -> None:
    with files.replacing(path) as part:
        part.write_text(text)
        if then is not None:
            raise then


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    """A block that fails leaves the old file and nothing beside it; a finished one replaces it."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _write(path, "half", ZeroDivisionError())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]
    _write(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "new")]


def test_a_locked_folder_is_refused_until_it_is_let_go(tmp_path):
    """One at a time, and the next may enter when the block has ended with an error."""
    refused = pytest.raises(InputError, match="another run is writing here")
    with files.locked(tmp_path, "run"), refused, files.locked(tmp_path, "run"):
        pass
    with pytest.raises(ZeroDivisionError), files.locked(tmp_path, "run"):
        raise ZeroDivisionError
    with files.locked(tmp_path, "run"):
        pass
