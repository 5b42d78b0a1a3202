"""Every command that writes: folders that cannot be written to, and those that another one uses."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk

from kdlib import datasets, files, hipnn, results, teachers, training
from kdlib.__main__ import main
from kdlib.datasets import registry
from kdlib.distill.labeled import Pool
from kdlib.errors import InputError
from kdlib.training import sweep

#: Commands that write below the folder OUT.
COMMANDS = {
    "run": "run --profile smoke --only 01 --results OUT",
    "distill": "distill --teacher emt --structure Cu --out OUT",
    "bench": "bench --quick --out OUT/b.nc",
    "bench with a linear ACE": "bench --ace --quick --out OUT/b.nc",
    "bench on a GPU": "bench --gpu --quick --out OUT/b.nc",
    "fetch": "fetch ani-al",
    "figures": "figures --only data",
}
every_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs a command on a folder and says its code and last line."""

    def run(name: str, out: Path) -> tuple[int, str]:
        monkeypatch.setenv(registry.CACHE_VARIABLE, str(out))
        if name == "figures":
            monkeypatch.chdir(out)
        code = main([word.replace("OUT", str(out)) for word in COMMANDS[name].split()])
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith(f"kdlib: {out}")
        return code, error

    return run


@pytest.fixture
def drawn(project):
    """Return a function that makes a folder with a figure to draw."""

    def make(folder: Path) -> Path:
        (folder / "figures").mkdir(parents=True)
        shutil.copy(project / "figures" / "data.nc", folder / "figures")
        return folder

    return make


HOLDER = """
import sys
from kdlib import files

with files.locked(sys.argv[1]):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A folder that another process works in."""
    home = tmp_path_factory.mktemp("busy")
    script, out = home / "holder.py", home / "out"
    script.write_text(HOLDER)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, script, out], stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        yield out
        process.communicate()


@every_command
def test_a_folder_in_use_is_refused(name, command, busy, drawn):
    """The second command ends with code 2, whatever the first one is, and says which that is."""
    if not (busy / "figures").exists():
        drawn(busy)
    before = sorted(busy.rglob("*"))
    code, error = command(name, busy)
    assert code == 2
    assert "another command is writing here: holder.py" in error
    assert sorted(busy.rglob("*")) == before


@pytest.mark.parametrize("name", ["bench --quick", "bench --gpu", "bench --ace"])
def test_a_benchmark_is_not_written_over_a_folder(name, tmp_path, capsys):
    """It is said before hours of measuring, not after them."""
    (out := tmp_path / "out").mkdir()
    assert main([*name.split(), "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"kdlib: bench: {out} is a folder, name a file in it\n"


PLACES = {"below a file": "file/out", "in no file system": "/proc/nowhere", "long": "y" * 300}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "figures"])
def test_a_folder_that_cannot_be_made_is_one_sentence(name, place, command, tmp_path):
    """Path and reason in one line, code 2, before any work."""
    (tmp_path / "file").touch()
    code, error = command(name, tmp_path / PLACES[place])
    assert code == 2
    assert "cannot be written: " in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@every_command
def test_a_read_only_folder_is_one_sentence(name, command, small_disk, drawn):
    """Path and reason in one line, code 2, before any work; made writable, it can be used."""
    mount, resize = small_disk
    resize("10m")
    out = drawn(mount / "out")
    resize("10m", "remount,ro,")
    code, error = command(name, out)
    assert code == 2
    assert "cannot be written: Read-only file system" in error
    resize("10m", "remount,rw,")
    with files.locked(out):
        pass


@pytest.fixture
def library(small_config, emt_frames):
    """Name -> function of the library that writes into a folder."""
    frames, split = emt_frames, datasets.split(emt_frames)
    settings = training.TrainingConfig(batch_size=8, max_epochs=1, backend="hippynn")
    weights = training.LossWeights()
    todo = sweep.tasks(["control"], [small_config], settings, [0])
    module = hipnn.build(small_config)
    return {
        "fit": lambda out: training.fit(small_config, settings, weights, frames, split, out),
        "sweep": lambda out: sweep.run(todo, frames, split, out),
        "model": lambda out: hipnn.save(module, out),
        "results": lambda out: results.folder("smoke", out),
        "labels": lambda out: Pool(out).label({"a": bulk("Cu")}, teachers.load("emt")),
    }


@pytest.mark.parametrize("name", ["fit", "sweep", "model", "results", "labels"])
def test_the_library_names_the_folder_that_cannot_be_written(name, library, tmp_path):
    """The same sentence as an error that Python code can catch."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"^{tmp_path / 'file'}.*: cannot be written: a file is"):
        library[name](tmp_path / "file" / "out")


@pytest.mark.parametrize("name", ["fit", "sweep"])
def test_the_library_refuses_a_folder_in_use(name, library, busy):
    """A training and a sweep do nothing in a folder that another process works in."""
    with pytest.raises(InputError, match="another command is writing here"):
        library[name](busy)
