"""Files that appear whole or not at all, folders for one command, and what the system refuses."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

import ase.io
import numpy as np
import pytest
import torch
import xarray as xr
from ase.build import bulk
from matplotlib.figure import Figure
from safetensors.torch import save as serialized

from kdlib import files, results
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
        pytest.raises(InputError, match=f"{tmp_path}: .*No space left") as caught,
        files.full_disk_reported(tmp_path),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_whatever_breaks_on_a_full_disk(room, tmp_path):
    """When a worker vanishes, the disk is checked; its folder may not exist yet."""
    room["free"] = 1000
    with (
        pytest.raises(InputError, match="No space left on device; make room"),
        files.full_disk_reported(tmp_path / "not" / "yet"),
    ):
        raise RuntimeError("a process was terminated abruptly")


def test_other_errors_pass(room, tmp_path):
    """With room on the disk an error stays what it is, and bad input always does."""
    with pytest.raises(RuntimeError, match="abruptly"), files.full_disk_reported(tmp_path):
        raise RuntimeError("a process was terminated abruptly")
    room["free"] = 0
    with pytest.raises(InputError, match="^bad$"), files.full_disk_reported(tmp_path):
        raise InputError("bad")


def _write(path: Path, text: str, then: Exception | None = None) -> None:
    files.made(path.parent)
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


WRITERS = {
    "text": lambda part: part.write_text("x" * 5000),
    "tensors": lambda part: part.write_bytes(serialized({"x": torch.ones(5000)})),
    "frames": lambda part: ase.io.write(part, bulk("Cu") * (8, 8, 8), format="extxyz"),
    "picture": lambda part: Figure().savefig(part, format="png", dpi=300),
}


@contextmanager
def small_files():
    """Let no file grow beyond a thousand bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_refused_write_is_one_sentence(kind, tmp_path):
    """Whichever library hits a limit of the system: path and reason, and nothing half-written."""
    with (
        pytest.raises(InputError, match=f"^{tmp_path}/x: cannot be written: File too large$"),
        small_files(),
        files.replacing(tmp_path / "x") as part,
    ):
        WRITERS[kind](part)
    assert not list(tmp_path.iterdir())


def test_a_refused_result_file_does_not_end_the_process(tmp_path):
    """HDF5 crashes when the disk refuses what it writes: results go there as bytes."""
    about = {"units": "1", "long_name": "a"}
    ds = xr.Dataset({"a": ("x", np.random.default_rng(0).random(5000), about)})
    too_large = pytest.raises(InputError, match="x.nc: cannot be written: File too large")
    with too_large, small_files():
        results.save(ds, tmp_path / "x.nc", kind="figure", figure="x")


