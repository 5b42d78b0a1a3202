"""The command line: exit codes, one line per error, and no torch before it is needed."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

import kdlib
from kdlib.__main__ import main
from kdlib.errors import WorkerKilled
from kdlib.pipeline import profile


def test_command_and_module_are_the_same() -> None:
    """`kdlib` and `python -m kdlib` answer alike."""
    script = shutil.which("kdlib", path=str(Path(sys.executable).parent))
    assert script, "the console script is not installed beside this Python"
    for command in ([script], [sys.executable, "-m", "kdlib"]):
        answer = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert answer.stdout == f"kdlib {version('kdlib')}\n"


def test_importing_kdlib_is_light() -> None:
    """The package and its command load neither torch nor xarray until a submodule needs them."""
    code = (
        "import sys, kdlib, kdlib.__main__\n"
        "heavy = {'torch', 'xarray', 'hippynn', 'papermill', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from kdlib import units, errors\n"
        "assert kdlib.units is units"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_submodule_is_an_attribute_error() -> None:
    """Lazy loading does not invent names."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kdlib.nothing
    assert {"datasets", "figures", "pipeline"} <= set(dir(kdlib))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--profile", "huge"], "no profile 'huge' (there are: "),
        (["run", "--profile", "absent.yaml"], "absent.yaml: not a readable profile ("),
        (["run", "--profile", "smoke", "--only", "99"], "no notebook starts with '99'"),
        (["run", "--profile", "smoke", "--notebooks", "."], ".: no notebooks found"),
        (["fetch", "no-data"], "no-data"),
        (["figures", "--profile", "absent"], "figures: holds no figure.nc to draw from"),
        (["figures", "--only", "/fig2"], "figures: holds no /fig2.nc to draw from"),
        (["info", "no-data"], "no-data"),
        (["manifests"], "pyproject.toml: cannot be read, run this in a checkout of kdlib"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the user got wrong is said in one line, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("kdlib: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The parser of arguments uses the same code."""
    with pytest.raises(SystemExit) as stop:
        main(["run", "--workers", "0"])
    assert stop.value.code == 2
    assert "'0' is not a positive whole number" in capsys.readouterr().err


def test_failed_notebook_is_exit_code_1(
    write_notebook: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says which file to open; run again with the mended notebook, it succeeds."""
    folder = write_notebook("01_x", "undefined_name").parent
    profile_path = tmp_path / "mine.yaml"
    profile_path.write_text("description: mine\n")
    arguments = ["run", "--profile", str(profile_path), "--notebooks", str(folder)]
    arguments += ["--results", str(tmp_path / "results")]
    assert main(arguments) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    failed = tmp_path / "results" / "notebooks" / "01_x.failed.ipynb"
    assert message == f"kdlib: 01_x failed (NameError); open {failed}"
    assert failed.is_file()
    write_notebook("01_x", "1 + 1")
    assert main(arguments) == 0
    assert "1 notebooks run, 0 up to date" in capsys.readouterr().err


def test_work_that_broke_off_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says why; errors of the system that no path of the user explains come through."""
    from kdlib import distill

    def stop(*args: object) -> None:
        raise error

    monkeypatch.setattr(distill, "run", stop)
    command = ["distill", "--teacher", "emt", "--structure", "Cu", "--out", str(tmp_path)]
    error = WorkerKilled("a worker process\n was killed")
    assert main(command) == 1
    assert capsys.readouterr().err == "kdlib: a worker process was killed\n"
    error = OSError(errno.EIO, os.strerror(errno.EIO), "/nowhere")
    with pytest.raises(OSError, match="/nowhere"):
        main(command)


_IN_ASCII = """
from pathlib import Path
from kdlib import datasets
from kdlib.datasets import readers
from kdlib.pipeline import profile
(frame,) = datasets.load("own.xyz")
assert ascii(frame.info["note"]) == r"'gr\\xf6\\xdfer'"
readers.write(frame, Path("again.xyz"))
assert datasets.load("again.xyz")[0].info["note"] == frame.info["note"]
assert ascii(profile.load("own.yaml").description) == r"'\\xfc'"
"""


def test_text_is_utf8_in_every_locale(tmp_path: Path) -> None:
    """Where Python would read and write ASCII, frames and profiles keep their letters."""
    (tmp_path / "own.yaml").write_text("description: ü", encoding="utf-8")
    (tmp_path / "own.xyz").write_text(
        '2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-7.2 note="größer" pbc="F F F"\n'
        "Al 0 0 0.1 0.05 0 0\nAl 0 2.05 2.05 -0.05 0 0\n",
        encoding="utf-8",
    )
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", _IN_ASCII], check=True, cwd=tmp_path, env=ascii_only)


def test_info_names_versions_profiles_and_datasets(capsys: pytest.CaptureFixture[str]) -> None:
    """A bug report needs the versions; a newcomer the profiles; a user of data the card."""
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert version("hippynn") in text
    assert all(f"profile {name}" in text for name in profile.available())
    assert main(["info", "al-pbe"]) == 0
    assert "sha256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1", "a profile is a mapping, got list"),
        ("seeds: [0]", "unknown key 'seeds' (description, common, notebooks)"),
        ("common: [1]", "'common' must map parameters to values, got [1]"),
        ("notebooks: {01_data: 3}", "'01_data' must map parameters to values, got 3"),
        ("common: {a: 1", "not a readable profile ("),
        ("notebooks: [01_data]", "'notebooks' must map names to parameters, got ['01_data']"),
        ("1: 2\nx: 3", "unknown key '1' (description, common, notebooks)"),
        ("common: {seeds: [2024-01-01]}", "'seeds' must be made of numbers, text, lists and"),
        ("common: {seeds: &a [*a]}", "'seeds' must be made of numbers, text, lists and mappings"),
    ],
)
def test_broken_profiles_are_refused(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each broken rule of a profile file has its message, which names the file."""
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    assert main(["run", "--profile", str(path)]) == 2
    assert f"kdlib: {path}: {message}" in capsys.readouterr().err
