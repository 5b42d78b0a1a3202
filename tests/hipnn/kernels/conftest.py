"""Systems on which every fused result is compared with hippynn, and hippynn without shortcuts."""

import importlib.util
from collections.abc import Callable

import hippynn
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from kdlib import hipnn


def _crystal() -> Atoms:
    return bulk("Al", a=4.1, cubic=True) * (3, 3, 3)


def _liquid() -> Atoms:
    atoms = bulk("Al", a=4.3, cubic=True) * (3, 3, 3)
    atoms.rattle(0.4, seed=3)
    return atoms


def _triclinic() -> Atoms:
    atoms = _liquid()
    strain = np.array([[1.0, 0.3, -0.2], [0.0, 0.9, 0.4], [0.0, 0.0, 1.1]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return atoms


def _own_images() -> Atoms:
    atoms = bulk("Al", a=4.0)
    atoms.set_cell(atoms.cell.array * [[1.0], [1.07], [0.94]], scale_atoms=True)
    return atoms


def _apart() -> Atoms:
    positions = [[0, 0, 0], [2.6, 0.4, 0], [1.0, 2.7, 0.3], [30, 0, 0], [60, 0, 0], [60, 3, 1]]
    return Atoms("Al6", positions=positions)


def _alloy() -> Atoms:
    atoms = _liquid()
    atoms.symbols = np.random.default_rng(5).choice(["Al", "Cu"], len(atoms))
    return atoms


SYSTEMS = {
    "crystal": _crystal,
    "liquid": _liquid,
    "triclinic": _triclinic,
    "own images": _own_images,
    "apart": _apart,
    "alloy": _alloy,
}


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> Atoms:
    """Each of the systems in turn."""
    return SYSTEMS[request.param]()


@pytest.fixture
def liquid() -> Atoms:
    """108 atoms, far from any symmetry."""
    return _liquid()


@pytest.fixture
def alloy() -> Atoms:
    """108 atoms of two species."""
    return _alloy()


@pytest.fixture(params=[0, 1], ids=["l0", "l1"])
def l_max(request: pytest.FixtureRequest) -> int:
    """Tensor orders that have fused kernels."""
    return request.param


@pytest.fixture
def model() -> Callable[..., hipnn.HipnnModule]:
    """Make a small model whose weights are random but reproducible."""

    def make(dtype: str = "float64", l_max: int = 1, **changes: object) -> hipnn.HipnnModule:
        settings = {"n_features": 12, "n_sensitivities": 7, "n_atom_layers": 2} | changes
        settings.setdefault("species", ("Al", "Cu"))
        return hipnn.build(hipnn.HipnnConfig(dtype=dtype, l_max=l_max, **settings), seed=1)

    return make


@pytest.fixture
def exact_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hippynn sum environments as its equation says.

    Its default CPU kernel leaves out sensitivities below 1e-10, a relative error of up to 1e-10.
    Its pure torch kernel goes through torch.compile, and its sparse one knows no two pairs between
    the same atoms.
    """

    def envsum(sensitivity: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
        terms = sensitivity[:, :, None] * features[second][:, None, :]
        return torch.zeros(len(features), *terms.shape[1:], dtype=terms.dtype).index_add(
            0, first, terms
        )

    monkeypatch.setattr(hippynn.custom_kernels, "envsum", envsum)


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The CPU with Triton's interpreter, or a CUDA device; skips where there is none.

    A process can have one of them only: a kernel is interpreted or compiled from its import on.
    """
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    has_cuda = torch.cuda.is_available()
    if request.param == "cuda":
        if not has_cuda:
            pytest.skip("no CUDA device")
        return torch.device("cuda")
    if has_cuda:
        pytest.skip("the kernels are compiled for CUDA in this process")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    from kdlib.hipnn.device import pairs

    if not pairs.INTERPRETED:
        pytest.skip("the kernels were imported without the interpreter")
    return torch.device("cpu")
