"""Commands and workers that are killed, and resume; `make test-faults` does it at many moments."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from faults import moments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up there"),
]
MOMENTS = [0.25, 0.6]


@pytest.fixture
def survives(tmp_path):
    """Return a function that kills a command at two moments and says what differs in the end."""

    def run(work):
        unbroken = moments.reference(work, tmp_path)
        kills, found = moments.survive(work, tmp_path / "killed", unbroken, MOMENTS)
        assert len(kills) == len(MOMENTS)
        return found

    return run


def test_a_distillation_survives_two_kills(survives, tmp_path):
    """Weights, labels and measurements are those of unbroken work, and nothing is left over."""
    distill = moments.distillation(tmp_path / "distillation.py")
    moments.finish(distill, tmp_path / "compiled")
    assert survives(distill) == []


def test_a_run_survives_two_kills(survives, tmp_path):
    """Weights, histories and results are those of an unbroken run, and nothing is left over."""
    settings = {"batch_size": 32, "max_epochs": 4}
    common = {"teacher_architecture": [8, 6, 1], "seeds": [0, 1], "training": settings}
    path = tmp_path / "brief.yaml"
    path.write_text(yaml.safe_dump({"common": common | {"workers": 2}}))
    assert survives(moments.pipeline("--profile", str(path), "--only", "02")) == []


def test_a_killed_worker_of_a_distillation_is_one_sentence(tmp_path):
    """As when memory runs out: one line that says so and how to resume, and code 1."""
    command = [sys.executable, "-m", "kdlib", "distill", "--teacher", "emt", "--structure", "Cu"]
    command += ["--size", "8-6-1", "--no-report", "--out", tmp_path / "out"]
    marked = os.environ | {moments.MARK: tmp_path.name, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=marked) as process:
        _shoot_a_worker(tmp_path.name, process)
        _, error = process.communicate()
    assert process.returncode == 1
    last = "kdlib: a worker process was killed, as the system does when memory runs out; "
    assert error.splitlines()[-1].startswith(last)
    assert "Traceback" not in error
    assert moments.newest(tmp_path / "out") != "nothing yet"
    assert not list((tmp_path / "out").rglob(".*"))


def _shoot_a_worker(mark: str, process: subprocess.Popen) -> None:
    """Kill the first worker process of a command with SIGKILL."""
    while process.poll() is None:
        for pid in moments.processes_of(mark):
            if b"spawn_main" in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                time.sleep(1.0)
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.05)
    raise AssertionError("the command ended before it had workers")
