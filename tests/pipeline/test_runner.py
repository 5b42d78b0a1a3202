"""Order, skipping, failure and interruption of a run, on notebooks of a few lines."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import xarray as xr

from kdlib import pipeline, results
from kdlib.errors import InputError
from kdlib.pipeline import kernel, notebook, profile, runner
from kdlib.results import hashes

# papermill and its kernels: about a second for each notebook
WRITE_X = "from pathlib import Path\nPath(results_dir, 'x.txt').write_text(str(factor))"
WRITE_Y = (
    "from pathlib import Path\n"
    "Path(results_dir, 'y.txt').write_text(2 * Path(results_dir, 'x.txt').read_text())"
)
FACTOR = 'results_dir: str = ""  # where the files go\nfactor: int = 3  # what is written'


@pytest.fixture
def chain(write_notebook: Callable[..., Path]) -> None:
    """Write three notebooks: x, then y from x, and one that stands alone."""
    write_notebook("01_x", WRITE_X, parameters=FACTOR, writes=["x.txt"])
    write_notebook("02_y", WRITE_Y, reads=["x.txt"], writes=["y.txt"])
    write_notebook("03_alone", "1 + 1")


@pytest.fixture
def _without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run cells in this process, for tests of what runs and not of how it runs."""

    def execute(step: notebook.Step, parameters: dict, folder: Path) -> Path:
        declared, *rest = step.cells
        scope: dict = {}
        exec(declared, scope)
        scope |= parameters
        for cell in rest:
            exec(cell, scope)
        return shutil.copy(step.path, folder / "notebooks")

    monkeypatch.setattr(runner, "execute", execute)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that runs the notebooks and tells why each ran, `""` if it was skipped."""

    def call(common: dict | None = None, **options: object) -> dict[str, str]:
        chosen = profile.Profile("test", common=common or {})
        folder = tmp_path / "results"
        outcomes = pipeline.run(chosen, folder, tmp_path / "notebooks", **options)
        return {outcome.name: outcome.reason for outcome in outcomes}

    return call


def test_order_follows_files_before_names(write_notebook: Callable[..., Path]) -> None:
    """A notebook comes after the makers of what it reads; the rest is sorted by name."""
    write_notebook("01_last", reads=["a.nc", "b.nc"])
    write_notebook("02_middle", reads=["a.nc"], writes=["b.nc"])
    write_notebook("03_free")
    path = write_notebook("04_first", writes=["a.nc"])
    names = [step.name for step in notebook.discover(path.parent)]
    assert names == ["03_free", "04_first", "02_middle", "01_last"]


@pytest.mark.parametrize(
    ("reads", "writes", "message"),
    [
        (["nowhere.nc"], [], "01_a.ipynb: reads nowhere.nc, which no notebook writes"),
        (["b.nc"], ["a.nc"], "in a circle: 01_a, 02_b"),
        ([], ["b.nc"], "b.nc is written by both 01_a and 02_b"),
    ],
)
def test_impossible_orders_are_refused(
    write_notebook: Callable[..., Path], reads: list[str], writes: list[str], message: str
) -> None:
    """A missing maker, a circle and two makers of one file each have their own message."""
    write_notebook("01_a", reads=reads, writes=writes)
    path = write_notebook("02_b", reads=["a.nc"] if "a.nc" in writes else [], writes=["b.nc"])
    with pytest.raises(InputError, match=message):
        notebook.discover(path.parent)


@pytest.mark.usefixtures("chain")
def test_second_run_skips_everything(run: Callable[..., dict], tmp_path: Path) -> None:
    """Nothing changed, so nothing runs, and nothing is written."""
    assert set(run().values()) == {"not run before"}
    assert (tmp_path / "results" / "y.txt").read_text() == "33"
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*.*")}
    assert set(run().values()) == {""}
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*.*")}
    assert after == before
    assert set(run(force=True).values()) == {"forced"}


@pytest.mark.usefixtures("chain", "_without_kernels")
def test_changed_parameter_reaches_dependents(run: Callable[..., dict], tmp_path: Path) -> None:
    """A new value reruns the notebook that takes it and, its file being new, what reads that."""
    run()
    assert run({"factor": 4}) == {
        "01_x": "parameters changed: factor",
        "02_y": "files changed: x.txt",
        "03_alone": "",
    }
    assert (tmp_path / "results" / "y.txt").read_text() == "44"


@pytest.mark.usefixtures("chain", "_without_kernels")
def test_changed_cell_with_the_same_result_stops_there(
    write_notebook: Callable[..., Path], run: Callable[..., dict]
) -> None:
    """A code cell that is edited reruns its notebook; the same file spares the dependents."""
    run()
    write_notebook("01_x", WRITE_X + "\nprint()", parameters=FACTOR, writes=["x.txt"])
    assert run() == {"01_x": "code cells changed", "02_y": "", "03_alone": ""}


@pytest.mark.usefixtures("chain", "_without_kernels")
def test_altered_and_missing_results_are_made_again(
    run: Callable[..., dict], tmp_path: Path
) -> None:
    """A result that was edited or deleted by hand is written again by its notebook."""
    run()
    (tmp_path / "results" / "y.txt").write_text("edited")
    assert run()["02_y"] == "y.txt was altered"
    (tmp_path / "results" / "x.txt").unlink()
    assert run() == {"01_x": "x.txt is missing", "02_y": "", "03_alone": ""}
    assert (tmp_path / "results" / "y.txt").read_text() == "33"


def test_editing_a_module_reruns_only_its_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a step follows imports through the package, relative ones and data included."""
    package = tmp_path / "kdlib"
    (package / "deep").mkdir(parents=True)
    (package / "datasets" / "data").mkdir(parents=True)
    sources = {
        "a.py": "from kdlib import b\n",
        "b.py": "from .deep import core\n",
        "deep/__init__.py": "",
        "deep/core.py": "from ..units import EV\nFILE = 'table.csv'\n",
        "units.py": "EV = 1\n",
        "figures.py": "import kdlib.units\n",
    }
    for name, source in sources.items():
        (package / name).write_text(source)
    table = package / "datasets" / "data" / "table.csv"
    table.write_text("1")
    monkeypatch.setattr(hashes, "_ROOT", package)
    monkeypatch.setattr("kdlib.results.sources._ROOT", package)
    before = hashes.modules(["from kdlib import a"])
    assert list(before) == ["kdlib.a", "kdlib.b", "kdlib.deep", "kdlib.deep.core", "kdlib.units"]

    def changed() -> set[str]:
        now = hashes.modules(["from kdlib import a"])
        return {name for name in now if now[name] != before[name]}

    (package / "figures.py").write_text("import kdlib.units as edited\n")
    (package / "b.py").write_text('"""Edited."""\nfrom .deep import core  # edited\n')
    assert changed() == set()
    (package / "units.py").write_text("EV = 2\n")
    assert changed() == {"kdlib.units"}
    table.write_text("2")
    assert changed() == {"kdlib.units", "kdlib.deep.core"}


