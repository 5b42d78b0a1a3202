"""Small physical systems, models and notebooks that several test modules share."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import hipnn, progress


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread: reductions are then the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _nobody_looks(monkeypatch):
    """Progress as in a script, whatever command an earlier test has run."""
    monkeypatch.setattr(progress, "_mode", "automatic")


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Make standard error a terminal; returns a function that reads what appeared there."""
    monkeypatch.setattr(progress, "_in_terminal", lambda: True)
    return lambda: capsys.readouterr().err


def rattled(n: int = 2, seed: int = 0, amplitude: float = 0.15) -> Atoms:
    """Aluminum crystal with every atom displaced, so that nothing vanishes by symmetry."""
    atoms = bulk("Al", a=4.1, cubic=True) * (n, n, n)
    atoms.rattle(amplitude, seed=seed)
    return atoms


@pytest.fixture
def crystal() -> Atoms:
    """32 rattled aluminum atoms."""
    return rattled()


def emt_cells(element: str, shortest: float, longest: float) -> list[Atoms]:
    """Forty 4-atom cells labeled by ASE's EMT, with lattice constants in a range."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(40):
        atoms = bulk(element, a=rng.uniform(shortest, longest), cubic=True)
        atoms.rattle(0.15, seed=k)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        atoms.info["frame"] = k
        frames.append(atoms)
    return frames


@pytest.fixture(scope="session")
def emt_frames() -> list[Atoms]:
    """Forty aluminum cells, cheap to train on."""
    return emt_cells("Al", 3.9, 4.3)


@pytest.fixture(scope="session")
def copper_frames() -> list[Atoms]:
    """Forty copper cells, of another species and with other distances."""
    return emt_cells("Cu", 3.4, 3.8)


def _frame(atoms: Atoms, frame: int) -> Atoms:
    """A frame of a dataset, without forces."""
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((len(atoms), 3)))
    atoms.info["frame"] = frame
    return atoms


@pytest.fixture
def alloys() -> list[Atoms]:
    """Ordered CuAu cells of five densities, and one of pure copper."""
    frames = []
    for k, a in enumerate((3.7, 3.8, 3.9, 4.0, 4.1)):
        atoms = bulk("Cu", a=a, cubic=True)
        atoms.symbols[:2] = "Au"
        frames.append(_frame(atoms, k))
    return [*frames, _frame(bulk("Cu", a=3.6, cubic=True), 9)]


@pytest.fixture
def molecules() -> list[Atoms]:
    """Isolated dimers."""
    return [_frame(Atoms("CuAu", [[0, 0, 0], [d, 0, 0]]), k) for k, d in enumerate((2.3, 2.5))]


@pytest.fixture
def small_config() -> hipnn.HipnnConfig:
    """A HIP-NN that trains within seconds, in float64."""
    return hipnn.HipnnConfig(6, 5, 1, dtype="float64", cutoff=5.0, soft_max=4.5)


class Classical(hipnn.Potential):
    """A potential whose calculator is ASE's EMT, which includes aluminum."""

    def calculator(self, **options: object) -> EMT:
        """Stable forces without training."""
        return EMT()


@pytest.fixture(scope="session")
def classical() -> Classical:
    """EMT under the name of a small architecture."""
    return Classical(hipnn.build(hipnn.HipnnConfig(4, 5, 1)))


@pytest.fixture(scope="session")
def project() -> Path:
    """Root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture
def write_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small notebook into `tmp_path/notebooks`."""

    def write(
        name: str,
        *cells: str,
        parameters: str | None = 'results_dir: str = ""  # where the files go',
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
        **declared: object,
    ) -> Path:
        code = [nbformat.v4.new_code_cell(source) for source in cells]
        if parameters is not None:
            tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
            code.insert(0, tagged)
        notebook = nbformat.v4.new_notebook(
            cells=code,
            metadata={
                "kdlib": {"reads": list(reads), "writes": list(writes), **declared},
                # installed nowhere: the run must not look for it
                "kernelspec": {"name": "no-such-kernel", "display_name": "none"},
                "language_info": {"name": "python"},
            },
        )
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and a function that sets its size, or makes it read-only."""
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
