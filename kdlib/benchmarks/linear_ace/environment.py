"""The Python environment of ace-jax in the cache: JAX is no dependency of kdlib.

Only :mod:`worker` runs there; jobs and results are JSON files.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdlib import progress
from kdlib.datasets import registry
from kdlib.errors import InputError, Unfinished
from kdlib.files import locked, replacing, writing
from kdlib.processes import thread_settings
from kdlib.results.hashes import digest

#: Program that runs in the environment.
WORKER = Path(__file__).with_name("worker.py")
#: File in a finished environment, with the versions of all its packages.
FINISHED = "finished.txt"


def location(requirements: Sequence[str]) -> Path:
    """Folder of the environment with these packages for this Python."""
    name = digest(sys.version, *sorted(requirements))[:12]
    return registry.cache().absolute() / "linear-ace" / f"environment-{name}"


def finished(requirements: Sequence[str]) -> bool:
    """Whether the environment is there."""
    return (location(requirements) / FINISHED).is_file()


def program(requirements: Sequence[str], python: str = sys.executable) -> Path:
    """Python of the environment, which is made with venv and pip if it is missing.

    Parameters
    ----------
    requirements
        What pip installs, e.g. ``ace-jax==0.4.1``.
    python
        Program that makes the environment.

    Raises
    ------
    InputError
        There is no venv, no pip, no network or no such package; nothing is left behind.
    """
    home = location(requirements)
    with locked(home.parent):
        if not finished(requirements):
            _make(home, requirements, python)
    return home / "bin" / "python"


def _make(home: Path, requirements: Sequence[str], python: str) -> None:
    progress.line(f"installing {', '.join(requirements)} into {home}")
    inside = str(home / "bin" / "python")
    pip = [inside, "-I", "-m", "pip", "--disable-pip-version-check"]
    with writing(home):
        shutil.rmtree(home, ignore_errors=True)  # of a process that was killed
        try:
            _said([python, "-I", "-m", "venv", str(home)], requirements)
            _said([*pip, "install", "--quiet", *requirements], requirements)
            versions = _said([*pip, "freeze"], requirements)
            with replacing(home / FINISHED) as part:
                part.write_text(versions, encoding="utf-8")
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise


def _said(command: Sequence[str], requirements: Sequence[str]) -> str:
    """Output of a command; InputError with its last complaint if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        failed, complaint = done.returncode != 0, done.stderr or done.stdout
    except OSError as error:
        failed, complaint = True, str(error)
    if failed:
        reason = _last(complaint)
        raise InputError(
            f"linear ACE: an environment with {', '.join(requirements)} cannot be made ({reason}); "
            "it needs venv, pip and a network, once"
        )
    return done.stdout


def call(python: Path, stage: str, job: Mapping[str, Any], threads: int = 1) -> dict[str, Any]:
    """Return the result of one stage of the worker, run with so many threads.

    Raises
    ------
    Unfinished
        The worker failed or was killed; gives its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, result, log = (Path(folder) / name for name in ("job.json", "result.json", "log"))
        given.write_text(json.dumps({**job, "threads": threads}), encoding="utf-8")
        command = [python, "-I", WORKER, stage, given, result]
        code = _watched([str(word) for word in command], log, threads)
        if code != 0 or not result.is_file():
            said = _last(log.read_text(encoding="utf-8", errors="replace"))
            reason = (
                "it was killed, as the system does when memory runs out"
                if code == -signal.SIGKILL
                else said
            )
            raise Unfinished(f"linear ACE: {stage} broke off: {reason}")
        return json.loads(result.read_text(encoding="utf-8"))


def _watched(command: Sequence[str], log: Path, threads: int) -> int:
    """Exit code of a command that ends with this process: the worker waits for its input's end."""
    settings = {**os.environ, **thread_settings(threads)}
    with (
        log.open("w", encoding="utf-8") as words,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=words, stderr=words, env=settings
        ) as process,
    ):
        try:
            return process.wait()
        finally:
            process.kill()


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no reason given"])[-1].removeprefix("ERROR: ")
