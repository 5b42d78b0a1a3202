"""A full disk is said to be one."""

import errno

import pytest

from kdlib import fulldisk
from kdlib.errors import InputError


@pytest.fixture
def room(monkeypatch):
    """Bytes that are left on every disk."""
    left = {"free": 10**9}
    usage = lambda path: type("Usage", (), left)  # noqa: E731
    monkeypatch.setattr("kdlib.fulldisk.shutil.disk_usage", usage)
    return left


def test_another_librarys_words_are_understood(room, tmp_path):
    """An error of no known type that speaks of the space becomes the one of a full disk."""
    with pytest.raises(OSError, match="No space left") as caught, fulldisk.said(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_whatever_breaks_on_a_full_disk(room, tmp_path):
    """A worker that vanished says nothing, the disk does; its folder may not be there yet."""
    room["free"] = 1000
    with pytest.raises(OSError, match="No space left"), fulldisk.said(tmp_path / "not" / "yet"):
        raise RuntimeError("a process was terminated abruptly")


def test_other_errors_pass(room, tmp_path):
    """With room on the disk an error stays what it is, and bad input always does."""
    with pytest.raises(RuntimeError, match="abruptly"), fulldisk.said(tmp_path):
        raise RuntimeError("a process was terminated abruptly")
    room["free"] = 0
    with pytest.raises(InputError), fulldisk.said(tmp_path):
        raise InputError("bad")
