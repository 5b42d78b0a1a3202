"""A tiny distillation of ASE's EMT copper, made once, and frames of a teacher like the student."""

import subprocess

import pytest
from ase.build import bulk

from kdlib import distill, hipnn, teachers
from kdlib.distill import Plan
from kdlib.hipnn import HipnnConfig, Potential

_TINY = Plan(
    "emt", ("Cu",), temperatures=(300.0, 900.0), size="8-8-1", n_start=16, n_teacher_runs=1,
    teacher_steps=20, n_trajectories=4, n_steps=100, sample_every=25, max_rounds=1,
    round_epochs=20, final_epochs=60, cutoff=5.0,
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Plan:
    """Seconds on one core; large enough to see an error fall."""
    return _TINY


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """Folder and outcome of a delivered distillation."""
    folder = tmp_path_factory.mktemp("distilled")
    outcome = distill.run(tiny, folder)
    distill.deliver(tiny, outcome, folder)
    return folder, outcome


@pytest.fixture(scope="session")
def teacher():
    """An untrained model in double precision, with a stress and atomic energies."""
    config = HipnnConfig(8, 8, 1, species=("Cu",), cutoff=5.0, soft_max=4.5, dtype="float64")
    return Potential(hipnn.build(config, seed=1))


@pytest.fixture
def frames(teacher):
    """Four cells labelled by it, two of them said to be melts."""
    labeller, found = teachers.load(teacher.calculator(device="cpu")), []
    for k in range(4):
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        atoms.rattle(0.1, seed=k)
        atoms.info["molten"] = k >= 2
        found.append(labeller.label(atoms))
    return found


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and a function that sets its size."""
    mount = tmp_path / "disk"
    mount.mkdir()

    def resize(size, options="remount,"):
        command = ["mount", "-t", "tmpfs", "-o", f"{options}size={size}", "tmpfs", mount]
        subprocess.run(command, check=True, capture_output=True)

    try:
        resize("60k", "")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs is not allowed here")
    yield mount, resize
    subprocess.run(["umount", "-l", mount], check=True)
