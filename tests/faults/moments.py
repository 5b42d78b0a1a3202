"""Kill `kdlib run` and `kdlib distill` at random moments, resume them, and compare the results.

    python tests/faults/moments.py                 # 20 moments and 10: hours on one core
    python tests/faults/moments.py --runs 4 --distillations 2

Moments are drawn from a seed, which is printed, one in each of equal parts of the work. The command
alone and its process group are killed in turn. Afterwards no process of it may live on, and once it
has resumed, its files must be those of unbroken work: weights, labels, histories and result files
bit for bit, but for times, memory and provenance. What was done is kept in a folder, so that this
script resumes, too; remove it after a change of the code.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from kdlib.distill import Plan
from kdlib.pipeline import notebook, notebooks_folder
from kdlib.results.files import PROVENANCE

#: Environment variable by which the processes of one command are found again.
MARK = "KDLIB_FAULT"
#: Seconds within which all processes must end after their command was killed.
GRACE = 30.0
#: Units of variables that differ from run to run, and names of what follows from them.
TIMES = frozenset({"s", "min", "ms/atom/step", "us/atom/step", "MB", "kB/atom"})
FROM_TIMES = frozenset({"max_atoms"})
#: Beginnings of the names of claims that are about them.
CLAIMS_OF_TIMES = ("time_", "memory_", "pareto_")
#: Kills of one run of the pipeline before it may end.
KILLS = 5
#: A distillation of half a minute that goes through every phase.
PLAN = Plan(
    "emt", ("Cu",), temperatures=(300.0, 900.0), size="8-8-1", n_atoms=8, n_start=16,
    n_teacher_runs=1, teacher_steps=20, n_trajectories=4, n_steps=100, sample_every=25,
    max_rounds=2, round_epochs=20, final_epochs=40, cutoff=5.0, target_force_rmse=1e-6,
    max_minutes=1e6,
)  # fmt: skip
#: It is a file because its workers must be able to import it.
DISTILL = """
import json, sys
from kdlib import distill, files

if __name__ == "__main__":
    plan, out = distill.Plan(**json.loads(sys.argv[1])), sys.argv[2]
    with files.locked(out):
        outcome = distill.run(plan, out)
        distill.deliver(plan, outcome, out)
        measured = {"n_atoms": 32, "nve_ps": 0.1, "npt_ps": 0.1, "timed_steps": 2}
        distill.write_report(plan, out, measured | {"timed_atoms": 32})
"""


@dataclass(frozen=True)
class Kill:
    """One moment at which a command was killed."""

    moment: float
    """Share of the unbroken work that was done, as far as times repeat."""
    group: bool
    """Whether the whole process group was killed, or the command alone."""
    phase: str
    """Newest file at that moment."""
    ended_in: float
    """Seconds until its last process had ended."""


@dataclass(frozen=True)
class Work:
    """A command that writes into a folder."""

    name: str
    command: Callable[[Path], list[str | Path]]
    """Folder -> command."""
    reached: Callable[[Path, Path, float, float], bool]
    """Whether a moment is reached: folder, that of unbroken work, moment, seconds since start."""


def pipeline(*options: str) -> Work:
    """`kdlib run` with these options."""
    command = lambda out: [sys.executable, "-m", "kdlib", "run", "--results", out, *options]  # noqa: E731
    return Work("run", command, _in_step)


def distillation(script: Path, plan: Plan = PLAN) -> Work:
    """A distillation with its report; the script is written."""
    script.write_text(DISTILL)
    command = lambda out: [sys.executable, script, json.dumps(asdict(plan)), out]  # noqa: E731
    return Work("distill", command, _in_time)


def _steps(unbroken: Path) -> dict[str, float]:
    """Name -> seconds of the notebooks of unbroken work, in their order."""
    names = [step.name for step in notebook.discover(notebooks_folder())]
    records = {name: unbroken / "notebooks" / f"{name}.json" for name in names}
    return {
        name: json.loads(path.read_text())["seconds"]
        for name, path in records.items()
        if path.exists()
    }


def _in_step(folder: Path, unbroken: Path, moment: float, seconds: float) -> bool:
    """Whether the notebook of a moment has been running for its share of the time."""
    left = moment * sum(_steps(unbroken).values())
    for name, length in _steps(unbroken).items():
        if left <= length:
            return seconds >= left
        if not (folder / "notebooks" / f"{name}.json").exists():
            return False
        left -= length
    return True


def _in_time(folder: Path, unbroken: Path, moment: float, seconds: float) -> bool:
    return seconds >= moment * json.loads((unbroken.parent / "seconds.json").read_text())


def finish(work: Work, folder: Path) -> float:
    """Let a command run to its end; return the seconds that it took."""
    began = time.monotonic()
    done = ended(work, folder)
    if done.returncode:
        raise RuntimeError(f"{work.name} ended with {done.returncode}:\n{done.stderr}")
    return time.monotonic() - began


def ended(work: Work, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends, well or not."""
    return subprocess.run(work.command(folder), env=_environment(), capture_output=True, text=True)