def test_a_step_depends_on_the_dataset_it_names(write_notebook: Callable[..., Path]) -> None:
    """The packed frames of `al-pbe` belong to the key of a notebook whose parameter names them."""
    step = notebook.read(write_notebook("01_data", parameters='dataset: str = "al-pbe"  # frames'))
    files = runner.dependencies(step, {}, Path())["files"]
    assert "al-pbe.extxyz.xz" in files
    assert files == runner.dependencies(step, {"dataset": "al-pbe"}, Path())["files"]


def test_workers_and_folder_are_not_part_of_the_key(write_notebook: Callable[..., Path]) -> None:
    """Where a run writes and how many processes train do not decide what comes out."""
    step = notebook.read(write_notebook("01_a"))
    few = runner.dependencies(step, {"workers": 1, "results_dir": "here"}, Path())
    many = runner.dependencies(step, {"workers": 8, "results_dir": "there"}, Path())
    assert runner.key(few) == runner.key(many)
    assert runner.key(few) != runner.key(runner.dependencies(step, {"seeds": [1]}, Path()))


def test_provenance_does_not_count_as_a_change(tmp_path: Path) -> None:
    """The same numbers at another time have the same hash; one changed number has another."""
    meaning = {"units": "eV", "long_name": "energy"}
    series = xr.Dataset({"energy": ("frame", np.array([1.0, 2.0]), meaning)})
    found = [
        hashes.file(results.save(ds, tmp_path / "a.nc", kind="figure", wall_time=seconds))
        for ds, seconds in (
            (series, 1.0),
            (series, 2.0),
            (series.map(np.negative, keep_attrs=True), 2.0),
        )
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("common", "own", "message"),
    [
        ({"color": 1}, {}, "profile p: no notebook has a parameter 'color'"),
        ({}, {"01_x": {"color": 1}}, r"01_x.ipynb: no parameter 'color' \(it has: results_dir"),
        ({}, {"09_none": {}}, "profile p: no notebook '09_none'"),
        ({"factor": "3"}, {}, "01_x.ipynb: parameter 'factor' must be int, got '3'"),
        ({"factor": True}, {}, "01_x.ipynb: parameter 'factor' must be int, got True"),
    ],
)
@pytest.mark.usefixtures("chain")
def test_wrong_parameters_are_refused_before_anything_runs(
    tmp_path: Path, common: dict, own: dict, message: str
) -> None:
    """An unknown parameter, which papermill would only log, is an error that names the notebook."""
    chosen = profile.Profile("p", common=common, notebooks=own)
    with pytest.raises(InputError, match=message):
        pipeline.run(chosen, tmp_path / "results", tmp_path / "notebooks")
    assert not (tmp_path / "results").exists()


