"""LAMMPS with an embedded-atom potential and with our pair style, on the same liquid and cores.

LAMMPS is optional; :mod:`kdlib.md.lammps.program` says where it is looked for.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.lammpsdata import write_lammps_data

from kdlib.errors import InputError
from kdlib.md.lammps import pairstyle, program
from kdlib.md.lammps.program import Program
from kdlib.results.schema import COMPONENTS

POTENTIAL = "Al_zhou.eam.alloy"

_SCRIPT = """\
units metal
atom_style atomic
boundary p p p
read_data {data}
{forces}
neighbor {skin} bin
neigh_modify every 1 delay 0 check yes
timestep {timestep}
fix nve all nve
thermo {n_steps}
"""


class LammpsError(RuntimeError):
    """LAMMPS stopped with an error."""


@dataclass(frozen=True)
class Lammps(Program):
    """A program and its embedded-atom potential."""

    potential: Path
    """File of the potential."""


@dataclass(frozen=True)
class PairStyle:
    """Our pair style with one model."""

    plugin: Path
    """Compiled by :func:`kdlib.md.lammps.pairstyle.build`."""
    folder: Path
    """Of the model."""


@dataclass(frozen=True)
class LammpsRun:
    """Measurements of one LAMMPS process."""

    seconds: np.ndarray
    """(component, repeat), wall time of each block of steps, s."""
    builds: int
    """Builds of the neighbor list in all blocks."""
    peak: float
    """Peak resident memory of the process, bytes."""
    version: str


def find(executable: str | Path = "") -> Lammps:
    """Locate LAMMPS, as :func:`kdlib.md.lammps.program.find` does, and its potential.

    Raises
    ------
    InputError
        There is no executable, or no potential beside it.
    """
    found = program.find(executable)
    shares = [folder / "share" / "lammps" / "potentials" / POTENTIAL for folder in found.folders]
    potential = next((path for path in shares if path.is_file()), None)
    if potential is None:
        where = f"share/lammps/potentials of {found.executable}"
        raise InputError(f"LAMMPS: {POTENTIAL} is not in {where}")
    return Lammps(found.executable, found.libraries, potential)


def run(
    lammps: Lammps,
    atoms: Atoms,
    n_steps: int,
    repeats: int,
    warmup_steps: int,
    threads: int = 1,
    timestep: float = 1.0,
    skin: float = 1.0,
    ranks: int = 1,
    model: PairStyle | None = None,
) -> LammpsRun:
    """Run NVE of periodic aluminum in blocks of steps, each timed by LAMMPS itself.

    Parameters
    ----------
    warmup_steps
        Steps before the first block.
    threads
        OpenMP threads (``-sf omp -pk omp N``).
    timestep
        In fs.
    skin
        Skin of the neighbor list, Angstrom.
    ranks
        Processes of MPI; the peak memory is known only of one.
    model
        By default the embedded-atom potential.
    """
    settings = {
        "forces": "\n".join(_forces(model)),
        "skin": skin,
        "timestep": timestep / 1000,  # ps
        "n_steps": n_steps,
    }
    with tempfile.TemporaryDirectory() as folder:
        data, script = Path(folder) / "liquid.data", Path(folder) / "in.nve"
        # LAMMPS splits a command at spaces: names without a folder cannot hold any.
        for name, path in _files(lammps, model).items():
            (Path(folder) / name).symlink_to(path.absolute())
        write_lammps_data(data, atoms, velocities=True, units="metal", masses=True)
        lines = [f"run {warmup_steps}", *[f"run {n_steps} pre no"] * repeats]
        script.write_text(
            _SCRIPT.format(data=data.name, **settings) + "\n".join(lines) + "\n", encoding="utf-8"
        )
        command = [*_ranks(lammps, ranks), lammps.executable, "-in", script.name, "-log", "none"]
        command += ["-sf", "omp", "-pk", "omp", str(threads)]
        environment = {**lammps.environment, "OMP_NUM_THREADS": str(threads)}
        output, peak = _watched(list(map(str, command)), environment, folder)
    return parse(output, peak if ranks == 1 else np.nan)


def _forces(model: PairStyle | None) -> list[str]:
    if model is None:
        return ["pair_style eam/alloy", f"pair_coeff * * {POTENTIAL} Al"]
    return [*pairstyle.commands("./hipnn.so"), "pair_coeff * * model Al"]


def _files(lammps: Lammps, model: PairStyle | None) -> dict[str, Path]:
    if model is None:
        return {POTENTIAL: lammps.potential}
    return {"hipnn.so": model.plugin, "model": model.folder}


def _ranks(lammps: Lammps, ranks: int) -> list[str | Path]:
    """Words before the program that start it in several processes."""
    if ranks == 1:
        return []
    if lammps.mpiexec is None:
        raise LammpsError("LAMMPS: there is no mpiexec")
    return [lammps.mpiexec, "-n", str(ranks)]


def _watched(command: list[str], environment: Mapping[str, str], folder: str) -> tuple[str, float]:
    """Return the output of a process and its peak memory in bytes, read while it runs.

    The kernel's report after the end would include the parent's memory before the program was
    loaded.
    """
    log = Path(folder) / "output"
    peak = 0.0
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=dict(environment), cwd=folder
        )
        try:
            while process.poll() is None:
                peak = max(peak, _high_water_mark(process.pid))
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    output = log.read_text(errors="replace", encoding="utf-8")
    if process.returncode != 0:
        errors = [line for line in output.splitlines() if "ERROR" in line or "error" in line]
        reason = errors[0] if errors else f"exit code {process.returncode}"
        raise LammpsError(f"LAMMPS: {reason}")
    return output, peak or np.nan


def _high_water_mark(pid: int) -> float:
    """Peak resident memory of a process, bytes; 0 when it cannot be read."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return float(found[1]) * 1024 if found else 0.0


def parse(output: str, peak: float = np.nan) -> LammpsRun:
    """Read the timings that LAMMPS prints after every ``run``; the first is the warm-up.

    ``peak`` (bytes) is passed on.
    """
    version = re.search(r"LAMMPS \(([^)]*)\)", output)
    blocks = output.split("Loop time of ")[1:]
    if version is None or len(blocks) < 2:
        raise LammpsError("LAMMPS: the output holds no timings after the warm-up")
    # Runs that continue without a new setup also continue to count builds.
    builds = [_number(r"^Neighbor list builds = (\d+)", block) for block in blocks]
    seconds = np.transpose([_components(block) for block in blocks[1:]])
    return LammpsRun(seconds, int(builds[-1] - builds[0]), peak, version[1])


def _components(block: str) -> list[float]:
    """Seconds of one block: total, neighbor list, pair potential, rest."""
    total = _number(r"^(\S+) on ", block)
    neighbor, pair = (
        _number(rf"^{name}\s*\|[^|]*\|\s*(\S+)\s*\|", block) for name in ("Neigh", "Pair")
    )
    parts = {"total": total, "neighbor_list": neighbor, "model": pair}
    parts["integrator"] = total - neighbor - pair
    return [parts[name] for name in COMPONENTS]


def _number(pattern: str, block: str) -> float:
    found = re.search(pattern, block, re.MULTILINE)
    if found is None:
        raise LammpsError(f"LAMMPS: the output of a run does not hold {pattern!r}")
    return float(found[1])