def _environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | more


def kill(work: Work, folder: Path, unbroken: Path, moment: float, group: bool) -> Kill | None:
    """Start a command and kill it at a moment; None if it ended before."""
    mark, log = uuid.uuid4().hex, folder.with_suffix(".log").open("a")
    with log, subprocess.Popen(
        work.command(folder), env=_environment(**{MARK: mark}), stdout=log, stderr=log,
        start_new_session=True,
    ) as process:  # fmt: skip
        began, seen = time.monotonic(), None
        while process.poll() is None:
            seconds = time.monotonic() - (seen or began)
            if work.reached(folder, unbroken, moment, seconds):
                (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
                phase = newest(folder)
                break
            if seen is None and work.reached(folder, unbroken, moment, np.inf):
                seen = time.monotonic()  # the notebook of this moment has begun
            time.sleep(0.02)
        else:
            if process.returncode:
                raise RuntimeError(f"{work.name} ended with {process.returncode}: see {log.name}")
            return None
        process.wait()
        return Kill(moment, group, phase, _until_ended(mark))


def _until_ended(mark: str) -> float:
    """Seconds until no process of a killed command is left; those that stay are ended."""
    began = time.monotonic()
    while pids := list(processes_of(mark)):
        if time.monotonic() - began > GRACE:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"{len(pids)} processes lived on for {GRACE:g} s")
        time.sleep(0.05)
    return time.monotonic() - began