def test_a_parameter_is_checked_by_the_function_that_a_notebook_names(
    write_notebook: Callable[..., Path], run: Callable[..., dict], tmp_path: Path
) -> None:
    """An unknown setting of a training is one sentence, before anything runs."""
    write_notebook(
        "01_x",
        parameters="training: dict = {}  # settings",
        checks={"training": "kdlib.training:TrainingConfig.of"},
    )
    with pytest.raises(InputError, match="01_x.ipynb: training: no setting 'epochs'"):
        run({"training": {"batch_size": 3, "epochs": 5}})
    assert not (tmp_path / "results").exists()


def old_format(notebook: dict) -> dict:
    """Notebook in version 3 of the format, which knows neither kernels nor tags of its own."""
    cells = [
        {"cell_type": "code", "collapsed": False, "input": cell["source"], "language": "python",
         "metadata": cell["metadata"], "outputs": []}
        for cell in notebook["cells"]
    ]  # fmt: skip
    metadata = {"kdlib": notebook["metadata"]["kdlib"], "name": ""}
    sheets = [{"metadata": {}, "cells": cells}]
    return {"nbformat": 3, "nbformat_minor": 0, "metadata": metadata, "worksheets": sheets}


def without(*keys: str) -> Callable[[dict], dict]:
    """Return a function that drops keys of a notebook's metadata."""

    def change(notebook: dict) -> dict:
        kept = {key: value for key, value in notebook["metadata"].items() if key not in keys}
        return notebook | {"metadata": kept}

    return change


