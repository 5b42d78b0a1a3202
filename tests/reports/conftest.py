"""Models, frames and processes that the tests after public bug reports share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from kdlib import datasets, hipnn
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential


@pytest.fixture(scope="session")
def untrained() -> Callable[..., Potential]:
    """Return a function that builds a small untrained model of these species."""

    def build(species: tuple[str, ...] = ("Al",), **options: object) -> Potential:
        settings = {"cutoff": 5.0, "soft_max": 4.5, "dtype": "float64"} | options
        return Potential(hipnn.build(HipnnConfig(8, 6, 1, species=species, **settings), seed=1))

    return build


@pytest.fixture(scope="session")
def aluminum() -> list[Atoms]:
    """The first forty frames of al-pbe."""
    return datasets.load("al-pbe")[:40]


@pytest.fixture
def labeled_copper() -> Callable[[int], list[Atoms]]:
    """Return a function that makes rattled copper cells with EMT's labels, as a file holds them."""

    def make(count: int) -> list[Atoms]:
        frames = []
        for seed in range(count):
            atoms = bulk("Cu", cubic=True)
            atoms.rattle(0.05, seed=seed)
            atoms.calc = EMT()
            atoms.info["energy"] = atoms.get_potential_energy()
            atoms.arrays["forces"] = atoms.get_forces()
            atoms.calc = None
            frames.append(atoms)
        return frames

    return make


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """Return a function that says with which message a call is refused; nothing if it is not.

    Any error that is not meant for the user comes through and fails the test.
    """

    def message(call: Callable, *args: object, **options: object) -> str:
        try:
            call(*args, **options)
        except InputError as error:
            return str(error)
        return ""

    return message


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Return a function that starts this Python in the test's folder, killed with the test."""
    started = []

    def begin(*arguments: object, prefix: tuple[str, ...] = (), **options: object):
        process = subprocess.Popen(
            [*prefix, sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **{"env": os.environ | {"OMP_NUM_THREADS": "1"}, "cwd": tmp_path} | options,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def finish(start: Callable[..., subprocess.Popen]) -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs this Python to its end, for a limited time."""

    def run(*arguments: object, timeout: float = 120, **options: object):
        process = start(*arguments, **options)
        out, error = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    return run


@pytest.fixture(scope="session")
def ordinary_user() -> tuple[str, ...]:
    """Start of a command that must obey the permissions of files, even where root runs it."""
    if os.geteuid() != 0:
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and there is no setpriv to drop that right")
    rights = "-dac_override,-dac_read_search,-fowner"
    return ("setpriv", "--bounding-set", rights, "--inh-caps", rights)
