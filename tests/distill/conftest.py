"""A tiny distillation of ASE's EMT copper, made once."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from kdlib import distill
from kdlib.distill import Plan, partition, workflow

_TINY = Plan(
    "emt", ("Cu",), temperatures=(300.0, 900.0), size="8-8-1", n_atoms=8, n_start=16,
    n_teacher_runs=1, teacher_steps=20, n_trajectories=4, n_steps=100, sample_every=25,
    max_rounds=1, round_epochs=10, final_epochs=40, cutoff=5.0,
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Plan:
    """A plan of seconds on one core, large enough to see an error decrease."""
    return _TINY


@pytest.fixture(scope="package", autouse=True)
def _in_this_process():
    """Trainings and trajectories in a thread: processes of their own take seconds to start."""
    threads = SimpleNamespace(pool=lambda *_, **__: ThreadPoolExecutor(1))
    with pytest.MonkeyPatch.context() as patch:
        for module in (workflow, partition):
            patch.setattr(module, "processes", threads)
        yield


@pytest.fixture(scope="package")
def finished(tiny, tmp_path_factory):
    """Folder and outcome of a delivered distillation."""
    folder = tmp_path_factory.mktemp("distilled")
    outcome = distill.run(tiny, folder)
    distill.deliver(tiny, outcome, folder)
    return folder, outcome