@pytest.mark.parametrize(
    "change",
    [without("kernelspec", "language_info"), old_format],
    ids=["neither kernel nor language", "version 3"],
)
def test_a_notebook_needs_no_kernel_of_its_own(
    change: Callable[[dict], dict],
    write_notebook: Callable[..., Path],
    run: Callable[..., dict],
    tmp_path: Path,
) -> None:
    """Parameters are read and replaced, and cells run, in any version of the format."""
    path = write_notebook("01_x", WRITE_X, parameters=FACTOR, writes=["x.txt"])
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert notebook.read(path).parameters["factor"] == notebook.Parameter(
        "factor", "int", "3", "what is written"
    )
    run({"factor": 5})
    assert (tmp_path / "results" / "x.txt").read_text() == "5"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"kdlib": []}, "metadata kdlib and kdlib.checks must be mappings"),
        ({"kdlib": {"checks": []}}, "metadata kdlib and kdlib.checks must be mappings"),
        ({"kdlib": {"reads": "x.nc"}}, "metadata kdlib.reads must be a list of file names"),
        ({"kdlib": {"checks": {"factor": "absent:f"}}}, "kdlib.checks: No module named 'absent'"),
    ],
)
def test_wrong_declarations_of_a_notebook_are_one_sentence(
    metadata: dict, message: str, write_notebook: Callable[..., Path], run: Callable[..., dict]
) -> None:
    """A notebook of one's own is named with the key of its metadata that is wrong."""
    path = write_notebook("01_x", parameters=FACTOR)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metadata": metadata}))
    with pytest.raises(InputError, match=f"01_x.ipynb: .*{re.escape(message)}"):
        run({"factor": 4})


def test_missing_parameters_cell_is_refused(
    write_notebook: Callable[..., Path], run: Callable[..., dict]
) -> None:
    """Papermill would inject the parameters at the top, where the defaults undo them."""
    write_notebook("01_bare", "1 + 1", parameters=None)
    with pytest.raises(
        InputError, match=r"01_bare.ipynb: .* one cell tagged 'parameters', found 0"
    ):
        run()


@pytest.mark.usefixtures("chain", "_without_kernels")
def test_only_names_the_maker_of_a_missing_input(run: Callable[..., dict]) -> None:
    """`--only` takes a prefix, and what the notebook reads must be there."""
    with pytest.raises(InputError, match=r"x.txt, which is missing: run notebook 01_x first"):
        run(only="02")
    with pytest.raises(InputError, match="no notebook starts with '7'"):
        run(only="7")
    assert list(run(only="01")) == ["01_x"]
    assert list(run(only="02")) == ["02_y"]


def test_failed_notebook_is_kept_and_its_dependents_wait(
    write_notebook: Callable[..., Path], run: Callable[..., dict], tmp_path: Path
) -> None:
    """The message names the copy with the traceback; once fixed, the run resumes from there."""
    write_notebook("01_x", "1 / 0", parameters=FACTOR, writes=["x.txt"])
    write_notebook("02_y", WRITE_Y, reads=["x.txt"], writes=["y.txt"])
    failed = tmp_path / "results" / "notebooks" / "01_x.failed.ipynb"
    with pytest.raises(pipeline.StepFailed, match=rf"ZeroDivisionError\); open {failed}"):
        run()
    assert "ZeroDivisionError" in failed.read_text()
    assert not (tmp_path / "results" / "notebooks" / "01_x.ipynb").exists()
    assert not (tmp_path / "results" / "notebooks" / "02_y.ipynb").exists()
    write_notebook("01_x", WRITE_X, parameters=FACTOR, writes=["x.txt"])
    assert set(run()) == {"01_x", "02_y"}
    assert not failed.exists()


def test_bad_input_found_inside_a_notebook_keeps_its_message(
    write_notebook: Callable[..., Path], run: Callable[..., dict]
) -> None:
    """An `InputError` raised in a kernel is one in the command, too."""
    raises = "from kdlib.errors import InputError\nraise InputError('file.xyz: frame 3: no forces')"
    write_notebook("01_x", raises)
    with pytest.raises(InputError, match="^01_x: file.xyz: frame 3: no forces$"):
        run()


