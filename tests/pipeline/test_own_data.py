"""Profiles that name a user's own files: their paths and dependents."""

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from kdlib.__main__ import main
from kdlib.errors import InputError
from kdlib.pipeline import notebook, profile, runner
from kdlib.results import hashes

PARAMETERS = 'dataset: str = "al-pbe"  # frames'


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Profile beside a folder with two files."""
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / f"{name}.xyz").write_text(name)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "description: mine\n"
        "common: {dataset: set/a.xyz}\n"
        "notebooks: {01_x: {dataset: 'set/*.xyz'}, 02_x: {dataset: ani-al}}\n"
    )
    return path


def test_files_are_looked_for_beside_the_profile(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths and patterns start at the profile, wherever the command runs; names stay names."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = profile.load(Path("..") / mine.name)
    assert found.common["dataset"] == str(tmp_path / "set" / "a.xyz")
    assert found.notebooks["01_x"]["dataset"] == str(tmp_path / "set" / "*.xyz")
    assert found.notebooks["02_x"]["dataset"] == "ani-al"


def test_a_profile_may_lie_in_any_folder(
    tmp_path: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets, braces, signs and blanks in names of folders and files pass through the command."""
    cell = (
        "from pathlib import Path\nfrom kdlib.files import matching\n"
        "text = ' '.join(path.read_text() for path in matching(dataset))\n"
        "Path(results_dir, 'x.txt').write_text(text)"
    )
    declared = f'results_dir: str = ""  # where the files go\n{PARAMETERS}'
    notebooks = write_notebook("01_x", cell, parameters=declared, writes=["x.txt"]).parent
    folder = tmp_path / "my data [v2] @ 300K" / "ünï {a} #1 100% *"
    shutil.copytree(notebooks, folder / "nb [1] {b}")
    for name in ("a@0", "b@1"):
        (folder / f"{name}.xyz").write_text(name)
    (folder / "mine {v}@2.yaml").write_text("common: {dataset: '*@?.xyz'}\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(folder))
    command = ["run", "--profile", "~/mine {v}@2.yaml", "--notebooks", "~/nb [1] {b}"]
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--results", f"{folder.relative_to(tmp_path)}/[r] {{c}}"]) == 0
    assert (folder / "[r] {c}" / "x.txt").read_text() == "a@0 b@1"


def test_absent_files_are_named_before_anything_runs(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the profile and what it asked for."""
    mine.write_text("common: {dataset: absent.xyz}\n")
    assert main(["run", "--profile", str(mine)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"kdlib: {mine}: dataset: {mine.parent / 'absent.xyz'}: neither a file")


def test_a_step_depends_on_every_file_of_a_pattern(
    mine: Path, write_notebook: Callable[..., Path]
) -> None:
    """Changing, adding or removing a file of the pattern changes the key of the step."""
    step = notebook.read(write_notebook("01_x", parameters=PARAMETERS))

    def key() -> str:
        parameters = profile.load(mine).parameters(step)
        return runner.key(runner.dependencies(step, parameters, mine.parent))

    keys = [key()]
    for change in (
        lambda: (mine.parent / "set" / "b.xyz").write_text("other"),
        lambda: (mine.parent / "set" / "c.xyz").write_text("new"),
        lambda: (mine.parent / "set" / "a.xyz").unlink(),
    ):
        mine.write_text(mine.read_text().replace("set/a.xyz", "set/b.xyz"))
        change()
        keys.append(key())
    assert len(set(keys)) == 4


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """A profile that names its files in a list, in a mapping and after the kind of a teacher."""
    (tmp_path / "model").mkdir()
    for name in ("Cu.cif", "dft_1.xyz", "Cu.eam", "model/config.json", "emt"):
        (tmp_path / name).write_text(name)
    path = tmp_path / "copper.yaml"
    path.write_text(
        "notebooks: {01_x: {structures: [Cu, Cu.cif], options: {data: [dft_*.xyz], labels: none},"
        " teacher: 'eam:Cu.eam', other: 'kdlib:model', plain: emt, factory: 'package.module:make'}}"
    )
    return path


MATERIAL = (
    "structures: list = []  # files\noptions: dict = {}  # more\nteacher: str = ''  # one\n"
    "other: str = ''  # one more\nplain: str = ''  # a word\nfactory: str = ''  # a function\n"
)


def test_a_profile_names_the_files_beside_it(
    material: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in lists, in mappings and after a teacher's kind, whatever folder the command is in."""
    step = notebook.read(write_notebook("01_x", parameters=MATERIAL))
    monkeypatch.chdir("/")
    home = str(material.parent)
    assert profile.load(material).parameters(step) == {
        "structures": ["Cu", f"{home}/Cu.cif"],
        "options": {"data": [f"{home}/dft_*.xyz"], "labels": "none"},
        "teacher": f"eam:{home}/Cu.eam",
        "other": f"kdlib:{home}/model",
        "plain": "emt",
        "factory": "package.module:make",
    }


@pytest.mark.parametrize("changed", ["Cu.cif", "dft_1.xyz", "Cu.eam", "model/config.json"])
def test_a_step_depends_on_every_file_that_its_parameters_name(
    changed: str, material: Path, write_notebook: Callable[..., Path]
) -> None:
    """An edited structure, own frame, potential or model is not up to date."""
    step = notebook.read(write_notebook("01_x", parameters=MATERIAL))

    def files() -> dict[str, str]:
        parameters = profile.load(material).parameters(step)
        return runner.dependencies(step, parameters, material.parent)["files"]

    before = files()
    (material.parent / changed).write_text("edited")
    after = files()
    assert {name for name in before if before[name] != after[name]} == {
        str(material.parent / changed)
    }
    assert len(before) == 4


def test_a_file_that_may_not_be_read_is_named(
    material: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with path and reason, before anything is run."""
    step = notebook.read(write_notebook("01_x", parameters=MATERIAL))
    parameters = profile.load(material).parameters(step)
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(hashes, "_of_bytes", Mock(side_effect=denied))
    with pytest.raises(InputError, match=f"^{material.parent}/.*: cannot be read: Permission den"):
        runner.dependencies(step, parameters, material.parent)