PLACES = {
    "below a file": ("file/deep/x", "a file is in the place of a folder"),
    "long name": ("y" * 300 + "/x", "File name too long"),
    "long file": ("y" * 250, "File name too long"),
    "folder": ("folder", "Is a directory"),
    "circle": ("circle/x", "a file is in the place of a folder"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_be_written_is_one_sentence(place, tmp_path):
    """A file in place of a folder, names that are too long, links in a circle."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    name, reason = PLACES[place]
    with pytest.raises(InputError, match=f"cannot be written: {reason}$"):
        _write(tmp_path / name, "x")


def test_an_error_about_another_path_passes(tmp_path):
    """A missing library or a bug while a file is written is no fault of the file's folder."""
    (tmp_path / "a").mkdir()
    for other in (Path("/nowhere/else"), tmp_path / "a" / "y"):
        with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "a" / "x"):
            other.read_text()
    with pytest.raises(ConnectionRefusedError), files.writing(tmp_path):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    with pytest.raises(ValueError, match="13"), files.replacing(tmp_path / "x"):
        raise ValueError("expected 13 columns")


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Its temporary files go; those of living processes and the user's own stay."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    deep = files.made(tmp_path / "deep")
    kept = {f".x.{os.getpid()}.part", ".own.part", "x.part"}
    for name in (*kept, f".x.{ended.pid}.part"):
        (deep / name).touch()
    files.tidied(tmp_path)
    assert {path.name for path in deep.iterdir()} == kept


def test_a_locked_folder_is_refused_until_it_is_let_go(tmp_path):
    """One thread at a time; the next may enter when the block has ended with an error."""

    def locks() -> bool:
        with files.locked(tmp_path):
            return True

    with ThreadPoolExecutor(1) as other:
        with files.locked(tmp_path):
            with pytest.raises(InputError, match="another command is writing here"):
                other.submit(locks).result()
            assert locks()
            with pytest.raises(InputError, match="another command"):
                other.submit(locks).result()
        assert other.submit(locks).result()
        with pytest.raises(ZeroDivisionError), files.locked(tmp_path):
            raise ZeroDivisionError
        assert other.submit(locks).result()
    assert not list(tmp_path.iterdir())


def test_a_new_folder_that_stays_empty_is_removed(tmp_path):
    """A command that is refused by its input leaves nothing; what was there before stays."""
    with pytest.raises(InputError, match="bad"), files.locked(tmp_path / "new"):
        raise InputError("bad")
    assert not (tmp_path / "new").exists()
    with files.locked(tmp_path):
        pass
    assert tmp_path.exists()


HOLDER = """
import os, subprocess, sys
from kdlib import files

with files.locked(sys.argv[1]):
    child = "import sys; from kdlib import files\\nwith files.locked(sys.argv[1]): print('child')"
    if "--child" in sys.argv:
        subprocess.run([sys.executable, "-c", child, sys.argv[1]], check=True)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Return a function that starts a process which locks a folder until it ends."""
    script, started = tmp_path / "holder.py", []
    script.write_text(HOLDER)

    def start(folder, *options):
        command = [sys.executable, script, folder, *options]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_refusal_says_who_writes_and_ends_with_that_process(tmp_path, holder):
    """Command, process, host and start are named; SIGKILL leaves no lock."""
    process = holder(tmp_path / "out")
    assert process.stdout.readline() == "locked\n"
    said = re.escape(f"holder.py {tmp_path / 'out'} (process {process.pid} on {gethostname()}, ")
    with (
        pytest.raises(InputError, match=f"another command is writing here: {said}since 20"),
        files.locked(tmp_path / "out"),
    ):
        pass
    process.kill()
    process.wait()
    with files.locked(tmp_path / "out"):
        pass
    assert not list((tmp_path / "out").iterdir())


def test_a_process_of_the_holder_may_enter(tmp_path, holder):
    """The kernel of a notebook works for the command that has locked the folder."""
    process = holder(tmp_path / "out", "--child")
    assert [process.stdout.readline() for _ in range(2)] == ["child\n", "locked\n"]
    assert (tmp_path / "out" / files.LOCK).exists()


@pytest.fixture
def _no_locks(monkeypatch):
    """A file system that has no locks."""

    def flock(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("kdlib.files.fcntl.flock", flock)
    monkeypatch.setattr("kdlib.files._SETTLED", 0.0)


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_the_file_counts(tmp_path):
    """Processes that live, or may live on another host, are respected, and dead ones are not."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    living = subprocess.Popen(["sleep", "60"])
    record = {"command": "x", "host": gethostname(), "since": "", "pid": living.pid, "remove": "it"}
    lock = tmp_path / files.LOCK
    try:
        for held in (record, record | {"host": "elsewhere", "pid": ended.pid}):
            lock.write_text(json.dumps(held))
            with (
                pytest.raises(InputError, match="another command.*ended, remove it$"),
                files.locked(tmp_path),
            ):
                pass
            assert json.loads(lock.read_text()) == held
    finally:
        living.kill()
        living.wait()
    for left in (json.dumps(record | {"pid": ended.pid}), "", "{"):
        lock.write_text(left)
        with files.locked(tmp_path):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
        assert not lock.exists()


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_the_last_of_two_at_once_enters(tmp_path, monkeypatch):
    """Who finds another's words after its own does not go ahead."""
    other = {"command": "x", "host": "elsewhere", "since": "", "pid": 1}
    overwrite = lambda _: (tmp_path / files.LOCK).write_text(json.dumps(other))  # noqa: E731
    monkeypatch.setattr("kdlib.files.time.sleep", overwrite)
    with pytest.raises(InputError, match="another command"), files.locked(tmp_path):
        pass