def test_dead_kernel_is_a_failed_step(
    write_notebook: Callable[..., Path], run: Callable[..., dict]
) -> None:
    """A kernel that the system kills, for its memory say, ends the run with a message."""
    write_notebook("01_x", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(pipeline.StepFailed, match="01_x: its kernel died.*which resumes"):
        run()
    write_notebook("01_x", "1 + 1")
    assert run() == {"01_x": "not run before"}


def test_a_kernel_that_dies_as_it_starts_is_a_failed_step(
    write_notebook: Callable[..., Path], run: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sentence before any cell has run, and nothing half-written is left."""
    folder = write_notebook("01_x", "1 + 1").parent.parent / "results"
    shot = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with monkeypatch.context() as patch:
        spec = kernel._OneKernel().get_kernel_spec("")
        spec.argv = [sys.executable, "-c", shot]
        patch.setattr(kernel._OneKernel, "get_kernel_spec", lambda *_: spec)
        with pytest.raises(pipeline.StepFailed, match="01_x: its kernel died.*which resumes"):
            run()
    assert {path.name for path in (folder / "notebooks").iterdir()} <= {"01_x.failed.ipynb"}
    assert run() == {"01_x": "not run before"}


def test_a_worker_killed_inside_a_notebook_keeps_its_message(
    write_notebook: Callable[..., Path], run: Callable[..., dict]
) -> None:
    """What a sweep says about its workers is what the command says."""
    raises = "from kdlib.errors import WorkerKilled\nraise WorkerKilled('workers died; repeat')"
    write_notebook("01_x", raises)
    with pytest.raises(pipeline.StepFailed, match="^01_x: workers died; repeat$"):
        run()


def test_memory_that_runs_out_in_a_notebook_says_how_to_resume(
    write_notebook: Callable[..., Path], run: Callable[..., dict]
) -> None:
    """Python's own error has no message; that of a process that was killed names its function."""
    for words in ("", "the process of _timed was killed"):
        write_notebook("01_x", f"raise MemoryError({words!r})")
        expected = f"01_x: {words or 'memory ran out'}; repeat the command, which resumes"
        with pytest.raises(pipeline.StepFailed, match=f"^{expected}$"):
            run()


def test_unwritten_file_is_a_failed_step(
    write_notebook: Callable[..., Path], run: Callable[..., dict]
) -> None:
    """A notebook that promises a file and does not write it has failed."""
    write_notebook("01_x", "1 + 1", writes=["x.txt"])
    with pytest.raises(pipeline.StepFailed, match=r"01_x ended without writing .*x.txt"):
        run()


def test_kernel_is_the_python_that_runs_the_command(
    write_notebook: Callable[..., Path], run: Callable[..., dict], tmp_path: Path
) -> None:
    """No installed kernelspec is asked; threads are set and output goes to the log."""
    write_notebook("01_x", "import os, sys\nprint(sys.executable, os.environ['OMP_NUM_THREADS'])")
    run()
    python, threads = (tmp_path / "results" / "logs" / "01_x.log").read_text().split()
    assert Path(python).samefile(sys.executable)
    assert int(threads) >= 1


SLEEPER = dedent("""
    import os, subprocess, sys, time
    from pathlib import Path
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(results_dir, "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(wait)
    child.kill()
    child.wait()
    Path(results_dir, "y.txt").write_text("y")
""")


@pytest.fixture
def slow_run(
    write_notebook: Callable[..., Path], tmp_path: Path
) -> Iterator[Callable[[float], subprocess.Popen]]:
    """Return a function that starts `kdlib run` on a notebook that waits, with a child process."""
    write_notebook("01_x", WRITE_X, parameters=FACTOR, writes=["x.txt"])
    wait = 'results_dir: str = ""  # where the files go\nwait: float = 0.0  # s'
    write_notebook("02_y", SLEEPER, parameters=wait, reads=["x.txt"], writes=["y.txt"])
    started = []

    def start(seconds: float) -> subprocess.Popen:
        (tmp_path / "p.yaml").write_text(f"notebooks: {{02_y: {{wait: {seconds}}}}}")
        command = [sys.executable, "-m", "kdlib", "run", "--profile", tmp_path / "p.yaml"]
        command += ["--results", tmp_path / "results", "--notebooks", tmp_path / "notebooks"]
        # A shell starts its background jobs with SIGINT ignored, and children inherit that.
        heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stderr=pipe, text=True, preexec_fn=heed))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _wait_for(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # dead, and not yet collected by whoever is its parent now


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_run_leaves_no_process_and_resumes(
    slow_run: Callable[[float], subprocess.Popen], tmp_path: Path, signum: signal.Signals
) -> None:
    """However the command ends, kernels and their children end too, and a new run completes."""
    folder = tmp_path / "results"
    process = slow_run(60)
    _wait_for(lambda: (folder / "pids").exists() and (folder / "pids").read_text() != "", "cell")
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    os.kill(process.pid, signum)
    assert process.wait(timeout=60) != 0
    _wait_for(lambda: all(map(_gone, pids)), "kernel and child to end")
    assert not (folder / "notebooks" / "02_y.ipynb").exists()
    if signum != signal.SIGKILL:
        return

    (folder / "notebooks" / ".09_renamed.partial.ipynb").write_text("left by an earlier kill")
    again = slow_run(0)
    _, output = again.communicate(timeout=90)
    assert again.returncode == 0, output
    assert "01_x" not in output
    assert (folder / "y.txt").read_text() == "y"
    names = sorted(path.name for path in (folder / "notebooks").iterdir())
    assert names == ["01_x.ipynb", "01_x.json", "02_y.ipynb", "02_y.json"]


def test_second_run_on_the_same_results_is_refused(
    slow_run: Callable[[float], subprocess.Popen], run: Callable[..., dict], tmp_path: Path
) -> None:
    """Two runs at once would write the same files."""
    process = slow_run(60)
    _wait_for((tmp_path / "results" / "pids").exists, "cell")
    with pytest.raises(
        InputError, match=f"another command is writing here: kdlib run .*process {process.pid} on"
    ):
        run()


@pytest.mark.usefixtures("chain", "_without_kernels")
def test_truncated_record_means_run_again(run: Callable[..., dict], tmp_path: Path) -> None:
    """An unreadable record counts as missing."""
    run(only="01")
    (tmp_path / "results" / "notebooks" / "01_x.json").write_text('{"depends": ')
    assert run(only="01") == {"01_x": "not run before"}


def test_progress_names_steps_that_ran(
    write_notebook: Callable[..., Path], run: Callable[..., dict], terminal: Callable[[], str]
) -> None:
    """The bar shows each notebook's name, and a line is written for each that was not skipped."""
    write_notebook("01_x", "1 + 1")
    shown = []
    for _ in range(2):
        run()
        shown.append(terminal())
    assert ["01_x: 100%" in text for text in shown] == [True, True]
    said = [re.findall(r"01_x: \d+ s \((.*)\)\n", text) for text in shown]
    assert said == [["not run before"], []]


def test_record_says_what_the_step_depended_on(
    write_notebook: Callable[..., Path], run: Callable[..., dict], tmp_path: Path
) -> None:
    """The record holds the key's parts, so that a reader can see what a result came from."""
    cell = WRITE_X + "\nfrom kdlib import units"
    write_notebook("01_x", cell, parameters=FACTOR, writes=["x.txt"])
    run({"factor": 5})
    record = json.loads((tmp_path / "results" / "notebooks" / "01_x.json").read_text())
    assert record["depends"]["parameters"] == {"factor": 5}
    assert list(record["depends"]["modules"]) == ["kdlib.units"]
    digest = hashes.file(tmp_path / "results" / "x.txt")
    assert record["written"] == {"x.txt": digest}
    assert record["key"] == runner.key(record["depends"])