def processes_of(mark: str) -> Iterator[int]:
    """Living processes whose environment holds the mark."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:  # it has ended, or is somebody else's
            continue


def newest(folder: Path) -> str:
    """Path of the file that was written last; a temporary name stands for its file."""
    found = {}
    for path in folder.rglob("*") if folder.exists() else ():
        try:
            found[path.stat().st_mtime_ns] = path
        except FileNotFoundError:
            continue
    files = {when: path for when, path in found.items() if not path.is_dir()}
    return files[max(files)].relative_to(folder).as_posix() if files else "nothing yet"


def differences(folder: Path, unbroken: Path) -> list[str]:
    """Files that are missing, left over, or hold something else than those of unbroken work."""
    ours, theirs = (
        {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
        for home in (folder, unbroken)
    )
    found = [f"{name} is missing" for name in sorted(theirs - ours)]
    found += [f"{name} is left over" for name in sorted(ours - theirs)]
    return found + [
        f"{name} differs{what}"
        for name in sorted(ours & theirs)
        for what in _differing(folder / name, unbroken / name)
    ]


def _differing(one: Path, other: Path) -> list[str]:
    """What differs between two files of one name."""
    if one.suffix == ".nc":
        return _differing_data(one, other)
    if one.name == "rounds.json":
        rows = [json.loads(path.read_text()) for path in (one, other)]
        for row in (row for part in rows for row in part):
            row.pop("minutes"), row.pop("ending", None)
        return [] if rows[0] == rows[1] else [""]
    if one.suffix in (".safetensors", ".extxyz", ".py") or one.name in ("config.json", "plan.json"):
        return [] if one.read_bytes() == other.read_bytes() else [""]
    if one.suffix == ".ipynb":
        text = json.loads(one.read_text())
        return [] if all(_is_fine(cell) for cell in text["cells"]) else [": an error in it"]
    empty = one.stat().st_size == 0 < other.stat().st_size  # pictures of times, logs, records
    return [": it is empty"] if empty else []


def _is_fine(cell: dict) -> bool:
    return all(output["output_type"] != "error" for output in cell.get("outputs", ()))


def _differing_data(one: Path, other: Path) -> list[str]:
    """Variables and attributes that differ, but for times, memory and provenance."""
    ours, theirs = (
        _without_timings(
            xr.load_dataset(path, engine="h5netcdf", decode_times=False, decode_timedelta=False)
        )
        for path in (one, other)
    )
    names = sorted({*map(str, ours.variables), *map(str, theirs.variables)})
    found = [
        f": {name}"
        for name in names
        if name not in ours
        or name not in theirs
        or not (_is_timing(name, theirs) or ours[name].variable.identical(theirs[name].variable))
    ]
    about = [
        {k: v for k, v in ds.attrs.items() if k not in PROVENANCE | {"ending", "key"}}
        for ds in (ours, theirs)
    ]
    return found + ([] if str(about[0]) == str(about[1]) else [": attributes"])


def _without_timings(ds: xr.Dataset) -> xr.Dataset:
    if "claim" not in ds.dims:
        return ds
    return ds.sel(claim=[not str(c).startswith(CLAIMS_OF_TIMES) for c in ds.claim.values])


def _is_timing(name: str, ds: xr.Dataset) -> bool:
    return name in FROM_TIMES or ds[name].attrs.get("units") in TIMES


def survive(
    work: Work, folder: Path, unbroken: Path, moments: list[float], first: int = 0
) -> tuple[list[Kill], list[str]]:
    """Kill one command at some moments in turn, let it end, and compare it with unbroken work."""
    kills = [
        _killed(work, folder, unbroken, moment, group=(first + k) % 2 == 0)
        for k, moment in enumerate(sorted(moments))
    ]
    finish(work, folder)
    return kills, differences(folder, unbroken)


def _killed(work: Work, folder: Path, unbroken: Path, moment: float, group: bool) -> Kill:
    """Kill a command at a moment, or sooner where it is faster than the unbroken work was."""
    while (one := kill(work, folder, unbroken, moment, group)) is None:
        shutil.rmtree(folder)
        moment *= 0.8
    return one


def reference(work: Work, home: Path) -> Path:
    """Folder of unbroken work, done where it is not yet."""
    unbroken = home / "unbroken"
    if not (home / "seconds.json").exists():
        shutil.rmtree(unbroken, ignore_errors=True)
        seconds = finish(work, unbroken)
        (home / "seconds.json").write_text(json.dumps(seconds))
    return unbroken


def campaign(work: Work, home: Path, count: int, per_command: int, seed: int) -> bool:
    """Do what was not done before, print the table of all moments, and say if all agree."""
    home.mkdir(parents=True, exist_ok=True)
    unbroken = reference(work, home)
    rng = np.random.default_rng(seed)  # one moment in each of `count` equal parts of the work
    moments = (0.98 * (rng.permutation(count) + rng.random(count)) / count).tolist()
    good = True
    for first in range(0, count, per_command):
        record, folder = home / f"{seed}_{first}.json", home / f"{seed}_{first}"
        if not record.exists():
            shutil.rmtree(folder, ignore_errors=True)
            chosen = moments[first : first + per_command]
            kills, found = survive(work, folder, unbroken, chosen, first)
            done = {"kills": [asdict(one) for one in kills], "differences": found}
            record.write_text(json.dumps(done, indent=1) + "\n")
            if not found:
                shutil.rmtree(folder)
        good &= _show(work, json.loads(record.read_text()))
    return good


def _show(work: Work, done: dict) -> bool:
    outcome = "; ".join(done["differences"][:3]) or "the same results"
    for one in done["kills"]:
        who = "group" if one["group"] else "alone"
        row = f"{work.name:<8}{one['moment']:>6.2f}  {who:<6}{one['ended_in']:>5.1f} s  "
        sys.stdout.write(f"{row}{one['phase']:<60.60}  {outcome}\n")
    sys.stdout.flush()
    return not done["differences"]


def main() -> int:
    """Run the campaigns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="moments of `kdlib run` (%(default)s)")
    parser.add_argument("--distillations", type=int, default=10, help="and of a distillation")
    parser.add_argument("--profile", default="smoke", help="profile of the run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("results/faults"), help="where")
    options = parser.parse_args()
    home = options.folder.resolve()
    home.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"seed {options.seed}\nwork    moment  killed  ended  newest file\n")
    distill = distillation(home / "distillation.py")
    finish(distill, home / "compiled")  # code that was just compiled may round differently
    good = campaign(distill, home / "distill", options.distillations, 1, options.seed)
    run = pipeline("--profile", options.profile)
    good &= campaign(run, home / "run", options.runs, KILLS, options.seed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
