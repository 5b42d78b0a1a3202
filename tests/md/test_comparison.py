"""Models against DFT on crystals, with EMT in the place of both."""

import numpy as np
import pytest
import xarray as xr
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from al_pbe import records
from kdlib import figures
from kdlib.md import crystals
from kdlib.md.crystals import CrystalProtocol

PROTOCOL = CrystalProtocol(ratios=(0.85, 0.90, 0.95, 1.0, 1.05, 1.10), vacancy_steps=3)


class Trained:
    """In the place of a trained potential: the teacher is EMT, the student a pair potential."""

    def __init__(self, role: str) -> None:
        self.role = role

    def calculator(self, backend: str, device: str):
        """Calculator, whatever the backend."""
        pairs = LennardJones(sigma=2.55, epsilon=0.4, rc=7.0, ro=6.0, smooth=True)
        return EMT() if self.role == "teacher" else pairs


@pytest.fixture(scope="module")
def accuracy():
    """A teacher of one size and two students of another; no student of the teacher's size."""
    dims = ("role", "architecture", "seed", "split")
    force = np.full((2, 2, 2, 1), np.nan)
    force[0, 0, :], force[1, 1, :] = 0.1, 0.2
    names = ["teacher", "student"], ["128-40-4", "16-8-1"], [0, 1], ["test"]
    return xr.Dataset({"force_rmse": (dims, force)}, dict(zip(dims, names, strict=True)))


@pytest.fixture(scope="module")
def compared(accuracy, tmp_path_factory):
    """Both roles beside what EMT, as DFT, says of the crystals."""
    folder = tmp_path_factory.mktemp("dft")
    physics = records.physics(folder, protocol=PROTOCOL, make=lambda *_: EMT())
    found = crystals.models(lambda role, architecture, seed: Trained(role), accuracy, PROTOCOL)
    return crystals.compare(found, physics)


def test_model_that_is_the_reference_has_no_deviation(compared):
    """EMT against EMT: equal curves and numbers; the pair potential differs in all of them."""
    teacher = {"role": "teacher", "architecture": "128-40-4"}
    np.testing.assert_allclose(
        compared.energy.sel(teacher).transpose("seed", "structure", "ratio"),
        np.broadcast_to(compared.reference_energy, (2, 3, 6)),
    )
    numbers = compared.value.sel(teacher).mean("seed")
    np.testing.assert_allclose(numbers, compared.reference_value, rtol=1e-6)
    student = compared.value.sel(role="student", architecture="16-8-1", seed=0)
    assert (abs(student / compared.reference_value - 1).dropna("quantity") > 1e-3).all()


def test_models_that_were_not_trained_are_missing(compared):
    """There is no teacher of the students' size."""
    assert compared.value.sel(role="teacher", architecture="16-8-1").isnull().all()


def test_table_stands_models_beside_both_kinds_of_dft(compared):
    """A row for each quantity, with its unit."""
    found = crystals.table(compared)
    assert found.columns.tolist() == ["unit", "DFT, label", "DFT, converged", "teacher", "student"]
    assert found.unit.to_dict() == crystals.QUANTITIES
    np.testing.assert_allclose(
        found.teacher.astype(float), found["DFT, label"].astype(float), rtol=1e-6
    )


def test_comparison_can_be_drawn(compared):
    """The figure takes it as it is."""
    assert len(figures.crystals(compared).axes) == 2
