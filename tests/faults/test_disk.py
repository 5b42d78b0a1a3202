"""Disks that fill up in any phase of a run of notebooks."""

import asyncio
from pathlib import Path

import pytest
import yaml
from faults import moments
from jupyter_core.utils import ensure_event_loop

from kdlib import files, pipeline
from kdlib.errors import InputError
from kdlib.pipeline import profile

#: Kilobytes: room for a lock, for the first result, for its copy, and for the second result.
SIZES = (4, 28, 80, 150)
#: Folders that a command begins one after the other.
PHASES_OF_A_RUN = {"logs", "runs", "figures"}
PHASES_OF_A_DISTILLATION = {"labels", "rounds", "runs", "report"}
WRITE = """
from pathlib import Path
from kdlib import files
with files.replacing(Path(results_dir, "NAME.txt")) as part:
    part.write_text("x" * SIZE)
print("y" * 20_000)
"""


@pytest.fixture
def notebooks(write_notebook):
    """Two notebooks, each with a result, and much text in its executed copy."""
    for name, size, reads in (("01_a", 10_000, ()), ("02_b", 60_000, ("01_a.txt",))):
        code = WRITE.replace("NAME", name).replace("SIZE", str(size))
        path = write_notebook(name, code, reads=reads, writes=[f"{name}.txt"])
    return path.parent


@pytest.mark.slow
def test_a_run_survives_a_full_disk(small_disk, notebooks):
    """Wherever the space ends, one sentence says so; with more of it, the same call resumes."""
    mount, resize = small_disk
    out, reached = mount / "out", set()
    full = pytest.raises(InputError, match=f"{out}.*No space left on device; make room.*resumes$")
    for kilobytes in SIZES:
        resize(f"{kilobytes}k")
        with full:
            pipeline.run(profile.Profile("p"), out, notebooks)
        reached.add(frozenset(_names(out)))
    assert len(reached) >= 3
    resize("10m")
    outcomes = pipeline.run(profile.Profile("p"), out, notebooks)
    assert [outcome.skipped for outcome in outcomes] == [True, False]
    assert (out / "02_b.txt").stat().st_size == 60_000
    parts = {"01_a.ipynb", "01_a.json", "02_b.ipynb", "02_b.json"}
    assert {path.name for path in (out / "notebooks").iterdir()} == parts
    assert not (out / files.LOCK).exists()


def test_a_full_disk_leaves_no_task_behind(tmp_path, write_notebook):
    """Where an output cannot be written, nothing keeps watching the kernel that has ended."""
    notebooks = write_notebook("01_a", 'print("y" * 20_000)\nprint("y" * 20_000)').parent
    log = tmp_path / "out" / "logs" / "01_a.log"
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device"):
        pipeline.run(profile.Profile("p"), tmp_path / "out", notebooks)
    loop = ensure_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    assert not asyncio.all_tasks(loop)


#: Kilobytes at which a disk is full first, and by what factor it grows until the work is done.
FIRST, GROWTH = 40, 1.6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "distill"])
def test_a_command_survives_a_full_disk_in_every_phase(name, small_disk, tmp_path):
    """One sentence wherever the space ends, and in the end the files of unbroken work."""
    (mount, resize), brief = small_disk, tmp_path / "brief.yaml"
    training = {"batch_size": 32, "max_epochs": 2}
    common = {"teacher_architecture": [8, 6, 1], "seeds": [0, 1], "training": training}
    brief.write_text(yaml.safe_dump({"common": common | {"workers": 2}}))
    work, phases = {
        "run": (moments.pipeline("--profile", str(brief), "--only", "02"), PHASES_OF_A_RUN),
        "distill": (moments.distillation(tmp_path / "distillation.py"), PHASES_OF_A_DISTILLATION),
    }[name]
    moments.finish(work, tmp_path / "compiled")
    unbroken = moments.reference(work, tmp_path)
    reached, kilobytes = set(), FIRST
    while (error := _told(work, mount / "out", resize, kilobytes)) is not None:
        last = error.splitlines()[-1]
        assert "No space left on device; make room" in last, error
        assert last.endswith("which resumes"), error
        assert "Traceback" not in last
        reached |= {Path(name).parts[0] for name in _names(mount / "out")}
        kilobytes *= GROWTH
    assert moments.differences(mount / "out", unbroken) == []
    assert phases <= reached


def _told(work: moments.Work, folder: Path, resize, kilobytes: float) -> str | None:
    """What a command says on a disk of some size; None if it came to its end."""
    resize(f"{kilobytes:.0f}k")
    done = moments.ended(work, folder)
    return done.stderr if done.returncode else None


def _names(out: Path) -> list[str]:
    """Files of a run, none of them half-written."""
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert not [name for name in names if ".part" in name]
    return [name for name in names if not name.endswith(".failed.ipynb")]
